"""A finished program: immutable, plain data, the same on every machine."""

from __future__ import annotations

from pylsm.asm.instruction import Instruction, encode
from pylsm.asm.maps import Layout, MapSpec
from pylsm.light import NamedTuple

__all__ = ["Function", "Program"]


class Function(NamedTuple):
    """A function of a program: the entry (first) or a subprogram.

    ``start``: index of its first instruction in ``Program.instructions`` (an index, not a slot).
    ``arguments``: how many of r1-r5 it takes.
    """

    name: str
    start: int
    arguments: int


class Program(NamedTuple):
    """What `Asm.build` makes and the loader loads.

    Attributes:
        name: the program's name in the kernel (at most 15 characters are shown).
        section: what it is and where it attaches, in libbpf's section syntax: "lsm/file_open", "raw_tp/sys_exit",
            "fentry/FUNC", "tp_btf/NAME", "socket", "xdp", "syscall", …
        instructions: with references still by symbol.
        functions: the entry first, then subprograms, in the order of their instructions.
        maps: the maps it refers to, by `MapSpec`.
        license: what the kernel is told ("GPL" unlocks GPL-only helpers).
        records: layouts to be described in the program's BTF beside those of its maps.
    """

    name: str
    section: str
    instructions: tuple[Instruction, ...]
    functions: tuple[Function, ...]
    maps: tuple[MapSpec, ...] = ()
    license: str = "GPL"
    records: tuple[Layout, ...] = ()

    @property
    def slots(self) -> int:
        """Length in 8-byte slots, as the kernel counts instructions."""
        return sum(i.slots for i in self.instructions)

    def slot_of(self, index: int) -> int:
        """The slot that instruction ``index`` starts at."""
        return sum(i.slots for i in self.instructions[:index])

    def encode(self, byteorder: str = "little") -> bytes:
        """The bytes with unresolved references as zero fields; see `pylsm.asm.instruction.encode`."""
        return encode(self.instructions, byteorder)

    def listing(self) -> str:
        """The program with each source line in front of the instructions it made; see `pylsm.asm.disasm.listing`."""
        from pylsm.asm.disasm import listing

        return listing(self)

    def map(self, name: str) -> MapSpec | None:
        """The map of that name, or None."""
        return next((m for m in self.maps if m.name == name), None)
