"""The generator and the runner on this kernel: rate, verdicts, shrinking, and the same results as the model."""

from __future__ import annotations

import os

import pytest

from pylsm.asm import opcodes as op
from pylsm.asm.disasm import to_text
from pylsm.asm.generate import Weights, generate, mutate
from pylsm.asm.model import Machine
from pylsm.loader import LoadedProgram
from pylsm.research import campaign, shrink, try_load
from pylsm.research.__main__ import main

RELEASE = tuple(int(part) for part in os.uname().release.split(".")[:2])
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(RELEASE < (6, 15), reason="load-acquire, which the generator uses, needs Linux 6.15"),
]


def test_friendly_programs_are_accepted_10_000_a_minute() -> None:
    result = campaign(generate, range(2000))
    assert set(result.tallies) == {"accepted"}, str(result)
    assert result.per_minute > 10_000, str(result)


def test_broken_programs_are_refused_for_many_reasons() -> None:
    result = campaign(lambda seed: mutate(generate(seed), seed, times=2), range(600))
    assert 0 < result.tallies["accepted"].programs < 600
    assert {"R# !read_ok", "BPF_ALU uses reserved fields"} <= set(result.tallies)
    assert len(result.tallies) >= 8, str(result)


def test_random_fields_are_mostly_refused() -> None:
    result = campaign(lambda seed: generate(seed, friendly=False), range(300))
    assert sum(t.programs for kind, t in result.tallies.items() if kind != "accepted") > 290


@pytest.mark.parametrize("length", [20, 60])
def test_kernel_and_model_compute_the_same(length: int) -> None:
    """Whole programs: every class of instruction in interplay, every register and stack word in the result."""
    for seed in range(300):
        made = generate(seed, length=length, weights=Weights(call=0))
        with LoadedProgram.load(made, source_lines=False) as loaded:
            kernel = loaded.test_run().retval
        assert kernel == Machine(made.encode()).run() & op.U32_MAX, f"seed {seed}"


def test_shrink_to_the_reason() -> None:
    def make(seed: int) -> object:
        return mutate(generate(seed, length=40), seed)

    wanted = "R# !read_ok"
    program = next(p for p in map(make, range(200)) if try_load(p).kind == wanted)
    small = shrink(program, lambda p: try_load(p).kind == wanted)
    assert try_load(small).kind == wanted
    assert len(small.instructions) <= 2, [to_text(i) for i in small.instructions]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-n", "50", "-s", "7"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["50", "100.0%", "seed", "7", "accepted"]
    assert main(["--shrink", "4", "-m", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("; ") and "→" in lines[0]
    assert 1 <= len(lines) - 1 <= 4
