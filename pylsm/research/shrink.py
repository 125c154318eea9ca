"""Smaller programs with the same property: what is left is what the property is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pylsm.asm import opcodes as op
from pylsm.asm.disasm import jump_distance
from pylsm.asm.instruction import Instruction
from pylsm.asm.program import Program

__all__ = ["shrink"]

#: An instruction and the index of the one it jumps to; None for no jump, and for one that leads nowhere.
_Part = tuple[Instruction, "int | None"]


def shrink(program: Program, keep: Callable[[Program], bool]) -> Program:
    """The smallest program that can be reached from ``program`` with ``keep`` true all the way.

    Instructions are left out, long runs first; jumps over them are shortened, and one whose target is left out leads to
    what follows it. Then constants, offsets and registers are replaced by simpler ones. It ends when no single step
    helps.

    Args:
        program: of one function, without references.
        keep: whether a candidate still has the property, for example
            ``lambda p: try_load(p).kind == wanted``.

    Raises:
        ValueError: ``program`` itself has not the property.
    """
    if not keep(program):
        raise ValueError("the program does not have the property it is to keep")
    parts = _parts(program.instructions)
    while True:
        before = [i for i, _ in parts]
        parts = _omit(program, parts, keep)
        parts = _simplify(program, parts, keep)
        if [i for i, _ in parts] == before:
            return _program(program, parts)


def _parts(code: tuple[Instruction, ...]) -> list[_Part]:
    slots, slot = [], 0
    for i in code:
        slots.append(slot)
        slot += i.slots
    index_of = {slot: index for index, slot in enumerate(slots)}
    out: list[_Part] = []
    for i, slot in zip(code, slots):
        distance = jump_distance(i)
        out.append((i, index_of.get(slot + 1 + distance) if distance is not None else None))
    return out


def _program(program: Program, parts: list[_Part]) -> Program:
    slots, slot = [], 0
    for i, _ in parts:
        slots.append(slot)
        slot += i.slots
    slots.append(slot)
    code = []
    for (i, target), at in zip(parts, slots):
        if target is not None:
            distance = slots[target] - at - 1
            i = i.replace(imm=distance) if i.opcode == op.JMP32 | op.JA else i.replace(off=distance)
        code.append(i)
    return program._replace(instructions=tuple(code))


def _without(parts: list[_Part], start: int, end: int) -> list[_Part]:
    def moved(target: int | None) -> int | None:
        if target is None or target <= start:
            return target
        return max(start, target - (end - start))

    return [(i, moved(target)) for i, target in parts[:start] + parts[end:]]


def _omit(program: Program, parts: list[_Part], keep: Callable[[Program], bool]) -> list[_Part]:
    size = max(1, len(parts) // 2)
    while True:
        at = len(parts) - size
        while at >= 0:
            candidate = _without(parts, at, at + size)
            if candidate and keep(_program(program, candidate)):
                parts = candidate
                at -= size
            else:
                at -= max(1, size // 2)
        if size == 1:
            return parts
        size //= 2


def _simpler(i: Instruction, target: int | None) -> Iterator[Instruction]:
    """Other instructions in the same place, each simpler than this one."""
    cls = i.opcode & 7
    is_call = i.opcode == op.JMP | op.CALL
    zero = Instruction(op.ALU64 | op.MOV, i.dst)
    if cls in (op.ALU, op.ALU64, op.LDX, op.LD) and (i.opcode, i.src, i.imm) != (zero.opcode, 0, 0):
        yield zero
    if target is not None and i.opcode & 0xF0 != op.JA and cls in (op.JMP, op.JMP32):
        yield Instruction(op.JMP | op.JA)
    if i.imm not in (0, 1) and not is_call and (cls != op.STX or i.opcode & 0xE0 != op.ATOMIC):
        yield i.replace(imm=0)
        yield i.replace(imm=1)
    if target is None and i.off not in (0, -8):
        yield i.replace(off=0)
        yield i.replace(off=-8)


def _simplify(program: Program, parts: list[_Part], keep: Callable[[Program], bool]) -> list[_Part]:
    for at in range(len(parts)):
        i, target = parts[at]
        for simpler in _simpler(i, target):
            candidate = [*parts[:at], (simpler, target), *parts[at + 1 :]]
            if keep(_program(program, candidate)):
                parts = candidate
                break
    return parts
