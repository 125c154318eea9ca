"""How a program is loaded, against a kernel that answers from a script: logs that grow, BTF that is refused."""

from __future__ import annotations

import ctypes
import errno

import pytest

from pylsm.asm import Function, Instruction, Program, SourceLine
from pylsm.asm import opcodes as op
from pylsm.loader import BpfError, LoadedProgram, SpecError, VerifierError
from pylsm.loader import program as module
from pylsm.loader.attr import Cmd, ProgLoadAttr
from pylsm.loader.bpf import Handle

PROGRAM = Program(
    "tiny",
    "socket",
    (Instruction(op.ALU64 | op.MOV | op.K, 0), Instruction(op.JMP | op.EXIT)),
    (Function("tiny", 0, 1),),
)
LINED = PROGRAM._replace(
    instructions=(*PROGRAM.instructions[:1], Instruction(op.JMP | op.EXIT, line=SourceLine("x", 1)))
)


class Verifier:
    """PROG_LOAD: a verdict, and a log that has to fit the buffer as in the kernel.

    ``limit`` is the largest buffer it takes; ``tells`` whether it says how large one it would have needed (6.4).
    """

    def __init__(
        self,
        verdict: int,
        log: str = "",
        *,
        limit: int = 1 << 30,
        tells: bool = True,
        refuses_btf: bool = False,
    ) -> None:
        self.verdict = verdict
        self.log = log.encode()
        self.limit = limit
        self.tells = tells
        self.refuses_btf = refuses_btf
        self.asked: list[tuple[int, int, bool]] = []  # level, buffer, with BTF

    def __call__(self, cmd: Cmd, attr: ProgLoadAttr) -> int:
        assert cmd is Cmd.PROG_LOAD
        self.asked.append((attr.log_level, attr.log_size, bool(attr.func_info_cnt)))
        assert bool(attr.log_level) == bool(attr.log_size) == bool(attr.log_buf)
        if attr.log_size > self.limit:
            return -errno.EINVAL
        verdict = -errno.EINVAL if self.refuses_btf and attr.func_info_cnt else self.verdict
        if attr.log_level:
            text = self.log + b"\0"
            kept = text[: attr.log_size - 1] + b"\0"
            ctypes.memmove(attr.log_buf, kept, min(len(kept), attr.log_size))
            if self.tells:
                attr.log_true_size = len(text)
            if len(text) > attr.log_size:
                return -errno.ENOSPC
        return verdict


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_btf", lambda data: (Handle(0, owned=False), ""))


def load(
    monkeypatch: pytest.MonkeyPatch, verifier: Verifier, program: Program = PROGRAM, **options: int
) -> LoadedProgram:
    monkeypatch.setattr(module, "bpf_errno", verifier)
    return LoadedProgram.load(program, **options)  # type: ignore[arg-type]


def borrowed(loaded: LoadedProgram) -> LoadedProgram:
    loaded._owned = False  # the descriptor is made up
    return loaded


def test_an_accepted_program_costs_one_call_and_no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(99, "much to say")
    loaded = borrowed(load(monkeypatch, verifier))
    assert (loaded.fileno(), loaded.log) == (99, "")
    assert verifier.asked == [(0, 0, False)]


def test_a_refused_one_is_asked_again_for_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(-errno.EACCES, "0: (95) exit\nR0 !read_ok\nprocessed 1 insns\n")
    with pytest.raises(VerifierError) as caught:
        load(monkeypatch, verifier)
    assert caught.value.errno == errno.EACCES
    assert caught.value.reason == "R0 !read_ok"
    assert caught.value.log == verifier.log.decode()
    assert verifier.asked == [(0, 0, False), (1, 1 << 16, False)]


@pytest.mark.parametrize("tells", [True, False], ids=["with log_true_size", "without"])
def test_a_long_log_comes_whole_and_never_hides_the_errno(monkeypatch: pytest.MonkeyPatch, tells: bool) -> None:
    log = "0: (95) exit\n" + "; noise\n" * 300_000 + "R0 !read_ok\nprocessed 1 insns\n"
    verifier = Verifier(-errno.EACCES, log, limit=(1 << 24) - 1 if not tells else 1 << 30, tells=tells)
    with pytest.raises(VerifierError) as caught:
        load(monkeypatch, verifier)
    assert caught.value.errno == errno.EACCES
    assert caught.value.log == log
    assert caught.value.reason == "R0 !read_ok"


def test_a_log_that_no_buffer_holds_still_leaves_the_errno(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 5.15 no kernel takes more than 16 MiB, and a log of every state may be longer."""
    log = "0: (95) exit\nR0 !read_ok\n" + "x" * (1 << 24)
    verifier = Verifier(-errno.EACCES, log, limit=(1 << 24) - 1, tells=False)
    with pytest.raises(VerifierError) as caught:
        load(monkeypatch, verifier)
    assert caught.value.errno == errno.EACCES
    assert len(caught.value.log) > 1 << 23, "as much of it as fits"


def test_a_log_level_asked_for_is_used_at_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(99, "0: R1=ctx()\nprocessed 2 insns\n")
    loaded = borrowed(load(monkeypatch, verifier, log_level=2))
    assert verifier.asked == [(2, 1 << 16, False)]
    assert loaded.log == "0: R1=ctx()\nprocessed 2 insns\n"


def test_an_accepted_program_is_not_lost_to_its_own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(99, "x" * (1 << 24), limit=(1 << 24) - 1, tells=False)
    loaded = borrowed(load(monkeypatch, verifier, log_level=2))
    assert loaded.fileno() == 99
    assert verifier.asked[-1] == (0, 0, False)


def test_without_a_log_it_was_not_the_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BpfError) as caught:
        load(monkeypatch, Verifier(-errno.EPERM))
    assert not isinstance(caught.value, VerifierError)
    assert str(caught.value) == ("cannot load program 'tiny' (socket): BPF_PROG_LOAD: EPERM (Operation not permitted)")


def test_a_kernel_that_refuses_the_btf_gets_the_program_without(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(99, "Invalid line_info", refuses_btf=True)
    loaded = borrowed(load(monkeypatch, verifier, LINED))
    assert loaded.fileno() == 99
    assert "errno 22: Invalid line_info" in loaded.btf_refusal
    assert [btf for _, _, btf in verifier.asked] == [True, True, False]


def test_a_program_refused_with_and_without_btf_is_reported_with_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(-errno.EACCES, "0: (b7) r0 = 0\n1: (95) exit\nno good\nprocessed 2 insns\n")
    with pytest.raises(VerifierError) as caught:
        load(monkeypatch, verifier, LINED)
    assert caught.value.line == SourceLine("x", 1)
    assert caught.value.reason == "no good"


def test_source_lines_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = Verifier(99)
    borrowed(load(monkeypatch, verifier, LINED, source_lines=False))
    assert verifier.asked == [(0, 0, False)]


@pytest.mark.parametrize(
    ("name", "shown"), [("file_open", b"file_open"), ("a" * 20, b"a" * 15), ("größe-1", b"gr__e_1"), ("a.b", b"a.b")]
)
def test_names_the_kernel_takes(name: str, shown: bytes) -> None:
    assert module._kernel_name(name) == shown


def test_attach_options_are_checked() -> None:
    from pylsm.loader.sections import parse_section

    def loaded(section: str) -> LoadedProgram:
        return borrowed(LoadedProgram(99, PROGRAM, parse_section(section), label="program 'tiny'"))

    with pytest.raises(SpecError, match="no attach option 'target': it takes cookie"):
        loaded("raw_tp/x").attach(target=3)
    with pytest.raises(SpecError, match="attaches to a socket: give socket="):
        loaded("socket").attach()
    with pytest.raises(SpecError, match="give target=, an interface index"):
        loaded("xdp").attach()
    with pytest.raises(SpecError, match="give target=, a file descriptor"):
        loaded("cgroup_skb/egress").attach()
    with pytest.raises(SpecError, match="'up' is neither"):
        loaded("tc").attach(target=1, direction="up")
    with pytest.raises(SpecError, match="is not attached, it is run"):
        loaded("syscall").attach()
    with pytest.raises(SpecError, match="does not say where it attaches"):
        borrowed(LoadedProgram(99, None, None, label="program id 3")).attach()
