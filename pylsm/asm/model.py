"""A model of RFC 9669 in Python: what a program computes, without a kernel.

It reads bytes and is written from the RFC alone: it shares neither numbers nor decoding with the rest of `pylsm.asm`,
so that it can serve as the oracle for the assembler and, run side by side, for a kernel's interpreter or JIT.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from pylsm.errors import PylsmError

__all__ = ["Machine", "ModelError"]

_M64 = 0xFFFFFFFFFFFFFFFF
_M32 = 0xFFFFFFFF
_STACK_BYTES = 512
_MAX_FRAMES = 8
_REGION_GAP = 0x1_0000_0000
#: Load and store sizes by the two size bits (RFC 9669 table 12).
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}


class ModelError(PylsmError):
    """The program did what a verified program cannot do: a wild access, an undefined instruction, no end."""


def _signed(value: int, bits: int) -> int:
    """The two's complement reading of the low ``bits`` of ``value``."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def _quotient(a: int, b: int) -> int:
    """Signed division towards zero, as C has it."""
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _alu(code: int, dst: int, src: int, off: int, bits: int) -> int:
    """RFC 9669 section 4.1: ``dst`` and ``src`` are already reduced to ``bits``; so is the result."""
    mask = (1 << bits) - 1
    if code == 0x0:
        result = dst + src
    elif code == 0x1:
        result = dst - src
    elif code == 0x2:
        result = dst * src
    elif code == 0x3 and off == 0:
        result = dst // src if src else 0
    elif code == 0x3 and off == 1:
        result = _quotient(_signed(dst, bits), _signed(src, bits)) if src else 0
    elif code == 0x4:
        result = dst | src
    elif code == 0x5:
        result = dst & src
    elif code == 0x6:
        result = dst << (src & bits - 1)
    elif code == 0x7:
        result = dst >> (src & bits - 1)
    elif code == 0x8:
        result = -dst
    elif code == 0x9 and off == 0:
        result = dst % src if src else dst
    elif code == 0x9 and off == 1:
        a, b = _signed(dst, bits), _signed(src, bits)
        result = a - b * _quotient(a, b) if b else a
    elif code == 0xA:
        result = dst ^ src
    elif code == 0xB and off == 0:
        result = src
    elif code == 0xB and off in (8, 16, 32) and off < bits:
        result = _signed(src, off)
    elif code == 0xC:
        result = _signed(dst, bits) >> (src & bits - 1)
    else:
        raise ModelError(f"arithmetic {code:#x} with offset {off} is undefined")
    return result & mask


def _taken(code: int, dst: int, src: int, bits: int) -> bool:
    """RFC 9669 section 4.3: whether the conditional jump ``code`` is taken."""
    s_dst, s_src = _signed(dst, bits), _signed(src, bits)
    conditions: dict[int, bool] = {
        0x1: dst == src,
        0x2: dst > src,
        0x3: dst >= src,
        0x4: bool(dst & src),
        0x5: dst != src,
        0x6: s_dst > s_src,
        0x7: s_dst >= s_src,
        0xA: dst < src,
        0xB: dst <= src,
        0xC: s_dst < s_src,
        0xD: s_dst <= s_src,
    }
    if code not in conditions:
        raise ModelError(f"jump {code:#x} is undefined")
    return conditions[code]


class Machine:
    """One CPU with memory made of separate regions.

    Args:
        code: the encoded program.
        helpers: by number, functions of (machine, r1 … r5) that return r0.
        byteorder: "little" or "big", of code and memory.
        packet: what legacy packet loads read; a load outside it ends the program with 0.
    """

    def __init__(
        self,
        code: bytes,
        *,
        helpers: Mapping[int, Callable[[Machine, int, int, int, int, int], int]] | None = None,
        byteorder: str = "little",
        packet: bytes = b"",
    ) -> None:
        self._end = "<" if byteorder == "little" else ">"
        self._slots = list(struct.iter_unpack(self._end + "BBhi", code))
        self._helpers = dict(helpers or {})
        self._big = byteorder != "little"
        self._packet = packet
        self._regions: list[tuple[int, bytearray]] = []
        self.registers = [0] * 11
        self.steps = 0

    # ---- memory --------------------------------------------------------------------------------------------------

    def map(self, data: bytearray) -> int:
        """Make ``data`` addressable and return its address; the program's stores change it in place."""
        base = (len(self._regions) + 1) * _REGION_GAP
        self._regions.append((base, data))
        return base

    def read(self, address: int, size: int) -> int:
        """The unsigned integer of ``size`` bytes at ``address``."""
        data, at = self._locate(address, size)
        return int.from_bytes(data[at : at + size], "big" if self._big else "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low ``size`` bytes of ``value`` at ``address``."""
        data, at = self._locate(address, size)
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "big" if self._big else "little")

    def _locate(self, address: int, size: int) -> tuple[bytearray, int]:
        for base, data in self._regions:
            if base <= address and address + size <= base + len(data):
                return data, address - base
        raise ModelError(f"{size} bytes at {address:#x} are no memory of this program")

    # ---- execution -----------------------------------------------------------------------------------------------

    def run(self, *arguments: int, limit: int = 1_000_000) -> int:
        """Run from the first instruction to ``exit`` of the outermost frame.

        Args:
            arguments: r1, r2, …
            limit: instructions after which the program is said not to end.

        Returns:
            r0, unsigned, 64 bits.

        Raises:
            ModelError: see there.
        """
        r = self.registers
        r[:] = [0] * 11
        r[1 : 1 + len(arguments)] = [a & _M64 for a in arguments]
        r[10] = self.map(bytearray(_STACK_BYTES)) + _STACK_BYTES
        frames: list[tuple[int, list[int]]] = []
        pc = self.steps = 0
        while True:
            if not 0 <= pc < len(self._slots):
                raise ModelError(f"control left the program at slot {pc}")
            if self.steps >= limit:
                raise ModelError(f"no end after {limit} instructions")
            self.steps += 1
            opcode, registers, off, imm = self._slots[pc]
            dst, src = (registers >> 4, registers & 15) if self._big else (registers & 15, registers >> 4)
            if dst > 10 or src > 10:
                raise ModelError(f"slot {pc} names a register above r10")
            pc += 1
            cls = opcode & 7
            if cls in (4, 7):
                self._arithmetic(opcode, dst, src, off, imm)
            elif cls in (0, 1, 2, 3):
                step = self._memory(pc, opcode, dst, src, off, imm)
                if step is None:
                    return 0
                pc += step
            elif opcode == 0x85 and src == 1:
                if len(frames) + 1 >= _MAX_FRAMES:
                    raise ModelError(f"more than {_MAX_FRAMES} frames")
                frames.append((pc, r[6:11]))
                r[10] = self.map(bytearray(_STACK_BYTES)) + _STACK_BYTES
                pc += imm
            elif opcode == 0x85 and src == 0:
                if imm not in self._helpers:
                    raise ModelError(f"helper {imm} is not given")
                r[0] = self._helpers[imm](self, *r[1:6]) & _M64
            elif opcode == 0x95:
                if not frames:
                    return r[0]
                pc, r[6:11] = frames.pop()
            elif opcode == 0x05:
                pc += off
            elif opcode == 0x06:
                pc += imm
            elif opcode == 0xE5:
                pass  # may_goto: the loop budget of the model is ``limit``, so it is never taken
            else:
                bits = 64 if cls == 5 else 32
                operand = r[src] if opcode & 8 else imm
                if _taken(opcode >> 4, r[dst] & (1 << bits) - 1, operand & (1 << bits) - 1, bits):
                    pc += off

    def _arithmetic(self, opcode: int, dst: int, src: int, off: int, imm: int) -> None:
        r = self.registers
        code = opcode >> 4
        bits = 64 if opcode & 7 == 7 else 32
        mask = (1 << bits) - 1
        if code == 0xD:  # byte swaps, RFC 9669 section 4.2: the width is in imm
            if imm not in (16, 32, 64):
                raise ModelError(f"a byte swap of {imm} bits is undefined")
            value = (r[dst] & (1 << imm) - 1).to_bytes(imm // 8, "little")
            to_big = bool(opcode & 8)
            swap = bits == 64 or to_big != self._big
            r[dst] = int.from_bytes(value, "big" if swap else "little")
            return
        operand = r[src] if opcode & 8 else imm
        r[dst] = _alu(code, r[dst] & mask, operand & mask, off, bits)

    def _memory(self, pc: int, opcode: int, dst: int, src: int, off: int, imm: int) -> int | None:
        """A load or store; how many further slots it took, or None when it ends the program."""
        r = self.registers
        cls, mode, size = opcode & 7, opcode & 0xE0, _SIZES[opcode & 0x18]
        if opcode == 0x18 and src == 0:
            r[dst] = imm & _M32 | (self._slots[pc][3] & _M32) << 32
            return 1
        if cls == 0 and mode in (0x20, 0x40):
            at = imm + (_signed(r[src], 32) if mode == 0x40 else 0)
            if at < 0 or at + size > len(self._packet):
                return None
            r[0] = int.from_bytes(self._packet[at : at + size], "big")
        elif cls == 1 and mode == 0x60:
            r[dst] = self.read(r[src] + off, size)
        elif cls == 1 and mode == 0x80 and size < 8:
            r[dst] = _signed(self.read(r[src] + off, size), size * 8) & _M64
        elif cls == 2 and mode == 0x60:
            self.write(r[dst] + off, size, imm)
        elif cls == 3 and mode == 0x60:
            self.write(r[dst] + off, size, r[src])
        elif cls == 3 and mode == 0xC0:
            self._atomic(size, dst, src, off, imm)
        else:
            raise ModelError(f"opcode {opcode:#04x} with source {src} is undefined here")
        return 0

    def _atomic(self, size: int, dst: int, src: int, off: int, imm: int) -> None:
        r = self.registers
        if imm == 0x100:  # load_acquire: here the address is in src
            r[dst] = self.read(r[src] + off, size)
            return
        address = r[dst] + off
        if imm == 0x110:  # store_release
            self.write(address, size, r[src])
            return
        if size < 4:
            raise ModelError(f"an atomic of {size} bytes is undefined")
        mask = (1 << 8 * size) - 1
        old, operand = self.read(address, size), r[src] & mask
        if imm == 0xF1:  # compare and exchange: r0 is expected value and result
            if old == r[0] & mask:
                self.write(address, size, operand)
            r[0] = old
            return
        if imm == 0xE1:
            new = operand
        elif imm & ~1 in (0x00, 0x40, 0x50, 0xA0):
            new = _alu(imm >> 4, old, operand, 0, 8 * size)
        else:
            raise ModelError(f"atomic operation {imm:#x} is undefined")
        self.write(address, size, new)
        if imm & 1:
            r[src] = old
