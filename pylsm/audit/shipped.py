"""The programs that a start without options loads, as an installation brings them along: made when it was built.

Where pylsm starts for the first time on a kernel, they only need to be filled with what that kernel has to say: neither
the programs' modules nor the assembler are imported, and nothing is proved again. What was proved holds on every kernel
but for one thing, which is asked of each: which argument of a hook is the verdict.

The file is written by `build` while the package is built (setup.py, tools/zipapp) from the modules that go into it, and
is nowhere else: a checkout has none, and assembles. It is used only by the version that made it, and only where its
programs are the ones that are asked for.
"""

from __future__ import annotations

import marshal
import os
import sys

import pylsm
from pylsm.audit.sources import PLAIN, SOURCES, Plan
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.loader.image import Image, MapImage, MapTypes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pylsm.asm import MapSpec, Program
    from pylsm.btf import Btf

__all__ = ["FILE", "Shipped", "build"]

#: Where the file lies in the package.
FILE = "share/programs"
#: The programs in it: those of either.
_PLAN = Plan(SOURCES[0].name, SOURCES[0].variants[0])
_PREEMPTED = _PLAN._replace(variant=_PLAN.variant._replace(preempted=True))
#: Of `marshal`: the last without references, which depend on more than the contents.
_FORMAT = 2


def build() -> bytes:
    """The contents of the file: the same for the same modules, on a machine of the same byte order."""
    from pylsm.audit import maps
    from pylsm.loader.prepare import map_image, outline

    parts = {"hooks": _merged(_PLAN.programs(), _PREEMPTED.programs()), "walkers": _PLAN.walkers()}
    everywhere = {program.name for program in _PLAN.walkers()}
    of = {plan: {program.name for program in plan.programs()} | everywhere for plan in (_PLAN, _PREEMPTED)}
    specs: dict[str, MapSpec] = {spec.name: spec for spec in (maps.TRACED, maps.RING)}
    for programs in parts.values():
        specs.update({spec.name: spec for program in programs for spec in program.maps})
    always = {program.name for plan in of for program in plan._replace(events=()).programs()}
    event_of = {}
    for event in _PLAN.events:
        alone = _PLAN._replace(events=(event,))
        event_of.update({program.name: event for program in (*alone.programs(), *alone.walkers())})
    event_of.update(dict.fromkeys(always, ""))
    contents = (
        pylsm.__version__,
        sys.byteorder,
        tuple(map_image(spec) for spec in specs.values()),
        tuple(
            (
                part,
                tuple(
                    # Each by itself: only those that are asked for are read.
                    (
                        event_of[program.name],
                        tuple(plan.variant.preempted for plan, names in of.items() if program.name in names),
                        _verdict(program),
                        _dumped(outline(program, specs).pack()),
                    )
                    for program in programs
                ),
            )
            for part, programs in parts.items()
        ),
    )
    return _dumped(contents)


def _merged(one: list[Program], other: list[Program]) -> list[Program]:
    """The programs of both, in an order that is that of each."""
    names = {program.name for program in other}
    merged: list[Program] = []
    rest = list(one)
    for program in other:
        if any(program.name == each.name for each in rest):
            while rest[0].name not in names:
                merged.append(rest.pop(0))
            rest.pop(0)
        merged.append(program)
    return merged + rest


def _dumped(contents: Any) -> bytes:
    return marshal.dumps(_plain(contents), _FORMAT)


def _plain(value: Any) -> Any:
    """The same without names for numbers and for places in tuples, which `marshal` does not take."""
    if isinstance(value, tuple):
        return tuple(_plain(each) for each in value)
    return int(value) if isinstance(value, int) else value


def _verdict(program: Program) -> int:
    """With which argument as the verdict a program is proved to observe only; -1 for one that cannot veto.

    Raises:
        NotProved: with none.
    """
    from pylsm.asm.proof import NotProved
    from pylsm.asm.verify import returns_unchanged, why_no_veto
    from pylsm.audit.proof import TAIL_CALLS

    if why_no_veto(program.section):
        returns_unchanged(program, None, tail_calls=TAIL_CALLS)
        return -1
    for argument in range(6):
        try:
            returns_unchanged(program, argument, tail_calls=TAIL_CALLS)
        except NotProved:
            continue
        return argument
    raise NotProved(f"program {program.name!r} returns no argument of its hook as it is")


class Shipped:
    """What this installation brings along; nothing, where it brings nothing that fits."""

    def __init__(self) -> None:
        self._maps: dict[str, MapImage] = {}
        self._parts: dict[str, Any] = {}
        try:
            # By the loader, which may be one of archives.
            loader: Any = pylsm.__loader__
            data = loader.get_data(os.path.join(os.path.dirname(pylsm.__file__), FILE))
            version, byteorder, maps, parts = marshal.loads(data)
        except (OSError, ValueError, EOFError, TypeError):
            return
        if (version, byteorder) == (pylsm.__version__, sys.byteorder):
            self._parts = dict(parts)
            for row in maps:
                map = MapImage._make(row)
                self._maps[map.name] = map._replace(types=MapTypes._make(map.types) if map.types else None)

    def maps(self, sizes: Mapping[str, int]) -> Image | None:
        """An image of maps alone, by name with their sizes (`MapSpec.max_entries`); None where one is not brought
        along."""
        if not sizes.keys() <= self._maps.keys():
            return None
        return Image(tuple(self._maps[name]._replace(max_entries=size) for name, size in sizes.items()), ())

    def programs(self, plan: Plan, part: str) -> Image | None:
        """The programs of a plan for the running kernel.

        Args:
            plan: of an audit.
            part: "hooks", those that are attached, or "walkers".

        Returns:
            None where they are not brought along, or do not fit this kernel: to assemble them says why not.
        """
        if part not in self._parts or plan[:2] not in (_PLAN[:2], _PREEMPTED[:2]) or plan.options != PLAIN:
            return None
        if not set(plan.events) <= set(_PLAN.events):
            return None
        from pylsm.loader.template import Template

        wanted = ("", *plan.events)
        chosen = [entry for entry in self._parts[part] if entry[0] in wanted and plan.variant.preempted in entry[1]]
        templates = [Template.unpack(marshal.loads(packed)) for *_, packed in chosen]
        used = dict.fromkeys(name for template in templates for name in template.maps)
        known: dict[Any, Any] = {}
        try:
            kernel = _kernel()
            for (*_, verdict, _), template in zip(chosen, templates):
                if verdict >= 0 and _argument(template.image.section, kernel) != verdict:
                    return None
            programs = tuple(template.fill(lambda: kernel, known) for template in templates)
        except PylsmError:
            return None
        return Image(tuple(self._maps[name] for name in used), programs)


def _kernel() -> Btf:
    """The running kernel's types."""
    from pylsm.btf.reader import Btf
    from pylsm.loader.kernel_types import kernel_types

    data = kernel_types()
    return Btf.kernel() if data is None else Btf(data, name=f"kernel {os.uname().release}")


def _argument(section: str, kernel: Btf) -> int | None:
    """Which argument of an LSM hook holds the verdict; see `pylsm.audit.proof.verdict_argument`, which imports more."""
    function = kernel.func_proto(f"bpf_lsm_{section.partition('/')[2]}")
    return len(function.params) if function.return_type_id else None
