"""Programs → `Image`: every reference resolved against the kernel's types, BTF written. Nothing is created."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

from pylsm.asm.instruction import encode
from pylsm.asm.maps import MapSpec
from pylsm.asm.program import Program
from pylsm.asm.references import MapRef, MapValueRef
from pylsm.light import TYPE_CHECKING
from pylsm.loader.errors import ResolveError, SpecError
from pylsm.loader.image import Image, MapImage, ProgramImage
from pylsm.loader.progbtf import map_btf, program_btf
from pylsm.loader.relocate import Known, resolve
from pylsm.loader.sections import Section, parse_section

if TYPE_CHECKING:
    from pylsm.btf import Btf

__all__ = ["prepare", "prepare_program"]


def prepare(programs: Sequence[Program], *, maps: Iterable[MapSpec] = (), btf: Btf | None = None) -> Image:
    """What `pylsm.loader.Object` loads.

    Args:
        programs: the programs; their maps are taken from ``Program.maps``.
        maps: further maps, or other sizes for maps of the programs (by name).
        btf: types of the running kernel; by default its own, read only if a program needs any.

    Raises:
        SpecError: two programs (or two maps) of one name that differ, or an unknown section.
        ResolveError: a type, field or function that this kernel does not have.
    """
    specs = _specs(programs, maps)
    names = [program.name for program in programs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecError(f"two programs are called {twice!r}")
    known: Known = {}
    return Image(
        tuple(_map_image(spec) for spec in specs.values()),
        tuple(prepare_program(program, specs, btf=btf, known=known) for program in programs),
    )


def prepare_program(
    program: Program,
    maps: Iterable[str],
    *,
    btf: Btf | None = None,
    known: Known | None = None,
    source_lines: bool = True,
) -> ProgramImage:
    """One program; see `pylsm.loader.LoadedProgram.load` for the arguments.

    Raises:
        SpecError: an unknown section.
        ResolveError: a map, type, field or function that is not there.
    """

    def kernel() -> Btf:
        if btf is not None:
            return btf
        from pylsm.btf import Btf as Reader

        return Reader.kernel()

    section = parse_section(program.section)
    descriptors: Mapping[str, int] = dict.fromkeys(maps, 0)
    instructions = resolve(program, descriptors, kernel, known)
    attach_id = _attach_id(program, section, kernel)
    types, refusal = program_btf(program) if source_lines else (None, "")
    references = []
    slot = 0
    for instruction in program.instructions:
        if isinstance(instruction.reference, (MapRef, MapValueRef)):
            references.append((slot, instruction.reference.name))
        slot += instruction.slots
    return ProgramImage(
        program.name,
        program.section,
        program.license,
        attach_id,
        encode(instructions, sys.byteorder),
        tuple(references),
        types,
        refusal,
    )


def _map_image(spec: MapSpec) -> MapImage:
    return MapImage(spec.name, spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags, map_btf(spec))


def _specs(programs: Sequence[Program], maps: Iterable[MapSpec]) -> dict[str, MapSpec]:
    """Every map by name; two programs that name the same map have to mean the same."""
    given = {spec.name: spec for spec in maps}
    specs: dict[str, MapSpec] = {}
    for program in programs:
        for spec in program.maps:
            other = specs.setdefault(spec.name, spec)
            if _key(other) != _key(spec):
                raise SpecError(f"map {spec.name!r} is {other} in one program and {spec} in {program.name!r}")
    for name, spec in given.items():
        used = specs.get(name)
        if used is not None and _key(used)[:3] != _key(spec)[:3]:
            raise SpecError(f"map {name!r} is {spec}, but the programs use {used}")
    return {**specs, **given}


def _key(spec: MapSpec) -> tuple[int, int, int, int, int]:
    return (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)


def _attach_id(program: Program, section: Section, kernel: Callable[[], Btf]) -> int:
    """The BTF id of what an LSM or tracing program attaches to, 0 for other types."""
    if not section.btf_kind:
        return 0
    from pylsm.btf import BtfNotFound, Kind

    types: Btf = kernel()
    try:
        return types.find(section.btf_name, Kind.FUNC if section.btf_kind == "func" else Kind.TYPEDEF)
    except BtfNotFound as error:
        what = {"lsm": "LSM hook", "lsm.s": "LSM hook", "lsm_cgroup": "LSM hook", "tp_btf": "tracepoint"}.get(
            section.name.partition("/")[0], "function"
        )
        missing, prefix = error, section.btf_prefix

        def nearest() -> str:
            names = [name[len(prefix) :] for name in missing.nearest if name.startswith(prefix)]
            return f"nearest: {', '.join(names)}" if names else ""

        raise ResolveError(
            f"program {program.name!r} ({section.name}): {types.name} has no {what} {section.target!r} to attach to",
            hint=nearest,
        ) from error
