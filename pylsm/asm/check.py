"""Register use, checked at build time: what is read was written, and not clobbered by a call in between.

The verifier finds the same at load time; here the error names the Python line, and the line that clobbered.
"""

from __future__ import annotations

from collections.abc import Sequence

from pylsm.asm import opcodes as op
from pylsm.asm.errors import FallThroughError, RegisterError, UnreachableError
from pylsm.asm.helpers import by_number
from pylsm.asm.instruction import Instruction

__all__ = ["check_registers", "reads_and_writes"]

_CALLER_SAVED = 0b111110  # r1-r5


def reads_and_writes(i: Instruction, call_arguments: int = 0) -> tuple[int, int]:
    """Bit masks of the registers that an instruction reads and writes (a call's clobbering not counted)."""
    cls, dst = i.opcode & 7, 1 << i.dst
    if cls in (op.ALU64, op.ALU):
        operation = i.opcode & 0xF0
        source = 1 << i.src if i.opcode & op.X and operation not in (op.END, op.NEG) else 0
        return (source if operation == op.MOV else source | dst), dst
    if cls == op.LDX:
        return 1 << i.src, dst
    if cls == op.ST:
        return dst, 0
    if cls == op.STX:
        source = 1 << i.src
        if i.opcode & 0xE0 != op.ATOMIC:
            return dst | source, 0
        if i.imm == op.LOAD_ACQ:
            return source, dst
        if i.imm == op.CMPXCHG:
            return dst | source | 1, 1
        return dst | source, source if i.imm & op.FETCH else 0
    if cls == op.LD:
        if i.opcode == op.LDDW:
            return 0, dst
        return 1 << 6 | (1 << i.src if i.opcode & 0xE0 == op.IND else 0), 1
    operation = i.opcode & 0xF0
    if operation == op.CALL:
        return ((1 << call_arguments) - 1) << 1, 1
    if operation == op.EXIT:
        return 1, 0
    if operation in (op.JA, op.JCOND):
        return 0, 0
    return dst | (1 << i.src if i.opcode & op.X else 0), 0


def check_registers(
    instructions: Sequence[Instruction],
    targets: Sequence[int],
    arguments: int,
    calls: dict[int, int],
    name: str,
    is_entry: bool,
) -> None:
    """Check one function.

    Args:
        instructions: its instructions.
        targets: for each, the index a jump leads to, or -1.
        arguments: how many of r1-r5 it is called with.
        calls: arguments of the calls to functions and kfuncs, by index (helpers are looked up).
        name: the function's, for messages.
        is_entry: the entry must set r0 before ``exit``; a subprogram need not.

    Raises:
        RegisterError: a read of a register that is unwritten on some path.
        FallThroughError: a path that runs off the end.
        UnreachableError: an instruction that no path comes to.
    """
    entry = ((1 << arguments) - 1) << 1 | 1 << 10
    states: dict[int, int] = {0: entry}
    work = [0]
    count = len(instructions)
    seen = bytearray(count)
    while work:
        index = work.pop()
        state = states[index]
        while True:
            if index >= count:
                last = instructions[-1].line if instructions else None
                raise FallThroughError(f"control runs off the end of {name}: exit is missing", line=last)
            seen[index] = 1
            i = instructions[index]
            cls, operation = i.opcode & 7, i.opcode & 0xF0
            jump = cls in (op.JMP, op.JMP32)
            is_call = cls == op.JMP and operation == op.CALL
            taken = _call_arguments(i, calls.get(index)) if is_call else 0
            reads, writes = reads_and_writes(i, taken)
            if cls == op.JMP and operation == op.EXIT and not is_entry:
                reads = 0
            if reads & ~state:
                raise _unwritten(instructions, index, reads & ~state, name, entry)
            state |= writes
            if is_call or (cls == op.LD and i.opcode != op.LDDW):
                state &= ~_CALLER_SAVED
            if jump and operation == op.EXIT and cls == op.JMP:
                break
            target = targets[index]
            if target >= 0:
                known = states.get(target)
                merged = state if known is None else known & state
                if merged != known:
                    states[target] = merged
                    work.append(target)
                if operation == op.JA:
                    break
            index += 1
            # Joining states only ever loses registers, so this ends: each index is walked at most 11 times.
            known = states.get(index)
            if known is not None:
                state &= known
                if state == known:
                    break
            if known is not None or target >= 0:
                states[index] = state
    dead = seen.find(0)
    if dead >= 0:
        raise UnreachableError(
            f"nothing leads to this instruction of {name}, and the kernel refuses such",
            hint="bind a label here that something jumps to, or drop it",
            line=instructions[dead].line,
        )


def _call_arguments(i: Instruction, known: int | None) -> int:
    if known is not None:
        return known
    if i.src != op.CALL_HELPER:
        return 0
    helper = by_number(i.imm)
    return len(helper.arguments.rstrip("*")) if helper else 0


def _unwritten(instructions: Sequence[Instruction], index: int, missing: int, name: str, entry: int) -> RegisterError:
    """The error for a read of an unwritten register, with the last call before it when that clobbered it.

    ``entry``: mask of the registers that are written when the function begins.
    """
    register = (missing & -missing).bit_length() - 1
    line = instructions[index].line
    if 1 << register & _CALLER_SAVED:
        for before in range(index - 1, -1, -1):
            i = instructions[before]
            if i.opcode & 7 == op.JMP and i.opcode & 0xF0 == op.CALL:
                if not entry >> register & 1 and not any(
                    reads_and_writes(i)[1] >> register & 1 for i in instructions[:before]
                ):
                    break  # there was nothing to clobber
                return RegisterError(
                    f"r{register} is read in {name} but the call at {i.line or f'instruction {before}'} clobbered it",
                    hint="calls keep only r6-r9: move the value there before the call, or set it again after",
                    line=line,
                )
            if i.dst == register and reads_and_writes(i)[1] >> register & 1:
                break
    return RegisterError(
        f"r{register} is read in {name} but was never written on some path to here",
        hint="write it on every path, for example with mov",
        line=line,
    )
