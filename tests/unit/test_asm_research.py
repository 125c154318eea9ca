"""`pylsm.research` without a kernel: classes of reasons, tables, and shrinking by any property."""

from __future__ import annotations

import pytest

from pylsm.asm import Program
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import to_text
from pylsm.asm.generate import generate
from pylsm.asm.parse import parse_program
from pylsm.research import Outcome, campaign, reason_class, shrink


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("R3 !read_ok", "R# !read_ok"),
        ("invalid write to stack R10 off=-600 size=8", "invalid write to stack R# off=# size=#"),
        ("misaligned stack access off 0+0+-7 size 8", "misaligned stack access off #+#+# size #"),
        ("invalid func unknown#500", "invalid func unknown##"),
        ("jump out of range from insn 3 to 70", "jump out of range from insn # to #"),
        ("BPF_ATOMIC uses invalid atomic opcode ff", "BPF_ATOMIC uses invalid atomic opcode #"),
        ("ldimm64 insn specifies invalid btf_id -1.", "ldimm64 insn specifies invalid btf_id #."),
        ("R1 invalid mem access 'scalar'", "R# invalid mem access 'scalar'"),
        ("BPF_MOV uses reserved fields", "BPF_MOV uses reserved fields"),
    ],
)
def test_reason_class(reason: str, kind: str) -> None:
    assert reason_class(reason) == kind


def test_campaign_counts() -> None:
    def judge(program: Program) -> Outcome:
        return Outcome("odd" if int(program.name[5:]) % 3 else "accepted", program.name)

    result = campaign(generate, range(10, 40), judge)
    assert [(kind, t.programs, t.seed) for kind, t in result.tallies.items()] == [("odd", 20, 10), ("accepted", 10, 12)]
    assert result.tallies["odd"].first.reason == "seed_10"
    assert "66.7%  seed 10        odd" in str(result)
    assert str(result).splitlines()[-1].endswith("a minute")


def test_shrink_to_one_instruction() -> None:
    def has_a_wide_constant(program: Program) -> bool:
        return any(i.opcode == op.LDDW for i in program.instructions)

    small = shrink(next(p for p in map(generate, range(99)) if has_a_wide_constant(p)), has_a_wide_constant)
    assert [i.opcode for i in small.instructions] == [op.LDDW]
    assert small.instructions[0].imm in (0, 1)


def test_shrink_keeps_jumps_on_their_targets() -> None:
    program = parse_program(
        "r0 = 0\nr1 = 0\nif r1 == 0x5 goto out\nr2 = 1\nr3 = 0x5 ll\nr0 = 7\nout: r0 += 1\nr4 = 4\nexit\n"
    )

    def jumps_to_the_addition(candidate: Program) -> bool:
        text = [to_text(i) for i in candidate.instructions]
        return "if r1 == 0x5 goto pc+1" in text and text[text.index("if r1 == 0x5 goto pc+1") + 2 :][:1] == ["r0 += 1"]

    def jumps_over_something(candidate: Program) -> bool:
        at = [n for n, i in enumerate(candidate.instructions) if i.opcode == op.JMP | op.JEQ]
        return bool(at) and candidate.instructions[at[0]].off >= 1

    small = shrink(program, jumps_over_something)
    assert len(small.instructions) == 2
    assert not jumps_to_the_addition(program)


def test_shrink_needs_the_property() -> None:
    with pytest.raises(ValueError, match="does not have the property"):
        shrink(generate(1), lambda program: False)
