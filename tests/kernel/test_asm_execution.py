"""Each arithmetic, jump, memory and atomic instruction, run by this kernel and by the model, over edge values.

A program holds many instructions under test. It is of type syscall: the context is plain memory that it may read and
write, two operands at its start and one 64-bit result per instruction behind them; the kernel hands it back whole.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterable

import pytest
from cases.kernel import LEVEL, needs

from pylsm.asm import R0, R1, R2, R6, R7, R10, Asm, Mem, Program, encode, s8, s16, s32, u8, u16, u32, u64
from pylsm.asm import opcodes as op
from pylsm.asm.errors import CpuError
from pylsm.asm.model import Machine
from pylsm.asm.parse import link
from pylsm.loader import LoadedProgram, features

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
syscall_programs = needs(features.program("syscall"), "programs of type syscall", "5.14")

M64 = op.U64_MAX
#: Zero, one, minus one, the ends of each width, their neighbours, and two arbitrary patterns.
EDGES = [
    0, 1, 2, 7, 31, 32, 33, 63, 64, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF,
    0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x1_0000_0000, 0x7FFFFFFF_FFFFFFFF, 0x80000000_00000000,
    0x80000000_00000001, 0xFFFFFFFF_80000000, 0xFFFFFFFF_00000000, M64 - 1, M64,
    0x01234567_89ABCDEF, 0xFEDCBA98_76543210,
]  # fmt: skip
IMMEDIATES = [1, 2, 7, 31, -1, -2, 0x7F, -0x80, 0x7FFF, op.S32_MAX, op.S32_MIN, 0x12345678]

#: An instruction under test: it may use r0, r1 = first operand, r2 = second operand, and leaves its result in r0.
Case = tuple[str, Callable[[Asm], None]]


def program(cases: Iterable[Case]) -> tuple[Program, list[str]]:
    """All ``cases`` that this kernel knows the instructions of; the names in the order of their results."""
    a = Asm("syscall", name="cases", cpu=LEVEL)
    a.mov(R6, R1)
    names = []
    for name, case in known(cases):
        a.ldx(R1, u64[R6])
        a.ldx(R2, u64[R6 + 8])
        case(a)
        a.stx(u64[R6 + 16 + 8 * len(names)], R0)
        names.append(name)
    a.mov(R0, 0)
    a.exit_()
    return a.build(), names


def known(cases: Iterable[Case]) -> list[Case]:
    """Those that the assembler takes for a kernel of this level."""

    def takes(case: Case) -> bool:
        try:
            case[1](Asm("syscall", name="case", cpu=LEVEL))
        except CpuError:
            return False
        return True

    return [case for case in cases if takes(case)]


def on_model(made: Program, context: bytes) -> bytes:
    memory = bytearray(context)
    starts = {function.name: function.start for function in made.functions}
    machine = Machine(encode(link(list(made.instructions), starts)))
    machine.run(machine.map(memory))
    return bytes(memory)


def compare(cases: Iterable[Case], operands: Iterable[tuple[int, int]]) -> int:
    """Run on both, compare every result, and say how many results were compared."""
    made, names = program(cases)
    count = 0
    with LoadedProgram.load(made, source_lines=False) as loaded:
        for first, second in operands:
            context = struct.pack("<2Q", first, second) + bytes(8 * len(names))
            kernel = struct.unpack(f"<{len(names)}Q", loaded.test_run(ctx=context).ctx_out[16:])
            model = struct.unpack(f"<{len(names)}Q", on_model(made, context)[16:])
            wrong = [
                f"{name}: first {first:#x}, second {second:#x}: kernel {ours:#x}, model {theirs:#x}"
                for name, ours, theirs in zip(names, kernel, model)
                if ours != theirs
            ]
            assert not wrong, "\n".join(wrong[:20])
            count += len(names)
    return count


PAIRS = list(itertools.product(EDGES, EDGES))
BINARY = ["add", "sub", "mul", "div", "mod", "or_", "and_", "xor", "lsh", "rsh", "arsh", "sdiv", "smod", "mov"]


def method(name: str, bits: int) -> str:
    """The name of the 64- or 32-bit form of an arithmetic method."""
    return name if bits == 64 else name.rstrip("_") + "32"


def by_register(bits: int) -> list[Case]:
    def case(name: str) -> Case:
        def emit(a: Asm) -> None:
            a.mov(R0, R1)
            getattr(a, method(name, bits))(R0, R2)

        return f"{name} {bits} by register", emit

    return [case(name) for name in BINARY]


def by_immediate(bits: int) -> list[Case]:
    def case(name: str, imm: int) -> Case:
        def emit(a: Asm) -> None:
            a.mov(R0, R1)
            getattr(a, method(name, bits))(R0, imm)

        return f"{name} {bits} by {imm}", emit

    shifts = {"lsh", "rsh", "arsh"}
    return [
        case(name, imm)
        for name in BINARY
        for imm in ([0, 1, 31, bits - 1] if name in shifts else IMMEDIATES + ([0] if name in ("add", "mul") else []))
    ]


def unary() -> list[Case]:
    def case(name: str, *operands: int) -> Case:
        def emit(a: Asm) -> None:
            a.mov(R0, R1)
            getattr(a, name)(R0, *operands)

        return f"{name} {operands}", emit

    def extend(name: str, bits: int) -> Case:
        return f"{name} {bits}", lambda a: getattr(a, name)(R0, R1, bits)

    cases = [case("neg"), case("neg32")]
    cases += [case(name, bits) for name in ("le", "be", "bswap") for bits in (16, 32, 64)]
    cases += [extend("movsx", bits) for bits in (8, 16, 32)] + [extend("movsx32", bits) for bits in (8, 16)]
    return cases


@syscall_programs
@pytest.mark.parametrize("bits", [64, 32])
def test_arithmetic_by_register(bits: int) -> None:
    """Division and modulo by zero, INT_MIN / -1, masked shifts, zero extension: all among the pairs."""
    cases = known(by_register(bits))
    assert {"sdiv", "smod"} >= set(BINARY) - {name.split()[0] for name, _ in cases}
    assert compare(cases, PAIRS) == len(cases) * len(EDGES) ** 2


@syscall_programs
@pytest.mark.parametrize("bits", [64, 32])
def test_arithmetic_by_immediate(bits: int) -> None:
    assert compare(by_immediate(bits), [(value, 0) for value in EDGES]) > (3000 if LEVEL == "v4" else 2500)


@syscall_programs
def test_negation_byte_order_and_sign_extension() -> None:
    assert compare(unary(), [(value, 0) for value in EDGES]) == (16 if LEVEL == "v4" else 8) * len(EDGES)


def jumps(bits: int, *, immediate: bool) -> list[Case]:
    def case(condition: str, source: object) -> Case:
        def emit(a: Asm) -> None:
            behind = a.label()
            a.mov(R0, 1)
            (a.jump if bits == 64 else a.jump32)(R1, condition, source, behind)
            a.mov(R0, 0)
            a.bind(behind)

        return f"jump{bits} {condition} {source!r}", emit

    sources: list[object] = [0, *IMMEDIATES] if immediate else [R2]
    return [case(condition, source) for condition in op.CONDITIONS for source in sources]


@syscall_programs
@pytest.mark.parametrize("bits", [64, 32])
def test_conditions_by_register(bits: int) -> None:
    assert compare(jumps(bits, immediate=False), PAIRS) == len(op.CONDITIONS) * len(PAIRS)


@syscall_programs
@pytest.mark.parametrize("bits", [64, 32])
def test_conditions_by_immediate(bits: int) -> None:
    assert compare(jumps(bits, immediate=True), [(value, 0) for value in EDGES]) > 3000


def memory() -> list[Case]:
    """Every width stored and loaded, at every place of an aligned 8-byte slot that it may have."""

    def case(store: Mem, load: Mem, constant: int | None) -> Case:
        def emit(a: Asm) -> None:
            a.stx(u64[R10 - 8], R2)
            if constant is None:
                a.stx(store, R1)
            else:
                a.st(store, constant)
            a.ldx(R0, load)

        return f"{store!r} = {constant}; {load!r}", emit

    cases = []
    for width, signed in ((u8, s8), (u16, s16), (u32, s32), (u64, None)):
        for at in range(-8, 0, width.size):
            store = width[R10 + at]
            for constant in (None, 0, -1, 0x5A, -0x80):
                cases += [case(store, store, constant), case(store, u64[R10 - 8], constant)]
                if signed is not None:
                    cases.append(case(store, signed[R10 + at], constant))
    cases.append(case(u32[R10 - 4], u64[R10 - 8], 0xFFFFFFFF))
    cases.append(case(u64[R10 - 8], u64[R10 - 8], op.S32_MIN))
    return cases


@syscall_programs
def test_loads_and_stores() -> None:
    assert compare(memory(), PAIRS[::11]) > (10_000 if LEVEL == "v4" else 7_000)


def atomics() -> list[Case]:
    """Memory holds the first operand, the register the second; the result mixes what both became."""

    def case(name: str, mem: Mem, fetch: bool | None) -> Case:
        def emit(a: Asm) -> None:
            a.stx(u64[R10 - 8], R1)
            a.mov(R7, R2)
            a.mov(R0, R1)  # what cmpxchg expects: true in the lower half, and in the upper one
            if fetch is None:
                getattr(a, name)(mem, R7)
            else:
                getattr(a, name)(mem, R7, fetch=fetch)
            a.ldx(R1, u64[R10 - 8])
            a.mul(R0, 31)
            a.add(R0, R7)
            a.mul(R0, 31)
            a.add(R0, R1)

        return f"{name} {mem!r} fetch={fetch}", emit

    cases = []
    for mem in (u64[R10 - 8], u32[R10 - 8], u32[R10 - 4]):
        for name in ("atomic_add", "atomic_or", "atomic_and", "atomic_xor"):
            cases += [case(name, mem, False), case(name, mem, True)]
        cases += [case("xchg", mem, None), case("cmpxchg", mem, None)]
    return cases


def failing_cmpxchg(mem: Mem) -> Case:
    def emit(a: Asm) -> None:
        a.stx(u64[R10 - 8], R1)
        a.mov(R0, R1)
        a.add(R0, 1)
        a.cmpxchg(mem, R2)
        a.ldx(R1, u64[R10 - 8])
        a.mul(R0, 31)
        a.add(R0, R1)

    return f"cmpxchg {mem!r} of another value", emit


@syscall_programs
def test_atomics() -> None:
    cases = known([*atomics(), failing_cmpxchg(u64[R10 - 8]), failing_cmpxchg(u32[R10 - 8])])
    assert compare(cases, PAIRS[::3]) == len(cases) * len(PAIRS[::3])


@needs(features.instruction("load_acquire"), "load-acquire and store-release", "6.15")
def test_load_acquire_and_store_release() -> None:
    def case(width: object, at: int) -> Case:
        def emit(a: Asm) -> None:
            mem = width[R10 + at]  # type: ignore[index]
            a.stx(u64[R10 - 8], R2)
            a.store_release(mem, R1)
            a.load_acquire(R0, mem)
            a.ldx(R1, u64[R10 - 8])
            a.mul(R0, 31)
            a.add(R0, R1)

        return f"{width} at {at}", emit

    cases = [case(width, at) for width in (u8, u16, u32, u64) for at in range(-8, 0, width.size)]
    assert compare(cases, PAIRS[::7]) > 1000


# ---- control flow ------------------------------------------------------------------------------------------------


def same(a: Asm, context: bytes) -> bytes:
    """Run a whole program on both; the context that both leave."""
    made = a.build()
    with LoadedProgram.load(made, source_lines=False) as loaded:
        kernel = loaded.test_run(ctx=context).ctx_out
    assert kernel == on_model(made, context)
    return kernel


@syscall_programs
def test_wide_constants() -> None:
    a = Asm("syscall", name="wide")
    for at, value in enumerate(EDGES):
        a.lddw(R2, value)
        a.stx(u64[R1 + 8 * at], R2)
    a.mov(R0, 0)
    a.exit_()
    assert struct.unpack(f"<{len(EDGES)}Q", same(a, bytes(8 * len(EDGES)))) == tuple(EDGES)


@syscall_programs
def test_calls_keep_r6_to_r9_and_have_their_own_stack() -> None:
    a = Asm("syscall", name="calls")
    a.mov(R6, R1)
    a.mov(R7, 77)
    a.st(u64[R10 - 8], 1)
    a.ldx(R1, u64[R6])
    a.call_function("triple", R1)
    a.stx(u64[R6], R0)
    a.stx(u64[R6 + 8], R7)
    a.ldx(R0, u64[R10 - 8])
    a.stx(u64[R6 + 16], R0)
    a.mov(R0, 0)
    a.exit_()
    with a.function("triple", 1):
        a.mov(R7, R1)
        a.stx(u64[R10 - 8], R1)
        a.ldx(R0, u64[R10 - 8])
        a.add(R0, R7)
        a.add(R0, R7)
        a.exit_()
    assert struct.unpack("<3Q", same(a, struct.pack("<3Q", 14, 0, 0))) == (42, 77, 1)


@syscall_programs
def test_blocks_on_the_kernel() -> None:
    a = Asm("syscall", name="blocks")
    a.mov(R6, R1)
    a.mov(R0, 0)
    with a.loop(R7, 50) as loop:
        a.ldx(R1, u64[R6])
        a.jump(R7, ">=", R1, loop.break_)
        with a.if_(R7, "&", 1):
            a.add(R0, R7)
        with a.else_():
            a.sub(R0, 1)
    a.stx(u64[R6 + 8], R0)
    a.mov(R0, 0)
    a.exit_()
    for limit in (0, 1, 7, 50, 60):
        left = struct.unpack("<2Q", same(a, struct.pack("<2Q", limit, 0)))
        rounds = range(min(limit, 50))
        assert left[1] == sum(n if n & 1 else -1 for n in rounds) & M64


@needs(features.cpu_level("v4"), "cpu v4", "6.6")
def test_gotol_beyond_16_bits() -> None:
    a = Asm("syscall", name="far", cpu="v4")
    a.ldx(R2, u64[R1])
    a.mov(R0, 0)
    out = a.label()
    a.jeq(R2, 1, out)
    for _ in range(33_000):
        a.add(R0, 1)
    a.bind(out)
    a.stx(u64[R1], R0)
    a.mov(R0, 0)
    a.exit_()
    assert struct.unpack("<Q", same(a, struct.pack("<Q", 1))) == (0,)
    assert struct.unpack("<Q", same(a, struct.pack("<Q", 2))) == (33_000,)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_packet_loads(bits: int) -> None:
    """Network byte order; a load outside ends the program with 0."""
    packet = bytes(range(14)) + bytes.fromhex("80ff0102f3f4f5f6")
    for index, offset in itertools.product((-1, 0, 1, 4, 6, 8, 100), (0, 1, 4)):
        a = Asm("socket", name="packet")
        a.mov(R6, R1)
        a.mov(R7, index)
        a.ld_ind(bits, R7, offset)
        a.exit_()
        made = a.build()
        with LoadedProgram.load(made, source_lines=False) as loaded:
            kernel = loaded.test_run(data=packet).retval
        model = Machine(made.encode(), packet=packet[14:]).run(0) & op.U32_MAX
        assert kernel == model, (index, offset)
        if index >= 0 and index + offset + bits // 8 <= 8:
            start = 14 + index + offset
            assert kernel == int.from_bytes(packet[start : start + bits // 8], "big")
