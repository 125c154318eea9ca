"""One eBPF instruction as plain data, and its wire format (RFC 9669 section 3)."""

from __future__ import annotations

import struct

from pylsm.asm import opcodes as op
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pylsm.asm.errors import AsmError, SourceLine
    from pylsm.asm.references import Reference

__all__ = ["Instruction", "decode", "encode"]


def _error(kind: str, message: str, line: SourceLine | None = None) -> AsmError:
    """An error of that class; the module that has them is imported when there is one."""
    from pylsm.asm import errors

    found: AsmError = getattr(errors, kind)(message, line=line)
    return found


class Instruction:
    """An instruction: the five fields of its encoding, and what they stand for.

    Args:
        opcode: the opcode byte.
        dst, src: register numbers 0-10 (``src`` doubles as the kind of a pseudo load or call).
        off: signed 16 bits: bytes for loads and stores, instruction slots for jumps.
        imm: signed 32 bits; for ``lddw`` all 64 bits, stored as given (-2^63 .. 2^64-1).
        reference: what the loader has to fill in, or None.
        line: where the instruction was written, or None.

    Raises:
        RegisterError, RangeError: a field that does not fit; nothing is ever truncated.
    """

    __slots__ = ("dst", "imm", "line", "off", "opcode", "reference", "src")
    _last = 10

    def __init__(
        self,
        opcode: int,
        dst: int = 0,
        src: int = 0,
        off: int = 0,
        imm: int = 0,
        reference: Reference | None = None,
        line: SourceLine | None = None,
    ) -> None:
        if not -0x8000 <= off <= 0x7FFF:
            raise _error("RangeError", f"offset {off} does not fit 16 signed bits", line)
        if not -0x80000000 <= imm <= 0x7FFFFFFF and (opcode != op.LDDW or not op.S64_MIN <= imm <= op.U64_MAX):
            raise _error("RangeError", f"immediate {imm:#x} does not fit {64 if opcode == op.LDDW else 32} bits", line)
        if dst > self._last or src > self._last or dst < 0 or src < 0:
            raise _error("RegisterError", f"r{dst if not 0 <= dst <= 10 else src} is not a register (r0-r10)", line)
        self.opcode = opcode
        self.dst = dst
        self.src = src
        self.off = off
        self.imm = imm
        self.reference = reference
        self.line = line

    @property
    def slots(self) -> int:
        """8-byte slots taken: 2 for ``lddw``, else 1."""
        return 2 if self.opcode == op.LDDW else 1

    def replace(
        self,
        *,
        src: int | None = None,
        off: int | None = None,
        imm: int | None = None,
        opcode: int | None = None,
    ) -> Instruction:
        """A copy with other field values and no reference: what a resolver returns."""
        return type(self)(
            self.opcode if opcode is None else opcode,
            self.dst,
            self.src if src is None else src,
            self.off if off is None else off,
            self.imm if imm is None else imm,
            None,
            self.line,
        )

    def _key(self) -> tuple[object, ...]:
        # 64-bit immediates compare by their bits: -1 and 2^64-1 are the same instruction.
        return (self.opcode, self.dst, self.src, self.off, self.imm & op.U64_MAX, self.reference)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instruction) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        reference = f", {self.reference}" if self.reference else ""
        return f"Instruction({self.opcode:#04x}, r{self.dst}, r{self.src}, {self.off}, {self.imm:#x}{reference})"


def encode(instructions: Iterable[Instruction], byteorder: str = "little") -> bytes:
    """Instructions → bytes, 8 per slot.

    Args:
        instructions: with all that the loader fills in already filled in (a reference is not looked at).
        byteorder: "little" or "big", the target's.
    """
    if byteorder == "little":
        pack, shift_dst, shift_src = struct.Struct("<BBhi").pack, 0, 4
    elif byteorder == "big":
        pack, shift_dst, shift_src = struct.Struct(">BBhi").pack, 4, 0
    else:
        raise _error("OperandError", f"byte order {byteorder!r} is neither 'little' nor 'big'")
    out = []
    for i in instructions:
        registers = i.dst << shift_dst | i.src << shift_src
        if i.opcode != 0x18:
            out.append(pack(i.opcode, registers, i.off, i.imm))
        else:
            low, high = i.imm & 0xFFFFFFFF, i.imm >> 32 & 0xFFFFFFFF
            out.append(pack(i.opcode, registers, i.off, low - (low >> 31 << 32)))
            out.append(pack(0, 0, 0, high - (high >> 31 << 32)))
    return b"".join(out)


class Rewritten(Instruction):
    """An instruction as the kernel gives it back: its rewriting has a register for itself, r11 (BPF_REG_AX)."""

    __slots__ = ()
    _last = 11


def decode(data: bytes, byteorder: str = "little", kind: type[Instruction] = Instruction) -> Iterator[Instruction]:
    """Bytes → instructions, the inverse of `encode`.

    Args:
        data: whole slots.
        byteorder: "little" or "big".
        kind: `Rewritten` for what a kernel gives back.

    Raises:
        OperandError: the length is no multiple of 8, or a ``lddw`` has no well-formed second half.
        RegisterError: a register field above 10.
    """
    if byteorder not in ("little", "big"):
        raise _error("OperandError", f"byte order {byteorder!r} is neither 'little' nor 'big'")
    if len(data) % 8:
        raise _error("OperandError", f"{len(data)} bytes are no whole number of 8-byte instructions")
    little = byteorder == "little"
    slots = struct.iter_unpack("<BBhi" if little else ">BBhi", data)
    for index, (opcode, registers, off, imm) in enumerate(slots):
        dst, src = (registers & 15, registers >> 4) if little else (registers >> 4, registers & 15)
        if opcode == op.LDDW:
            second = next(slots, None)
            if second is None or second[:3] != (0, 0, 0):
                raise _error("OperandError", f"lddw in slot {index} has no second half")
            imm = imm & 0xFFFFFFFF | (second[3] & 0xFFFFFFFF) << 32
        yield kind(opcode, dst, src, off, imm)
