"""What the blocks, labels and far jumps of `Asm` compute, found by running them on the model."""

from __future__ import annotations

import struct

import pytest

from pylsm.asm import R0, R1, R2, R3, R6, R7, R10, Asm, encode, u32, u64
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import to_text
from pylsm.asm.errors import RangeError
from pylsm.asm.model import Machine
from pylsm.asm.parse import link

CONDITIONS = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "s>": lambda a, b: signed(a) > signed(b),
    "s>=": lambda a, b: signed(a) >= signed(b),
    "s<": lambda a, b: signed(a) < signed(b),
    "s<=": lambda a, b: signed(a) <= signed(b),
    "&": lambda a, b: bool(a & b),
}


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def two_operands() -> Asm:
    """A program whose context is two 64-bit numbers, loaded to r1 and r2; see `run`."""
    a = Asm("socket", cpu="v4")
    a.ldx(R2, u64[R1 + 8])
    a.ldx(R1, u64[R1])
    return a


def run(a: Asm, *arguments: int) -> int:
    """Build, link and run on the model: one argument in r1, or two behind it."""
    program = a.build()
    starts = {function.name: function.start for function in program.functions}
    machine = Machine(encode(link(list(program.instructions), starts)))
    if len(arguments) == 2:
        arguments = (machine.map(bytearray(struct.pack("<2Q", *arguments))),)
    return machine.run(*arguments)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("value", [0, 1, 5, 6, (1 << 64) - 1, 1 << 63])
def test_if_else(condition: str, value: int) -> None:
    a = Asm("socket")
    with a.if_(R1, condition, 5):
        a.mov(R0, 1)
    with a.else_():
        a.mov(R0, 2)
    a.exit_()
    assert run(a, value) == (1 if CONDITIONS[condition](value, 5) else 2)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_if_without_else(condition: str) -> None:
    a = two_operands()
    a.mov(R0, 7)
    with a.if32(R1, condition, R2):
        a.add(R0, 1)
    a.exit_()
    assert a.build().slots == (7 if condition == "&" else 6)
    high = 0xDEAD << 32  # not looked at by a 32-bit comparison
    assert run(a, high | 4, 5) == 7 + CONDITIONS[condition](4, 5)


def test_nested_blocks() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    with a.if_(R1, ">", 10):
        with a.if_(R1, ">", 100):
            a.mov(R0, 100)
        with a.else_():
            with a.if_(R1, "==", 50):
                a.mov(R0, 50)
            with a.else_():
                a.mov(R0, 10)
    with a.else_():
        a.mov(R0, 1)
    a.exit_()
    assert [run(a, value) for value in (5, 11, 50, 101)] == [1, 10, 50, 100]


def test_else_after_exit_needs_no_goto() -> None:
    """The kernel refuses a goto that nothing leads to."""
    a = Asm("socket")
    a.mov(R0, 0)
    with a.if_(R1, "==", 0):
        a.exit_()
    with a.else_():
        a.mov(R0, 1)
    a.exit_()
    program = a.build()
    assert [to_text(i) for i in program.instructions] == [
        "r0 = 0",
        "if r1 != 0x0 goto pc+1",
        "exit",
        "r0 = 1",
        "exit",
    ]
    assert [run(a, value) for value in (0, 1)] == [0, 1]


def test_else_after_exit_with_a_label_behind_it() -> None:
    a = two_operands()
    a.mov(R0, 0)
    with a.if_(R1, "==", 0):
        behind = a.label()
        a.jeq(R2, 0, behind)
        a.exit_()
        a.bind(behind)
    with a.else_():
        a.mov(R0, 1)
    a.add(R0, 10)
    a.exit_()
    assert [run(a, *values) for values in ((0, 0), (0, 1), (1, 0))] == [10, 0, 11]


@pytest.mark.parametrize("count", [1, 2, 10])
def test_loop(count: int) -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    with a.loop(R6, count):
        a.add(R0, R6)
    a.exit_()
    assert run(a) == sum(range(count))


def test_loop_break_and_continue() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    with a.loop(R6, 100) as loop:
        a.jump(R6, "==", 7, loop.break_)
        a.mov(R7, R6)
        a.and_(R7, 1)
        a.jump(R7, "==", 0, loop.continue_)
        a.add(R0, R6)
    a.exit_()
    assert run(a) == 1 + 3 + 5


def test_functions_keep_their_own_stack_and_registers() -> None:
    a = Asm("socket")
    slot = a.stack(8)
    a.mov(R6, R1)
    a.st(u64[slot], 1000)
    a.call_function("double", R1)
    a.ldx(R1, u64[slot])
    a.add(R0, R1)
    a.add(R0, R6)
    a.exit_()
    with a.function("double", 1):
        mine = a.stack(8)
        a.mov(R6, 0)
        a.stx(u64[mine], R1)
        a.ldx(R0, u64[mine])
        a.add(R0, R0)
        a.exit_()
    assert run(a, 21) == 42 + 1000 + 21


def test_stack_records_are_addressed_by_field() -> None:
    a = Asm("socket")
    slot = a.stack(8)
    a.lddw(R2, 0x1122334455667788)
    a.stx(u64[slot], R2)
    a.address(R3, slot + 4)
    a.ldx(R0, u32[R3])
    a.exit_()
    assert run(a) == 0x11223344


# ---- distance ----------------------------------------------------------------------------------------------------


def far(a: Asm, between: int) -> None:
    """Fill with instructions that count r0 up."""
    for _ in range(between):
        a.add(R0, 1)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_far_condition_becomes_its_inverse_over_a_gotol(condition: str) -> None:
    a = two_operands()
    a.mov(R0, 0)
    out = a.label()
    a.jump(R1, condition, R2, out)
    far(a, 33_000)
    a.bind(out)
    a.exit_()
    built = a.build()
    assert built.slots == 3 + (3 if condition == "&" else 2) + 33_000 + 1
    for pair in [(2, 1), (1, 2), (2, 2), ((1 << 64) - 1, 2)]:
        assert run(a, *pair) == (0 if CONDITIONS[condition](*pair) else 33_000)


def test_far_goto_becomes_gotol() -> None:
    a = Asm("socket", cpu="v4")
    a.mov(R0, 0)
    out, on = a.label(), a.label()
    a.jeq(R1, 0, on)
    a.ja(out)
    a.bind(on)
    far(a, 33_000)
    a.bind(out)
    a.exit_()
    assert [i.opcode for i in a.build().instructions[1:3]] == [0x15, op.JMP32 | op.JA]
    assert [run(a, value) for value in (0, 1)] == [33_000, 0]


def test_far_backward_jump() -> None:
    a = Asm("socket", cpu="v4")
    a.mov(R0, 0)
    top = a.here()
    far(a, 33_000)
    a.add(R1, -1)
    a.jump(R1, "!=", 0, top)
    a.exit_()
    assert run(a, 2) == 66_000


def test_relaxation_cascades() -> None:
    """A jump that grows pushes another out of reach, which then grows as well."""
    a = Asm("socket", cpu="v4")
    a.mov(R0, 0)
    first, second = a.label(), a.label()
    a.jump(R1, "==", 1, first)  # exactly in reach, until the next one grows
    a.jump(R1, "==", 2, second)
    far(a, 32_766)
    a.bind(first)
    a.add(R0, 1)
    a.bind(second)
    a.exit_()
    program = a.build()
    assert sum(i.opcode == op.JMP32 | op.JA for i in program.instructions) == 0
    a = Asm("socket", cpu="v4")
    a.mov(R0, 0)
    first, second = a.label(), a.label()
    a.jump(R1, "==", 1, first)
    a.jump(R1, "==", 2, second)
    far(a, 32_766)
    a.bind(first)
    a.add(R0, 1)
    a.add(R0, 1)
    a.bind(second)
    a.exit_()
    program = a.build()
    assert sum(i.opcode == op.JMP32 | op.JA for i in program.instructions) == 2
    assert [run(a, value) for value in (1, 2, 3)] == [2, 0, 32_768]


@pytest.mark.parametrize("distance", [32_767, 32_768])
def test_below_v4_a_far_jump_is_refused_at_its_line(distance: int) -> None:
    a = Asm("socket", cpu="v3")
    a.mov(R0, 0)
    out = a.label("out")
    a.jeq(R1, 0, out)
    line = a._body.instructions[-1].line
    far(a, distance)
    a.bind(out)
    a.exit_()
    if distance == 32_767:
        assert run(a, 0) == 0
        return
    with pytest.raises(RangeError, match=r"label out .* is \+32768 instructions far") as caught:
        a.build()
    assert caught.value.line == line
    assert "v4" in caught.value.hint


def test_may_goto_is_never_relaxed() -> None:
    a = Asm("socket", cpu="v4")
    a.mov(R0, 0)
    out = a.label()
    a.may_goto(out)
    far(a, 33_000)
    a.bind(out)
    a.exit_()
    with pytest.raises(RangeError, match="33000"):
        a.build()


def test_gotol_as_written() -> None:
    a = Asm("socket", cpu="v4")
    a.mov(R0, 5)
    out = a.label()
    a.gotol(out)
    a.bind(out)
    a.exit_()
    assert [to_text(i) for i in a.build().instructions] == ["r0 = 5", "gotol pc+0", "exit"]


def test_building_twice_gives_the_same() -> None:
    a = Asm("socket")
    with a.if_(R1, "==", 0):
        a.mov(R0, 1)
    with a.else_():
        a.stx(u64[R10 - 8], R1)
        a.ldx(R0, u64[R10 - 8])
    a.exit_()
    assert a.build() == a.build()
