"""Mutants of the shipped programs: each that can change a verdict is refused by the proof.

Every field of every instruction is changed in turn, and every instruction is left out. Mutants that are still proved
are run on the model of RFC 9669 with random memory and helpers that answer at random: none returns another verdict.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from pylsm.asm import Instruction, Program, encode
from pylsm.asm import opcodes as op
from pylsm.asm.helpers import by_number
from pylsm.asm.model import Machine, ModelError
from pylsm.asm.proof import NotProved
from pylsm.asm.references import FieldRef, MapRef, MapValueRef
from pylsm.asm.verify import returns_unchanged
from pylsm.audit.programs.file_open import file_open
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.audit.proof import TAIL_CALLS

_SHIPPED = {
    "file_open": (file_open("d_path"), 1),
    "file_open, walk": (file_open("walk", typed_task=False), 1),
    "socket_connect": (socket_connect(), 3),
}

#: Why a mutant that is still proved is harmless, by the class of the instruction that was changed. All of them change
#: what is recorded, counted or kept in the probe's own maps, or are refused by the kernel's verifier; none the verdict.
HARMLESS = {
    op.ALU64: "another number, or another place in the probe's own memory",
    op.ALU: "another number",
    op.LD: "another constant, or another of the probe's own maps",
    op.LDX: "other data is read: it is recorded or followed, not returned",
    op.ST: "another value, or another place in the probe's own memory",
    op.STX: "another value, or another place in the probe's own memory",
    op.JMP: "another path, of which each ends in the same load of the verdict; or another call on the list",
    op.JMP32: "another path, of which each ends in the same load of the verdict",
}


_WITH_OFFSET = (op.LDX, op.ST, op.STX, op.JMP, op.JMP32)
_ENDS = {op.JMP | op.EXIT, op.JMP | op.CALL, op.ALU64 | op.MOV | op.K}


def resolved(program: Program) -> tuple[Instruction, ...]:
    """With numbers for references: maps by their index from 1 on, offsets of fields made up."""
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


def mutants(i: Instruction) -> Iterator[tuple[str, Instruction]]:
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
    for imm in {0, 1, -1, i.imm + 1, i.imm - 1, i.imm ^ 4, i.imm ^ 1 << 30, i.imm * 2} - {i.imm}:
        if -0x80000000 <= imm <= 0x7FFFFFFF:
            yield "imm", made(imm=imm)
    if i.opcode == op.LDDW:
        return  # any other opcode would leave its second half as an instruction of its own: never valid
    alike = {i.opcode & 7 | high << 3 for high in range(32)} | {i.opcode ^ 1 << bit for bit in range(8)}
    for opcode in sorted((alike | _ENDS) - {i.opcode, op.LDDW}):
        yield "opcode", made(opcode=opcode)


def run(code: tuple[Instruction, ...], program: Program, verdict_argument: int, seed: int) -> tuple[int, int, int]:
    """(returned, the verdict it was given, instructions run), on random memory and with random helpers."""
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

    special = {
        "map_lookup_elem": lookup,
        "task_storage_get": lookup,
        "ringbuf_reserve": lambda m, *_: rng.choice((0, record, record)),
        "d_path": lambda m, path, buffer, size, *_: abs(fill(m, buffer, min(size, 64))) or rng.randrange(1, 64),
        "get_current_task": lambda m, *_: base,
        "get_current_task_btf": lambda m, *_: base,
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


@pytest.mark.parametrize("name", _SHIPPED)
def test_the_oracle_sees_many_paths_of_the_unchanged_program(name: str) -> None:
    """Random memory and helpers reach most of the program, so a survivor's runs say something."""
    program, argument = _SHIPPED[name]
    code = resolved(program)
    lengths = set()
    for seed in range(60):
        returned, verdict, steps = run(code, program, argument, seed)
        assert returned == verdict
        lengths.add(steps)
    assert len(lengths) > 3 and max(lengths) > len(code) // 2


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", _SHIPPED)
def test_each_mutant_that_can_change_a_verdict_is_caught(name: str) -> None:
    program, argument = _SHIPPED[name]
    code = resolved(program)
    maps = dict(enumerate(program.maps, 1))
    caught: Counter[str] = Counter()
    survived: Counter[tuple[str, int]] = Counter()
    ended = 0
    step = 1 if len(code) < 200 else 3  # the long program differs from the others in its middle only
    for index, instruction in list(enumerate(code))[::step]:
        for field, mutant in [*mutants(instruction), ("dropped", None)]:
            changed = (*code[:index], *((mutant,) if mutant is not None else ()), *code[index + 1 :])
            try:
                returns_unchanged(changed, argument, section=program.section, maps=maps, tail_calls=TAIL_CALLS)
            except NotProved:
                caught[field] += 1
                continue
            survived[field, instruction.opcode & 7] += 1
            if sum(survived.values()) % _EVERY:
                continue
            try:
                returned, verdict, _ = run(changed, program, argument, index * 7 + sum(survived.values()))
            except (ModelError, AssertionError):
                continue  # the kernel's verifier would not have taken it
            ended += 1
            # A 32-bit load of the verdict has the half of it that the kernel looks at.
            assert returned & op.U32_MAX == verdict & op.U32_MAX, (index, field, instruction, mutant)
    assert ended > 300 and set(caught) == {"dst", "src", "off", "imm", "opcode", "dropped"}
    assert {cls for _, cls in survived} <= set(HARMLESS)
    print(f"\n{name}: {sum(caught.values())} caught {dict(caught)}, {sum(survived.values())} survived, {ended} run")


_EVERY = 3


@pytest.mark.parametrize("name", _SHIPPED)
def test_survivors_at_the_verdict_itself(name: str) -> None:
    """The load of the verdict and the exit: whatever of them can be changed and is still proved means the same."""
    program, argument = _SHIPPED[name]
    code = resolved(program)
    maps = dict(enumerate(program.maps, 1))
    load, end = len(code) - 2, len(code) - 1
    assert code[load].dst == 0 and code[end].opcode == op.JMP | op.EXIT
    alive = set()
    for index in (load, end):
        for field, mutant in mutants(code[index]):
            changed = (*code[:index], mutant, *code[index + 1 :])
            try:
                returns_unchanged(changed, argument, section=program.section, maps=maps, tail_calls=TAIL_CALLS)
            except NotProved:
                continue
            alive.add((index, field, mutant.opcode))
    assert {entry for entry in alive if entry[0] == load} == {
        (load, "imm", op.LDX | op.MEM | op.DW),  # a field that a load does not have; the kernel refuses it set
        (load, "opcode", op.LDX | op.MEM | op.W),  # the half of the verdict that the kernel looks at
    }
    # Fields that exit does not have.
    assert {entry[1:] for entry in alive if entry[0] == end} == {
        (field, op.JMP | op.EXIT) for field in ("dst", "src", "off", "imm")
    }


def test_the_oracle_catches_what_the_proof_must_catch() -> None:
    """Mutants near the end, run without asking the proof: those that change a verdict exist, and are refused."""
    program, argument = _SHIPPED["socket_connect"]
    code = resolved(program)
    maps = dict(enumerate(program.maps, 1))
    changing = 0
    for index in (0, *range(len(code) - 4, len(code))):
        for _, mutant in mutants(code[index]):
            changed = (*code[:index], mutant, *code[index + 1 :])
            for seed in range(6):
                try:
                    returned, verdict, _ = run(changed, program, argument, seed)
                except (ModelError, AssertionError):
                    continue
                if returned & op.U32_MAX != verdict & op.U32_MAX:
                    changing += 1
                    with pytest.raises(NotProved):
                        returns_unchanged(changed, argument, section=program.section, maps=maps, tail_calls=TAIL_CALLS)
                    break
    assert changing > 20
