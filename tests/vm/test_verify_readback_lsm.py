"""The LSM programs as a kernel with BPF LSM gives them back: the verdict is returned, whatever the kernel rewrote."""

from __future__ import annotations

import pytest

from pylsm.asm import R0, R1, R6, Asm, u64
from pylsm.asm.proof import NotProved
from pylsm.audit.proof import TAIL_CALLS, require_observe_only, verdict_argument
from pylsm.audit.sources import LACKING, SOURCES
from pylsm.loader import LoadedProgram, Object
from pylsm.loader.bpf import kernel_release
from pylsm.loader.readback import prove_loaded

pytestmark = pytest.mark.vm


def test_lsm_programs_as_loaded_return_their_verdict() -> None:
    source = SOURCES[0]
    variants = source.variants_of(kernel_release())
    for variant in variants:
        try:
            opened = Object(source.all(variant))
        except LACKING:
            assert variant is not variants[-1]
            continue
        with opened:
            for name, argument in (("file_open", 1), ("file_open_walk", 1), ("socket_connect", 3)):
                program = opened.programs[name]
                assert verdict_argument(program.program.section) == argument  # type: ignore[union-attr]
                proof = prove_loaded(program, argument, tail_calls=TAIL_CALLS)
                assert [end.returns for end in proof.exits] == [f"the verdict (argument {argument})"]
        return


def test_a_program_that_denies_is_refused_as_loaded() -> None:
    """The kernel takes it; the proof does not."""
    a = Asm("lsm/file_open")
    a.mov(R6, R1)
    a.call("get_current_pid_tgid")
    with a.if_(R0, "==", 1):
        a.mov(R0, -1)
        a.exit_()
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    program = a.build()
    with pytest.raises(NotProved, match="the number -1"):
        require_observe_only([program])
    with LoadedProgram.load(program) as loaded, pytest.raises(NotProved, match="the number -1"):
        prove_loaded(loaded, 1)


def test_a_hook_that_returns_nothing_has_no_verdict() -> None:
    a = Asm("lsm/bprm_committed_creds")
    a.mov(R0, 0)
    a.exit_()
    assert verdict_argument("lsm/bprm_committed_creds") is None
    assert require_observe_only([a.build()])[0].why == "the hook returns nothing"
