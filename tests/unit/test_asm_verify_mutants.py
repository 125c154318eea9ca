"""Mutants of the shipped programs: each that can change a verdict is refused by the proof.

A sample; all of them, and the list of the survivors: tools/mutants, whose figures are in docs/proof.md.
"""

from __future__ import annotations

from collections import Counter

import pytest

from pylsm.asm import MapType, Program
from pylsm.asm import opcodes as op
from pylsm.asm.model import ModelError
from pylsm.audit.pinned import relay
from pylsm.audit.programs.file_open import file_open, file_walker
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.research.mutants import (
    HARMLESS,
    Mutant,
    changes_the_verdict,
    mutants,
    mutations,
    resolved,
    run,
    still_proved,
    why_harmless,
)

#: Name → (program, which argument holds the verdict, every how many-th instruction is changed).
_SHIPPED: dict[str, tuple[Program, int, int]] = {
    "file_open": (file_open("d_path"), 1, 3),
    "file_open, walk": (file_open("walk", typed_task=False), 1, 7),
    "file_open, walker": (file_walker("d_path"), 1, 9),
    "socket_connect": (socket_connect(), 3, 3),
    "relay": (relay("lsm/file_open", "file_open", 1), 1, 1),
}
_EVERY = 3


def tail_calls(program: Program) -> tuple[str, ...]:
    """The program arrays that only proved programs are put into."""
    return tuple(spec.name for spec in program.maps if spec.type is MapType.PROG_ARRAY)


@pytest.mark.parametrize("name", ["file_open", "file_open, walk", "socket_connect"])
def test_the_oracle_sees_many_paths_of_the_unchanged_program(name: str) -> None:
    """Random memory and helpers reach most of the program, so a survivor's runs say something.

    Not of the walker: random memory is no tree of directories, and most of its runs end early.
    """
    program, argument, _ = _SHIPPED[name]
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
    program, argument, step = _SHIPPED[name]
    code = resolved(program)
    caught: Counter[str] = Counter()
    survived = ended = 0
    for mutant in mutants(code, step):
        if not still_proved(mutant, program, argument, tail_calls(program)):
            caught[mutant.field] += 1
            continue
        survived += 1
        assert why_harmless(mutant, code) in HARMLESS
        if survived % _EVERY:
            continue
        changed = changes_the_verdict(mutant, program, argument, mutant.at * 7 + survived)
        assert not changed, f"{mutant}: it was {code[mutant.at]}"
        ended += changed is False
    assert ended > len(code) // step and set(caught) >= {"dst", "off", "imm", "opcode", "dropped"}


@pytest.mark.parametrize("name", _SHIPPED)
def test_survivors_at_the_verdict_itself(name: str) -> None:
    """The load of the verdict and the exit: whatever of them can be changed and is still proved means the same."""
    program, argument, _ = _SHIPPED[name]
    code = resolved(program)
    load, end = len(code) - 2, len(code) - 1
    assert code[load].dst == 0 and code[end].opcode == op.JMP | op.EXIT
    alive = set()
    for index in (load, end):
        for field, changed in mutations(code[index]):
            mutant = Mutant(index, field, (*code[:index], changed, *code[index + 1 :]))
            if still_proved(mutant, program, argument, tail_calls(program)):
                alive.add((index, field, changed.opcode))
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
    program, argument, _ = _SHIPPED["socket_connect"]
    code = resolved(program)
    changing = 0
    for index in (0, *range(len(code) - 4, len(code))):
        for field, changed in mutations(code[index]):
            mutant = Mutant(index, field, (*code[:index], changed, *code[index + 1 :]))
            for seed in range(6):
                try:
                    returned, verdict, _ = run(mutant.code, program, argument, seed)
                except (ModelError, AssertionError):
                    continue
                if returned & op.U32_MAX != verdict & op.U32_MAX:
                    changing += 1
                    assert not still_proved(mutant, program, argument, tail_calls(program))
                    break
    assert changing > 20
