"""What the assembler refuses: the type of each error, its message, and the Python line it names."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pylsm.asm import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R10,
    Asm,
    AsmError,
    Label,
    MapSpec,
    MapType,
    Mem,
    Register,
    View,
    s32,
    u8,
    u16,
    u64,
)
from pylsm.asm import opcodes as op
from pylsm.asm.errors import (
    BlockError,
    CallError,
    CpuError,
    FallThroughError,
    FieldError,
    LabelError,
    OperandError,
    ProgramSizeError,
    RangeError,
    RegisterError,
    StackError,
    UnknownNameError,
    UnreachableError,
)

SEEN = MapSpec("SEEN", MapType.HASH, key=4, value=8, max_entries=1)
COUNTS = MapSpec("COUNTS", MapType.ARRAY, key=4, value=8, max_entries=1)


def refused(kind: type[AsmError], message: str, call: Callable[[], object], *, line: int | None = None) -> AsmError:
    """``call`` raises exactly ``kind``, with that in its message, naming its own (or the given) line of this file."""
    with pytest.raises(AsmError, match=message) as caught:
        call()
    error = caught.value
    assert type(error) is kind
    assert error.line is not None
    assert error.line.file == __file__
    assert error.line.line == (line or call.__code__.co_firstlineno)
    assert str(error).startswith(f"{__file__}:{error.line.line}: ")
    return error


class Pair:
    """The least that is a layout."""

    name, size = "pair", 8

    def field(self, name: str) -> tuple[int, int]:
        return {"low": (0, 4), "high": (4, 4)}[name]


# ---- ranges and operands, where written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (RangeError, "does not fit 32 signed bits", lambda a: a.mov(R1, 1 << 31)),
        (RangeError, "does not fit 32 signed bits", lambda a: a.add(R1, -(1 << 31) - 1)),
        (RangeError, "does not fit 32 signed bits", lambda a: a.mov32(R1, 1 << 32)),
        (RangeError, "does not fit 32 signed bits", lambda a: a.jeq(R1, 0xFFFFFFFF, a.here())),
        (RangeError, "does not fit 32 signed bits", lambda a: a.jump32(R1, "==", 1 << 32, a.here())),
        (RangeError, "does not fit 64 bits", lambda a: a.lddw(R1, 1 << 64)),
        (RangeError, "does not fit 64 bits", lambda a: a.lddw(R1, -(1 << 63) - 1)),
        (RangeError, "offset 32768 does not fit", lambda a: a.ldx(R1, u64[R2 + 32768])),
        (RangeError, "offset -32769 does not fit", lambda a: a.stx(u64[R2 - 32769], R1)),
        (RangeError, "shift by 64", lambda a: a.lsh(R1, 64)),
        (RangeError, "shift by -1", lambda a: a.rsh(R1, -1)),
        (RangeError, "shift by 32", lambda a: a.arsh32(R1, 32)),
        (RangeError, "does not fit the 8-bit", lambda a: a.st(u8[R10 - 1], 256)),
        (RangeError, "does not fit the 8-bit", lambda a: a.st(u8[R10 - 1], -129)),
        (RangeError, "does not fit the 16-bit", lambda a: a.st(u16[R10 - 2], 1 << 16)),
        (RangeError, "does not fit 32 signed bits", lambda a: a.st(u64[R10 - 8], 1 << 32)),
        (RangeError, "outside the 8 bytes of COUNTS", lambda a: a.ld_map_value(R1, COUNTS, 8)),
        (RangeError, "loop of 0 rounds", lambda a: a.loop(R6, 0)),
        (RegisterError, "r11 is not a register", lambda a: a.mov(Register(11), 0)),
        (RegisterError, "read-only", lambda a: a.mov(R10, 0)),
        (RegisterError, "read-only", lambda a: a.ldx(R10, u64[R1])),
        (RegisterError, "read-only", lambda a: a.lddw(R10, 1)),
        (RegisterError, "read-only", lambda a: a.bswap(R10, 16)),
        (RegisterError, "read-only", lambda a: a.neg(R10)),
        (RegisterError, "read-only", lambda a: a.load_acquire(R10, u64[R1])),
        (RegisterError, "read-only", lambda a: a.xchg(u64[R1], R10)),
        (OperandError, "neither a register nor an integer", lambda a: a.mov(R1, "x")),
        (OperandError, "neither a register nor an integer", lambda a: a.jeq(R1, None, a.here())),
        (OperandError, "1 is no register", lambda a: a.mov(1, R2)),
        (OperandError, "st stores constants", lambda a: a.stx(u64[R1], 5)),
        (OperandError, "is no integer", lambda a: a.lddw(R1, R2)),
        (OperandError, "16, 32 or 64", lambda a: a.be(R1, 8)),
        (OperandError, "8, 16 or 32 bits, not 64", lambda a: a.ld_abs(64, 0)),
        (OperandError, "movsx extends", lambda a: a.movsx(R1, R2, 64)),
        (OperandError, "movsx extends", lambda a: a.movsx32(R1, R2, 32)),
        (OperandError, "spaces 0 and 1", lambda a: a.addr_space_cast(R1, R2, 1, 1)),
        (OperandError, "32 or 64 bits, not of 16", lambda a: a.atomic_add(u16[R1], R2)),
        (OperandError, "3 bytes at r1", lambda a: Mem(R1, 0, 3)),
        (OperandError, "condition '=<'", lambda a: a.jump(R1, "=<", 0, a.here())),
        (OperandError, "none of id, size, exists", lambda a: a.ld_type(R1, "x", "length")),
        (OperandError, "two maps are called SEEN", lambda a: (a.ld_map(R1, SEEN), a.ld_map(R1, SEEN.resized(2)))),
        (FieldError, "no field 'middle'", lambda a: a.view(R1, Pair()).middle),
        (FieldError, "is 8 plain bytes", lambda a: a.stack(8).low),
        (FieldError, "needs Asm\\(types", lambda a: a.typed(R1, "file")),
        (StackError, "slot bytes of 0 bytes", lambda a: a.stack(0)),
        (UnknownNameError, "did you mean map_lookup_elem", lambda a: a.call("map_lookup_elm")),
        (UnknownNameError, "no helper is called 'zzz'", lambda a: a.call("zzz")),
        (CallError, "takes 2 arguments, not 1", lambda a: a.call("map_lookup_elem", SEEN)),
        (CallError, "takes 4 arguments, not 5", lambda a: a.call("map_update_elem", SEEN, R2, R3, 0, 0)),
        (CallError, "argument 1 of map_lookup_elem is a map", lambda a: a.call("map_lookup_elem", 5, R2)),
        (CallError, "argument 2 of map_lookup_elem is a pointer", lambda a: a.call("map_lookup_elem", SEEN, 5)),
        (CallError, "argument 2 of get_current_comm is a number", lambda a: a.call("get_current_comm", R1, a.stack(8))),
        (CallError, "argument 2 of loop is a function", lambda a: a.call("loop", 5, 5, 0, 0)),
        (CallError, "at least 2", lambda a: a.call("trace_printk", R1)),
        (CallError, "which argument 1 has just overwritten", lambda a: a.call("probe_read", R2, 8, R1)),
        (CallError, "at most 5", lambda a: a.kfunc("f", 1, 2, 3, 4, 5, 6)),
        (CallError, "0 to 5 arguments", lambda a: a.function("f", 6)),
        (CallError, "two functions are called socket", lambda a: a.function("socket", 1)),
        (BlockError, "does not follow an if_", lambda a: a.else_()),
    ],
)
def test_refused_where_written(kind: type[AsmError], message: str, call: Callable[[Asm], object]) -> None:
    a = Asm("socket", cpu="v4")
    refused(kind, message, lambda: call(a), line=call.__code__.co_firstlineno)


@pytest.mark.parametrize(
    ("level", "call"),
    [
        ("v2", lambda a: a.jlt(R1, R2, a.here())),
        ("v2", lambda a: a.jsle(R1, 0, a.here())),
        ("v3", lambda a: a.jump32(R1, "==", 0, a.here())),
        ("v3", lambda a: a.xchg(u64[R1], R2)),
        ("v3", lambda a: a.atomic_add(u64[R1], R2, fetch=True)),
        ("v3", lambda a: a.atomic_or(u64[R1], R2)),
        ("v4", lambda a: a.sdiv(R1, R2)),
        ("v4", lambda a: a.smod32(R1, R2)),
        ("v4", lambda a: a.movsx(R1, R2, 8)),
        ("v4", lambda a: a.movsx32(R1, R2, 8)),
        ("v4", lambda a: a.bswap(R1, 16)),
        ("v4", lambda a: a.ldx(R1, s32[R2])),
        ("v4", lambda a: a.gotol(a.here())),
        ("v4", lambda a: a.may_goto(a.here())),
        ("v4", lambda a: a.load_acquire(R1, u64[R2])),
        ("v4", lambda a: a.store_release(u64[R2], R1)),
        ("v4", lambda a: a.addr_space_cast(R1, R2, 0, 1)),
    ],
)
def test_cpu_levels(level: str, call: Callable[[Asm], object]) -> None:
    below = Asm("socket", cpu=f"v{int(level[1]) - 1}")
    with pytest.raises(CpuError, match=f"needs cpu {level}; this program is for v{int(level[1]) - 1}") as caught:
        call(below)
    assert caught.value.line is not None
    assert caught.value.line.line == call.__code__.co_firstlineno
    call(Asm("socket", cpu=level))


def test_unknown_cpu() -> None:
    with pytest.raises(CpuError, match="v5"):
        Asm("socket", cpu="v5")


def test_map_names() -> None:
    for name in ("", "é", "a-b"):
        with pytest.raises(OperandError, match="map name"):
            MapSpec(name, MapType.HASH, key=4, value=4, max_entries=1)


# ---- labels ------------------------------------------------------------------------------------------------------


def finish(a: Asm) -> None:
    a.mov(R0, 0)
    a.exit_()


def test_label_never_bound() -> None:
    a = Asm("socket")
    label = a.label("out")
    a.jeq(R1, 0, label)
    finish(a)
    error = refused(LabelError, "out of socket is never bound", a.build, line=label.line.line)
    assert isinstance(error, LabelError)


def test_label_bound_twice() -> None:
    a = Asm("socket")
    label = a.here("top")
    refused(LabelError, "label top .* is bound twice", lambda: a.bind(label))


def test_label_of_another_function() -> None:
    a = Asm("socket")
    label = a.here("top")
    with a.function("other", 1):
        refused(LabelError, "belongs to another function", lambda: a.ja(label))
        refused(LabelError, "belongs to another function", lambda: a.bind(label))


# ---- blocks ------------------------------------------------------------------------------------------------------


def test_block_left_open() -> None:
    a = Asm("socket")
    block = a.if_(R1, "==", 0)
    block.__enter__()
    finish(a)
    refused(BlockError, "a block is still open", a.build, line=block.line.line)


def test_else_after_another_instruction() -> None:
    a = Asm("socket")
    with a.if_(R1, "==", 0):
        a.mov(R0, 1)
    a.mov(R0, 2)
    refused(BlockError, "does not follow an if_ block", lambda: a.else_())


def test_block_closes_when_its_body_raises() -> None:
    a = Asm("socket")
    with pytest.raises(ZeroDivisionError), a.if_(R1, "==", 0):
        raise ZeroDivisionError
    assert not a._open_blocks


# ---- control flow ------------------------------------------------------------------------------------------------


def line_of(a: Asm, index: int) -> int:
    """The line that made instruction ``index``."""
    line = a._body.instructions[index].line
    assert line is not None
    return line.line


def test_fall_through() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    refused(FallThroughError, "control runs off the end of socket", a.build, line=line_of(a, 0))


def test_label_at_the_end() -> None:
    a = Asm("socket")
    out = a.label()
    a.mov(R0, 0)
    a.jeq(R1, 0, out)
    a.exit_()
    a.bind(out)
    refused(FallThroughError, "exit is missing", a.build, line=line_of(a, 2))


def test_unreachable() -> None:
    a = Asm("socket")
    finish(a)
    a.mov(R0, 1)
    a.exit_()
    refused(UnreachableError, "nothing leads to this instruction of socket", a.build, line=line_of(a, 2))


def test_function_never_called() -> None:
    a = Asm("socket")
    finish(a)
    block = a.function("unused", 1)
    with block:
        finish(a)
    refused(UnreachableError, "unused is never called", a.build, line=block.line.line)


def test_empty_program() -> None:
    with pytest.raises(AsmError, match="socket has no instructions"):
        Asm("socket").build()


# ---- registers ---------------------------------------------------------------------------------------------------


def test_never_written() -> None:
    a = Asm("socket")
    a.mov(R0, R6)
    a.exit_()
    refused(RegisterError, "r6 is read in socket but was never written", a.build, line=line_of(a, 0))


def test_exit_without_a_result() -> None:
    a = Asm("socket")
    a.exit_()
    refused(RegisterError, "r0 is read", a.build, line=line_of(a, 0))


def test_clobbered_by_a_call() -> None:
    a = Asm("socket")
    a.call("get_prandom_u32")
    a.mov(R0, R1)
    a.exit_()
    clobber = line_of(a, 0)
    error = refused(RegisterError, f"the call at .*:{clobber} clobbered it", a.build, line=line_of(a, 1))
    assert "r6-r9" in error.hint


def test_clobbered_by_a_packet_load() -> None:
    a = Asm("socket")
    a.mov(R6, R1)
    a.ld_abs(8, 0)
    a.mov(R0, R1)
    a.exit_()
    refused(RegisterError, "r1 is read", a.build, line=line_of(a, 2))


def test_packet_load_needs_r6() -> None:
    a = Asm("socket")
    a.ld_abs(8, 0)
    a.exit_()
    refused(RegisterError, "r6 is read", a.build, line=line_of(a, 0))


def test_written_on_one_path_only() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    with a.if_(R1, "==", 0):
        a.mov(R7, 1)
    a.mov(R0, R7)
    a.exit_()
    refused(RegisterError, "r7 is read in socket but was never written on some path", a.build, line=line_of(a, 3))


def test_written_on_both_paths() -> None:
    a = Asm("socket")
    with a.if_(R1, "==", 0):
        a.mov(R7, 1)
    with a.else_():
        a.mov(R7, 2)
    a.mov(R0, R7)
    a.exit_()
    assert a.build().slots == 6


def test_clobbered_in_a_loop() -> None:
    a = Asm("socket")
    a.mov(R4, 0)
    with a.loop(R6, 3):
        a.add(R4, 1)
        a.call("get_prandom_u32")
    a.exit_()
    refused(RegisterError, "r4 is read", a.build, line=line_of(a, 2))


def test_missing_call_argument() -> None:
    a = Asm("socket")
    a.call("get_current_comm")
    a.exit_()
    refused(RegisterError, "r2 is read", a.build, line=line_of(a, 0))


def test_cmpxchg_reads_and_writes_r0() -> None:
    a = Asm("socket")
    a.mov(R2, 0)
    a.stx(u64[R10 - 8], R2)
    a.cmpxchg(u64[R10 - 8], R2)
    a.exit_()
    refused(RegisterError, "r0 is read", a.build, line=line_of(a, 2))


# ---- functions ---------------------------------------------------------------------------------------------------


def test_call_of_a_function_that_is_not_there() -> None:
    a = Asm("socket")
    a.call_function("wakl", R1)
    a.exit_()
    with a.function("walk", 1):
        finish(a)
    refused(UnknownNameError, "no function 'wakl' .* did you mean walk", a.build, line=line_of(a, 0))


def test_call_with_the_wrong_number_of_arguments() -> None:
    a = Asm("socket")
    a.call_function("walk", R1)
    a.exit_()
    with a.function("walk", 2):
        finish(a)
    refused(CallError, "walk takes 2 arguments, not 1", a.build, line=line_of(a, 0))


def test_call_with_arguments_in_place() -> None:
    a = Asm("socket")
    a.call_function("walk")
    a.exit_()
    with a.function("walk", 2):
        finish(a)
    refused(RegisterError, "r2 is read", a.build, line=line_of(a, 0))


# ---- limits ------------------------------------------------------------------------------------------------------


def test_stack_lists_its_slots() -> None:
    a = Asm("socket")
    a.stack(Pair(), "key")
    a.stack(500, "path")
    error = refused(StackError, "needs 520 bytes; 512 are allowed: key 8, path 500, last 1", lambda: a.stack(1, "last"))
    assert "per-CPU" in error.hint


def test_stack_layout() -> None:
    a = Asm("socket")
    views = [a.stack(5), a.stack(Pair()), a.stack(8)]
    assert [view._address.off for view in views] == [-8, -16, -24]
    assert [len(view) for view in views] == [5, 8, 8]
    assert repr(views[1].high) == "*(u32 *)(r10 -12)"
    assert repr(views[1]["high"]) == "r10 -12"
    assert isinstance(views[0], View)
    with a.function("other", 0):
        assert a.stack(8)._address.off == -8


def test_each_register_is_its_own_number() -> None:
    assert [repr(Register(n)) for n in (0, 10)] == ["r0", "r10"]


def test_program_over_the_limit() -> None:
    a = Asm("socket")
    a.mov(R0, 0)
    for _ in range(op.MAX_INSNS // 2 - 1):
        a.lddw(R1, 1)
    a.exit_()
    assert a.build().slots == op.MAX_INSNS
    a = Asm("socket")
    for _ in range(op.MAX_INSNS // 2):
        a.lddw(R0, 1)
    a.exit_()
    refused(ProgramSizeError, "1,000,001 instructions; the kernel takes 1,000,000", a.build, line=line_of(a, -1))


def test_labels_say_where_they_are() -> None:
    label = Asm("socket").label("out")
    assert isinstance(label, Label)
    assert repr(label) == f"label out ({__file__}:{label.line.line})"


def test_a_call_is_not_blamed_for_what_was_never_written() -> None:
    a = Asm("socket")
    a.call("get_prandom_u32")
    a.mov(R0, R2)
    a.exit_()
    refused(RegisterError, "r2 is read in socket but was never written", a.build, line=line_of(a, 1))
