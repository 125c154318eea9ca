"""Mutants of a program that observes only: which of them its proof still holds for, and that these change no verdict.

Every field of every instruction is changed in turn, and every instruction is left out. What is still proved is run on
the model of RFC 9669 (`pylsm.asm.model`) with random memory, helpers that answer at random and a random verdict.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from pylsm.asm import opcodes as op
from pylsm.asm.disasm import to_text
from pylsm.asm.helpers import by_number
from pylsm.asm.instruction import Instruction, encode
from pylsm.asm.model import Machine, ModelError
from pylsm.asm.program import Program
from pylsm.asm.proof import NotProved
from pylsm.asm.references import FieldRef, MapRef, MapValueRef
from pylsm.asm.verify import returns_unchanged

__all__ = [
    "HARMLESS",
    "Mutant",
    "changes_the_verdict",
    "mutants",
    "mutations",
    "resolved",
    "run",
    "still_proved",
    "why_harmless",
]

#: What a surviving mutant does, by the instruction that was changed. In each case the verdict is loaded from the
#: context at the end, as before; some mutants the kernel's own verifier refuses.
HARMLESS = {
    "arithmetic": "another number is recorded or counted, or another place in the probe's own memory is written",
    "wide load": "another constant, or another of the probe's own maps",
    "load": "other data is read: recorded or followed, not returned",
    "store or atomic": "another value, or another place in the probe's own memory, whose bounds the kernel keeps",
    "jump": "another path, and each ends in the same load of the verdict",
    "call": "another helper of the list",
    "load of the verdict": "the 32-bit load (the half that the kernel looks at), or a field that loads do not have",
    "exit": "a field that exit does not have (refused by the kernel)",
}

_CLASSES = {
    op.ALU64: "arithmetic",
    op.ALU: "arithmetic",
    op.LD: "wide load",
    op.LDX: "load",
    op.ST: "store or atomic",
    op.STX: "store or atomic",
    op.JMP: "jump",
    op.JMP32: "jump",
}
_WITH_OFFSET = (op.LDX, op.ST, op.STX, op.JMP, op.JMP32)
_ENDS = {op.JMP | op.EXIT, op.JMP | op.CALL, op.ALU64 | op.MOV | op.K}


class Mutant(NamedTuple):
    """One change.

    Attributes:
        at: the index of the instruction that was changed.
        field: what of it: "dst", "src", "off", "imm", "opcode", or "dropped".
        code: the whole changed program.
    """

    at: int
    field: str
    code: tuple[Instruction, ...]

    def __str__(self) -> str:
        now = "left out" if self.field == "dropped" else to_text(self.code[self.at]).strip()
        return f"instruction {self.at}, {self.field}: now {now}"


def resolved(program: Program) -> tuple[Instruction, ...]:
    """Its instructions with numbers for references: maps by their index from 1 on, offsets of fields made up."""
    names = [spec.name for spec in program.maps]
    out = []
    for number, i in enumerate(program.instructions):
        if isinstance(i.reference, (MapRef, MapValueRef)):
            i = i.replace(imm=names.index(i.reference.name) + 1)
        elif isinstance(i.reference, FieldRef):
            offset = number * 8 % 256
            i = i.replace(off=offset) if i.opcode & 7 in (op.LDX, op.ST, op.STX) else i.replace(imm=offset)
        out.append(i)
    return tuple(out)


def mutations(i: Instruction) -> Iterator[tuple[str, Instruction]]:
    """Every single change of a field: registers, each bit of the offset, the immediate, the opcode."""

    def made(**changed: int) -> Instruction:
        fields = {"opcode": i.opcode, "dst": i.dst, "src": i.src, "off": i.off, "imm": i.imm, **changed}
        return Instruction(**fields, line=i.line)  # type: ignore[arg-type]

    for register in range(11):
        if register != i.dst:
            yield "dst", made(dst=register)
        if register != i.src:
            yield "src", made(src=register)
    for bit in range(16 if i.opcode & 7 in _WITH_OFFSET else 2):
        off = (i.off & 0xFFFF) ^ 1 << bit
        yield "off", made(off=off - (off >> 15 << 16))
    for imm in sorted({0, 1, -1, i.imm + 1, i.imm - 1, i.imm ^ 4, i.imm ^ 1 << 30, i.imm * 2} - {i.imm}):
        if -0x80000000 <= imm <= 0x7FFFFFFF:
            yield "imm", made(imm=imm)
    if i.opcode == op.LDDW:
        return  # any other opcode would leave its second half as an instruction of its own: never valid
    alike = {i.opcode & 7 | high << 3 for high in range(32)} | {i.opcode ^ 1 << bit for bit in range(8)}
    for opcode in sorted((alike | _ENDS) - {i.opcode, op.LDDW}):
        yield "opcode", made(opcode=opcode)


def mutants(code: Sequence[Instruction], step: int = 1) -> Iterator[Mutant]:
    """All mutants of `resolved` code; of every ``step``-th instruction."""
    code = tuple(code)
    for index in range(0, len(code), step):
        for field, changed in mutations(code[index]):
            yield Mutant(index, field, (*code[:index], changed, *code[index + 1 :]))
        yield Mutant(index, "dropped", (*code[:index], *code[index + 1 :]))


def still_proved(
    mutant: Mutant, program: Program, verdict_argument: int | None, tail_calls: Sequence[str] = ()
) -> bool:
    """Whether the proof holds for the mutant; arguments as of `returns_unchanged`."""
    maps = dict(enumerate(program.maps, 1))
    try:
        returns_unchanged(mutant.code, verdict_argument, section=program.section, maps=maps, tail_calls=tail_calls)
    except NotProved:
        return False
    return True


def why_harmless(mutant: Mutant, code: Sequence[Instruction]) -> str:
    """A key of `HARMLESS`: what kind of instruction it was in the unchanged ``code``."""
    i = code[mutant.at]
    if i.opcode == op.JMP | op.EXIT:
        return "exit"
    if i.opcode == op.JMP | op.CALL:
        return "call"
    if mutant.at == len(code) - 2 and i.opcode & 7 == op.LDX and i.dst == 0:
        return "load of the verdict"
    return _CLASSES[i.opcode & 7]


def run(code: Sequence[Instruction], program: Program, verdict_argument: int, seed: int) -> tuple[int, int, int]:
    """(what was returned, the verdict it was given, instructions run), on random memory and with random helpers.

    Raises:
        ModelError: it does what no kernel would let it do.
        AssertionError: it is no program that can be encoded.
    """
    rng = random.Random(seed)
    helpers: dict[int, Callable[..., int]] = {}
    machine = Machine(b"", helpers=helpers)
    memory = bytearray(4096)
    base = machine.map(memory)
    places = rng.choice((1, 1, 256))
    for at in range(0, len(memory), 8):  # wherever the program looks, it finds a pointer to more of the same
        memory[at : at + 8] = (base + 8 * rng.randrange(places)).to_bytes(8, "little")
    values = [machine.map(bytearray(max(spec.value_size, 1024))) for spec in program.maps]

    def loaded(i: Instruction) -> Instruction:
        """The model knows no maps: numbers for them, and where a value is."""
        inside = i.src == op.PSEUDO_MAP_VALUE and 0 < i.imm <= len(values)
        return i.replace(src=0, imm=values[i.imm - 1] if inside else i.imm)

    plain = [loaded(i) if i.opcode == op.LDDW else i for i in code]
    machine._slots = Machine(encode(plain))._slots
    record = machine.map(bytearray(4096))

    def lookup(m: Machine, map_: int, *_: int) -> int:
        return values[map_ - 1] if 0 < map_ <= len(values) and rng.random() < 0.8 else 0

    def fill(m: Machine, dst: int, size: int, *_: int) -> int:
        for at in range(min(size, 64)):
            m.write(dst + at, 1, rng.randrange(256) if at != 1 else 0)
        if size == 8 and rng.random() < 0.8:
            m.write(dst, 8, base + rng.randrange(0, 2048, 8))
        elif size >= 2:
            m.write(dst, 2, rng.choice((1, 2, 10)))
        return rng.choice((0, 0, 0, 4, -14))

    special: dict[str, Callable[..., int]] = {
        "map_lookup_elem": lookup,
        "task_storage_get": lookup,
        "ringbuf_reserve": lambda m, *_: rng.choice((0, record, record)),
        "d_path": lambda m, path, buffer, size, *_: abs(fill(m, buffer, min(size, 64))) or rng.randrange(1, 64),
        "get_current_task": lambda m, *_: base,
        "get_current_task_btf": lambda m, *_: base,
        # A call that goes through does not come back: what comes back is its failure.
        "tail_call": lambda m, *_: -2,
    }
    for name in ("probe_read_kernel", "probe_read_kernel_str", "get_current_comm", "probe_read", "probe_read_user"):
        special[name] = fill
    for number in range(1, 212):
        helper = by_number(number)
        assert helper is not None
        helpers[number] = special.get(helper.name, lambda m, *_: rng.choice((0, 0, 1, rng.getrandbits(64))))
    machine._helpers = helpers
    verdict = rng.choice((0, -1 & op.U64_MAX, -13 & op.U64_MAX, rng.getrandbits(64)))
    arguments = [base + rng.randrange(0, 2048, 8) for _ in range(6)]
    if verdict_argument == 3:
        arguments[2] = rng.choice((16, 24, 28, 2))
    arguments[verdict_argument] = verdict
    context = bytearray(b"".join(value.to_bytes(8, "little") for value in arguments))
    return machine.run(machine.map(context), limit=20_000), verdict, machine.steps


def changes_the_verdict(mutant: Mutant, program: Program, verdict_argument: int, seed: int) -> bool | None:
    """Whether a run of a mutant returns another verdict, of the 32 bits that the kernel looks at; None: no end."""
    try:
        returned, verdict, _ = run(mutant.code, program, verdict_argument, seed)
    except (ModelError, AssertionError):
        return None
    return returned & op.U32_MAX != verdict & op.U32_MAX
