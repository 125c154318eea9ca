"""A program as far as it is the same on every kernel, and what is left to ask of one: `Template.fill` makes an image.

Every program is prepared by way of it. A template can also be kept as plain data (`Template.pack`), to be filled where
it is loaded: that needs neither the assembler nor the program's source.
"""

from __future__ import annotations

import sys

from pylsm.asm.instruction import Instruction, encode
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.loader.errors import ResolveError
from pylsm.loader.image import ProgramImage, ProgramTypes
from pylsm.loader.relocate import OF_KERNEL, Known, resolve_one
from pylsm.loader.sections import Section, parse_section

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pylsm.btf import Btf

__all__ = ["Template"]


class Template(NamedTuple):
    """A program for any kernel, in the byte order of this machine.

    Attributes:
        image: the program without what only a kernel can say: 0 in its place.
        maps: names of the program's maps.
        asked: (slot, instruction with the reference that the kernel fills in there).
    """

    image: ProgramImage
    maps: tuple[str, ...]
    asked: tuple[tuple[int, Instruction], ...]

    def fill(self, kernel: Callable[[], Btf], known: Known | None = None) -> ProgramImage:
        """The program for a kernel.

        Args:
            kernel: gives its types; called only if they are needed.
            known: what is found is kept here, for further programs on the same kernel.

        Raises:
            SpecError: an unknown section.
            ResolveError: a type, field or function that this kernel does not have.
        """
        known = {} if known is None else known
        code = bytearray(self.image.code)
        for slot, instruction in self.asked:
            found = encode((resolve_one(instruction, self.image.name, kernel, known),), sys.byteorder)
            code[slot * 8 : slot * 8 + len(found)] = found
        section = parse_section(self.image.section)
        return self.image._replace(code=bytes(code), attach_id=_attach_id(self.image.name, section, kernel))

    def pack(self) -> tuple[Any, ...]:
        """The same as tuples, strings, bytes and numbers, for `marshal`; without the source lines of ``asked``, which
        the records of ``image.types`` have too."""
        asked = [
            ((slot, i.opcode, i.dst, i.src, i.off, i.imm), type(i.reference).__name__, tuple(i.reference or ()))
            for slot, i in self.asked
        ]
        name, section, license, _, code, references, types, refusal = self.image
        image = (name, section, license, 0, code, references, tuple(types) if types else None, refusal)
        return (image, self.maps, tuple(asked))

    @classmethod
    def unpack(cls, packed: tuple[Any, ...]) -> Template:
        """What `pack` made of it."""
        image, maps, asked = packed
        made = ProgramImage._make(image)
        if made.types:
            made = made._replace(types=ProgramTypes._make(made.types))
        kinds = {kind.__name__: kind for kind in OF_KERNEL}
        found = []
        for (slot, opcode, dst, src, off, imm), kind, reference in asked:
            found.append((slot, Instruction(opcode, dst, src, off, imm, kinds[kind]._make(reference))))
        return cls(made, maps, tuple(found))


def _attach_id(program: str, section: Section, kernel: Callable[[], Btf]) -> int:
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
            f"program {program!r} ({section.name}): {types.name} has no {what} {section.target!r} to attach to",
            hint=nearest,
        ) from error
