"""Random programs from a seed: material for testing verifiers, JITs, interpreters, and this package.

The same seed and options give the same program on every machine. A *friendly* program is one that a correct verifier
accepts: registers and stack are written before they are read, memory accesses are aligned and inside, jumps go forward,
constants are in range. `mutate` then breaks it a little; an unfriendly program is random in every field.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from pylsm.asm import opcodes as op
from pylsm.asm.errors import OperandError
from pylsm.asm.instruction import Instruction
from pylsm.asm.program import Function, Program

__all__ = ["DEFAULT_WEIGHTS", "Weights", "generate", "mutate"]


class Weights(NamedTuple):
    """How often each class of instruction is taken, relative to the others; 0 leaves it out.

    ``v4`` scales what needs cpu v4: sign extension, signed division, bswap, gotol, acquire and release. ``call`` makes
    calls of helpers without arguments, whose results differ from run to run.
    """

    alu64: float = 8
    alu32: float = 6
    constant: float = 3
    swap: float = 1
    load: float = 4
    store: float = 4
    atomic: float = 2
    jump: float = 4
    jump32: float = 3
    call: float = 1
    v4: float = 1


DEFAULT_WEIGHTS = Weights()

#: Values at which arithmetic and range tracking change their mind.
_EDGES = (0, 1, 2, -1, -2, 7, 8, 31, 32, 63, 64, 127, 128, 255, 256, 32767, 32768, 65535, op.S32_MAX, op.S32_MIN)
_WIDE_EDGES = (1 << 31, op.U32_MAX, 1 << 32, (1 << 63) - 1, 1 << 63, op.U64_MAX)
_SHIFTS = (op.LSH, op.RSH, op.ARSH)
_OPERATIONS = (op.ADD, op.SUB, op.MUL, op.DIV, op.OR, op.AND, op.LSH, op.RSH, op.MOD, op.XOR, op.MOV, op.ARSH, op.NEG)
_ATOMICS = (op.ADD, op.OR, op.AND, op.XOR, op.XCHG, op.CMPXCHG)
_CONDITIONS = tuple(op.CONDITIONS.values())
#: Helpers without arguments that every program type has: ktime_get_ns, get_prandom_u32, get_smp_processor_id,
#: get_numa_node_id, jiffies64.
_HELPERS = (5, 7, 8, 42, 118)
_STACK_WORDS = 8
_SIZES = (op.B, op.H, op.W, op.DW)


class _Writer:
    """One program being written, as chunks: control may enter a chunk at its start only."""

    def __init__(self, rng: random.Random, weights: Weights, level: int) -> None:
        self.rng = rng
        self.v4 = level >= 4 and weights.v4 > 0
        self.v4_share = weights.v4 / (1 + weights.v4)
        self.v3 = level >= 3
        self.kinds = {
            self.alu64: weights.alu64,
            self.alu32: weights.alu32,
            self.constant: weights.constant,
            self.swap: weights.swap,
            self.load: weights.load,
            self.store: weights.store,
            self.atomic: weights.atomic,
            self.jump: weights.jump,
            self.jump32: weights.jump32 if self.v3 else 0,
            self.call: weights.call,
        }
        if not any(self.kinds.values()):
            raise OperandError("every weight is 0: there is nothing to generate")

    # Small draws; `random.random` is several times faster than `randrange`, and this is most of the time.

    def pick(self, low: int, high: int) -> int:
        return low + int(self.rng.random() * (high - low))

    def register(self) -> int:
        return int(self.rng.random() * 10)

    def imm(self) -> int:
        if self.rng.random() < 0.6:
            return _EDGES[int(self.rng.random() * len(_EDGES))]
        return self.pick(op.S32_MIN, op.S32_MAX)

    def newer(self) -> bool:
        """Whether to take the v4 form of something."""
        return self.v4 and self.rng.random() < self.v4_share

    # ---- chunks --------------------------------------------------------------------------------------------------

    def prologue(self) -> list[Instruction]:
        """All scalars known, the top of the stack written."""
        out = [Instruction(op.ALU64 | op.MOV, register, imm=self.imm()) for register in range(10)]
        for word in range(1, _STACK_WORDS + 1):
            out.append(Instruction(op.STX | op.MEM | op.DW, 10, self.register(), -8 * word))
        return out

    def epilogue(self) -> list[Instruction]:
        """Fold everything into r0, both halves, so that a difference anywhere shows in a 32-bit result."""
        out = []
        for register in range(1, 10):
            out.append(Instruction(op.ALU64 | op.MUL, 0, imm=31))
            out.append(Instruction(op.ALU64 | op.ADD | op.X, 0, register))
        for word in range(1, _STACK_WORDS + 1):
            out.append(Instruction(op.LDX | op.MEM | op.DW, 1, 10, -8 * word))
            out.append(Instruction(op.ALU64 | op.MUL, 0, imm=31))
            out.append(Instruction(op.ALU64 | op.ADD | op.X, 0, 1))
        out.append(Instruction(op.ALU64 | op.MOV | op.X, 1, 0))
        out.append(Instruction(op.ALU64 | op.RSH, 1, imm=32))
        out.append(Instruction(op.ALU64 | op.XOR | op.X, 0, 1))
        out.append(Instruction(op.JMP | op.EXIT))
        return out

    def alu64(self) -> list[Instruction]:
        return [self.arithmetic(op.ALU64, 64)]

    def alu32(self) -> list[Instruction]:
        return [self.arithmetic(op.ALU, 32)]

    def arithmetic(self, cls: int, bits: int) -> Instruction:
        operation = _OPERATIONS[int(self.rng.random() * len(_OPERATIONS))]
        dst = self.register()
        if operation == op.NEG:
            return Instruction(cls | op.NEG, dst)
        off = int(operation in (op.DIV, op.MOD) and self.newer())
        if self.rng.random() < 0.5:
            if operation == op.MOV and self.newer():
                off = (8, 16, 32)[self.pick(0, 3 if bits == 64 else 2)]
            return Instruction(cls | operation | op.X, dst, self.register(), off)
        if operation in _SHIFTS:
            return Instruction(cls | operation, dst, imm=self.pick(0, bits))
        imm = self.imm()
        if operation in (op.DIV, op.MOD):
            imm = imm or 1
        return Instruction(cls | operation, dst, 0, off, imm)

    def constant(self) -> list[Instruction]:
        if self.rng.random() < 0.5:
            value = _WIDE_EDGES[int(self.rng.random() * len(_WIDE_EDGES))]
        else:
            value = self.rng.getrandbits(64)
        return [Instruction(op.LDDW, self.register(), imm=value)]

    def swap(self) -> list[Instruction]:
        opcode = op.ALU64 if self.newer() else op.ALU | (op.TO_BE if self.rng.random() < 0.5 else op.TO_LE)
        return [Instruction(opcode | op.END, self.register(), imm=(16, 32, 64)[self.pick(0, 3)])]

    def place(self, size: int) -> int:
        """An aligned offset from r10 inside the part of the stack that is written."""
        width = op.SIZE_BYTES[size]
        return -width * self.pick(1, 8 * _STACK_WORDS // width + 1)

    def load(self) -> list[Instruction]:
        size = _SIZES[self.pick(0, 4)]
        if self.newer():
            if self.rng.random() < 0.3:
                return [Instruction(op.STX | op.ATOMIC | size, self.register(), 10, self.place(size), op.LOAD_ACQ)]
            if size != op.DW:
                return [Instruction(op.LDX | op.MEMSX | size, self.register(), 10, self.place(size))]
        return [Instruction(op.LDX | op.MEM | size, self.register(), 10, self.place(size))]

    def store(self) -> list[Instruction]:
        size = _SIZES[self.pick(0, 4)]
        if self.newer() and self.rng.random() < 0.3:
            return [Instruction(op.STX | op.ATOMIC | size, 10, self.register(), self.place(size), op.STORE_REL)]
        if self.rng.random() < 0.5:
            return [Instruction(op.ST | op.MEM | size, 10, 0, self.place(size), self.imm())]
        return [Instruction(op.STX | op.MEM | size, 10, self.register(), self.place(size))]

    def atomic(self) -> list[Instruction]:
        size = op.DW if self.rng.random() < 0.5 else op.W
        operation = op.ADD
        if self.v3:
            operation = _ATOMICS[int(self.rng.random() * len(_ATOMICS))]
            if operation < op.XCHG and self.rng.random() < 0.5:
                operation |= op.FETCH
        return [Instruction(op.STX | op.ATOMIC | size, 10, self.register(), self.place(size), operation)]

    def jump(self) -> list[Instruction]:
        return [self.condition(op.JMP)]

    def jump32(self) -> list[Instruction]:
        return [self.condition(op.JMP32)]

    def condition(self, cls: int) -> Instruction:
        """``off`` is how many chunks to skip, until `_resolve` turns it into slots."""
        if self.newer() and self.rng.random() < 0.1:
            return Instruction(op.JMP32 | op.JA)  # skips nothing: what nothing leads to is refused
        operation = _CONDITIONS[int(self.rng.random() * len(_CONDITIONS))]
        skip = self.pick(0, 8)
        if self.rng.random() < 0.5:
            return Instruction(cls | operation | op.X, self.register(), self.register(), skip)
        return Instruction(cls | operation, self.register(), 0, skip, self.imm())

    def call(self) -> list[Instruction]:
        """The call, and r1-r5 written again."""
        out = [Instruction(op.JMP | op.CALL, imm=_HELPERS[int(self.rng.random() * len(_HELPERS))])]
        return out + [Instruction(op.ALU64 | op.MOV, register, imm=self.imm()) for register in range(1, 6)]


def generate(
    seed: int,
    *,
    length: int = 30,
    weights: Weights = DEFAULT_WEIGHTS,
    friendly: bool = True,
    cpu: str = "v4",
    section: str = "socket",
) -> Program:
    """A random program.

    Args:
        seed: what it is made from.
        length: random instructions in it; a friendly one has a fixed beginning and end besides.
        weights: how often each class is taken.
        friendly: acceptable to a verifier (see the module); otherwise every field is random within its range.
        cpu: "v1" to "v4": instructions above it are left out.
        section: the kind of program; the context is not used.

    Raises:
        OperandError: a length below 1, or nothing but zero weights.
    """
    if length < 1:
        raise OperandError(f"a program of {length} instructions")
    rng = random.Random(seed)
    writer = _Writer(rng, weights, int(cpu[1:]))
    kinds, shares = list(writer.kinds), list(writer.kinds.values())
    chunks: list[list[Instruction]] = []
    written = 0
    for kind in rng.choices(kinds, shares, k=length):
        chunk = kind()
        chunks.append(chunk)
        written += len(chunk)
        if written >= length:
            break
    if friendly:
        code = writer.prologue() + _resolve(chunks) + writer.epilogue()
    else:
        code = [_scramble(i, rng) for chunk in chunks for i in chunk]
        code.append(Instruction(op.JMP | op.EXIT))
    name = f"seed_{seed}"
    return Program(name, section, tuple(code), (Function(name, 0, 1),))


def _resolve(chunks: list[list[Instruction]]) -> list[Instruction]:
    """Jumps over chunks → jumps over slots; those beyond the last chunk lead to the epilogue."""
    starts, slot = [], 0
    for chunk in chunks:
        starts.append(slot)
        slot += sum(i.slots for i in chunk)
    starts.append(slot)
    out: list[Instruction] = []
    for number, chunk in enumerate(chunks):
        first = chunk[0]
        if first.opcode & 7 in (op.JMP, op.JMP32) and first.off:
            target = starts[min(number + 1 + first.off, len(chunks))]
            chunk = [first.replace(off=target - starts[number] - 1)]
        out += chunk
    return out


def _scramble(i: Instruction, rng: random.Random) -> Instruction:
    """The same opcode with any registers, offset and immediate, near ones and zeros preferred."""
    off = rng.choice((0, 0, 1, -1, 8, -8, -16, rng.randrange(op.S16_MIN, op.S16_MAX)))
    imm = rng.choice((0, i.imm, i.imm, rng.randrange(op.S32_MIN, op.S32_MAX)))
    return Instruction(i.opcode, rng.randrange(11), rng.choice((0, rng.randrange(11))), off, imm)


def mutate(program: Program, seed: int, *, times: int = 1) -> Program:
    """The program with ``times`` random changes of one field, one swap, one repetition or one omission each."""
    rng = random.Random(seed)
    code = list(program.instructions)
    for _ in range(times):
        at = rng.randrange(len(code))
        i = code[at]
        change = rng.randrange(7)
        if change == 0:
            code[at] = Instruction(i.opcode, rng.randrange(11), i.src, i.off, i.imm)
        elif change == 1:
            code[at] = Instruction(i.opcode, i.dst, rng.randrange(11), i.off, i.imm)
        elif change == 2:
            code[at] = i.replace(off=rng.choice((0, 1, -1, i.off ^ 1, i.off // 2, -8, rng.randrange(-600, 600))))
        elif change == 3:
            code[at] = i.replace(imm=rng.choice(_EDGES))
        elif change == 4 and len(code) > 1:
            other = rng.randrange(len(code))
            code[at], code[other] = code[other], code[at]
        elif change == 5:
            code.insert(at, i)
        elif len(code) > 1:
            del code[at]
    return program._replace(instructions=tuple(code))
