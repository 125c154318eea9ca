"""Births and ends of processes that no program was told of, or only one of its copies (pylsm.audit.skips).

Here they are skipped for certain, on any kernel: the programs are left out. tests/vm/test_load.py has what really is.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cases.kernel import needs
from cases.lab import BACKENDS, CONNECTS_AND_OPENS, Lab, eventually, forked, touch

from pylsm.asm import MapType
from pylsm.audit import session
from pylsm.audit.session import Audit
from pylsm.audit.skips import Skips
from pylsm.audit.sources import Source, copies
from pylsm.audit.targets import descendants
from pylsm.loader import features

pytestmark = pytest.mark.vm

FORK, EXIT, EXEC = (copies(f"sched_process_{act}") for act in ("fork", "exit", "exec"))
marks = needs(features.map_type(MapType.TASK_STORAGE), "task storage", "5.11")
lsm = pytest.mark.skipif("lsm" not in BACKENDS, reason="needs BPF trampolines, on arm64 since 6.4")


class Skipping:
    """What is left out of an audit that is started now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        self.births = self.ends = 0
        family = Source.family
        monkeypatch.setenv("PYLSM_CACHE", "")  # what is left out is not to be left out elsewhere
        monkeypatch.setattr(session, "kernel_release", lambda: (7, 0))
        monkeypatch.setattr(
            Source, "family", lambda *given: [each for each in family(*given) if each.name not in self.names]
        )
        monkeypatch.setattr(Skips, "births", lambda _: self.births)
        monkeypatch.setattr(Skips, "ends", lambda _: self.ends)


@pytest.fixture
def skipping(monkeypatch: pytest.MonkeyPatch) -> Skipping:
    return Skipping(monkeypatch)


def audit(source: str) -> Audit:
    return Audit(source=source, events=CONNECTS_AND_OPENS)


def need_marks(running: Audit) -> None:
    if not running.marked:
        pytest.skip("Linux 7 gives no task storage without cmpxchg16b, which tools/vm leaves out")


@lsm
@marks
def test_a_child_whose_birth_was_skipped_is_marked(skipping: Skipping, tmp_path: Path) -> None:
    skipping.names |= {*FORK}
    with audit("lsm") as running:
        need_marks(running)
        outcome = Lab(running).run(lambda: forked(lambda: forked(lambda: touch(tmp_path / "grandchild"))))
    assert [event.path for event in outcome.events] == [os.fsencode(tmp_path / "grandchild")]
    assert outcome.counts.skipped == 0


@lsm
@marks
def test_a_thread_that_execs_keeps_the_process_traced(skipping: Skipping, tmp_path: Path) -> None:
    skipping.names |= {*FORK, *EXEC}
    (tmp_path / "read by cat").touch()

    def work() -> None:
        threading.Thread(target=lambda: os.execvp("cat", ["cat", str(tmp_path / "read by cat")])).start()
        threading.Event().wait()

    with audit("lsm") as running:
        need_marks(running)
        outcome = Lab(running).run(lambda: forked(work))
    assert os.fsencode(tmp_path / "read by cat") in [event.path for event in outcome.opens()]


@pytest.mark.parametrize("backend", [name for name in ("lsm", "kprobe") if name in BACKENDS])
def test_one_copy_is_enough(skipping: Skipping, backend: str, tmp_path: Path) -> None:
    skipping.names |= {*FORK[:-1], *EXIT[:-1]}
    with audit(backend) as running:
        outcome = Lab(running).run(lambda: forked(lambda: touch(tmp_path / "child")))
        assert [event.path for event in outcome.events] == [os.fsencode(tmp_path / "child")]
        assert running.family() == set()


@pytest.mark.parametrize("backend", [name for name in ("lsm", "kprobe") if name in BACKENDS])
def test_the_family_is_listed_anew(skipping: Skipping, backend: str) -> None:
    skipping.names |= {*FORK, *EXIT}
    script = "read go; sleep 300 & echo $!; read end; kill $!; wait"
    with (
        audit(backend) as running,
        subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as parent,
    ):
        assert parent.stdin is not None and parent.stdout is not None
        running.trace_families([parent.pid])
        parent.stdin.write("go\n")
        child = int(parent.stdout.readline())
        assert running.family() == {parent.pid}, "nothing was skipped, as far as is known"
        skipping.births += 1
        assert running.family() == {parent.pid, child} == descendants([parent.pid])
        parent.stdin.write("end\n")
        parent.wait()
        skipping.ends += 1
        assert eventually(lambda: running.family() == set())


def test_a_run_ends_where_the_end_of_its_command_was_skipped(source: str, tmp_path: Path) -> None:
    """As a user sees it, confined: what mends the list is among what a confined audit may do."""
    script = (
        "import sys\n"
        "from pylsm.audit import session, skips, sources\n"
        "family = sources.Source.family\n"
        "session.kernel_release = lambda: (7, 0)\n"
        "sources.Source.family = lambda *given: [p for p in family(*given) if 'process_exit' not in p.name]\n"
        "skips.Skips.ends = lambda self: 1\n"
        "from pylsm.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ("-q", "--backend", source, "-o", str(tmp_path / "out"), "--", "sh", "-c", "(true); cat /etc/hostname")
    command = [sys.executable, "-c", script, "run", *words]
    done = subprocess.run(command, env={**os.environ, "PYLSM_CACHE": ""}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "/etc/hostname" in (tmp_path / "out").read_text()
