"""Everything that can fail while an audit starts, made to fail; and an audit under want of memory and descriptors."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cases.cli import PYLSM, Running, nothing_left, pylsm
from cases.lab import EMULATED, Lab, eventually, look
from pylsm.audit.session import Audit
from pylsm.btf import Btf, BtfError
from pylsm.errors import PylsmError
from pylsm.loader import bpf as module

#: Of calls that are made to fail in a virtual machine, where a start takes seconds: one of so many.
SPARING = 8 if EMULATED else 1


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


class Calls:
    """bpf(2), of which one call fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = 0
        self.fail_at = -1
        self.number = 0
        real = module._syscall

        def syscall(number: int, *arguments: int) -> int:
            self.made += 1
            if self.made == self.fail_at:
                ctypes.set_errno(self.number)
                return -1
            return real(number, *arguments)

        monkeypatch.setattr(module, "_syscall", syscall)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EPERM, errno.EAGAIN], ids=errno.errorcode.get)
def test_each_call_of_a_start_fails_in_turn(
    number: int, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half-way or not: an error of ours or an audit that works, and nothing stays open or attached."""
    calls = Calls(monkeypatch)
    with suppress(BtfError):
        Btf.kernel()  # stays open once it is read, as it is by a start whose programs no cache has
    with Audit(source=source):
        total = calls.made
    before = descriptors()
    assert total > 10
    failed = 0
    for at in range(1, total + 1, (1 if number == errno.ENOMEM else 5) * SPARING):
        calls.made, calls.fail_at, calls.number = 0, at, number
        try:
            with Audit(source=source) as audit:
                calls.fail_at = -1
                assert Lab(audit).run(lambda: look(tmp_path)).opens(tmp_path)
        except PylsmError as error:
            assert str(error)
            failed += 1
        calls.fail_at = -1
        gc.collect()  # what a traceback still refers to
        assert descriptors() == before, f"call {at} of {total} left a descriptor open"
    # One of few may be a call whose failure is made up for: a probe for a feature, the name of a map.
    assert failed > 10 // SPARING or number != errno.ENOMEM
    assert failed or SPARING > 1 or number != errno.EPERM


def test_few_descriptors() -> None:
    """Too few: said, with what to do. The command does not run unseen."""
    for limit in (12, 22, 64) if EMULATED else (12, 16, 20, 22, 24, 26, 64):
        result = subprocess.run(
            ["prlimit", f"--nofile={limit}", *PYLSM, "run", "-q", "--", "echo", "ran"], capture_output=True, text=True
        )
        assert "Traceback" not in result.stderr
        if result.returncode:
            assert result.returncode == 125
            assert "`ulimit -n`" in result.stderr, result.stderr
            assert "ran" not in result.stdout
        else:
            assert "ran\n" in result.stdout
    assert result.returncode == 0, "64 are enough"


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.4, 0.6, 0.8, 1.2])
def test_killed_at_any_moment(delay: float, tmp_path: Path) -> None:
    """Nothing stays in the kernel; a command that had begun goes on."""
    command = ["sh", "-c", f"touch {tmp_path}/began; sleep 2; touch {tmp_path}/ended"]
    process = subprocess.Popen(
        [*PYLSM, "run", "-q", "-o", str(tmp_path / "log"), "--", *command], stderr=subprocess.DEVNULL
    )
    time.sleep(delay)
    began = (tmp_path / "began").exists()
    process.kill()
    process.wait()
    if began:
        assert eventually((tmp_path / "ended").exists)


#: pylsm that kills itself before a call of bpf(2), the number of which comes first among its arguments.
SUICIDE = """
import os, signal, sys
from itertools import count
from pylsm.cli import main
from pylsm.loader import bpf
at, calls, real = int(sys.argv.pop(1)), count(1), bpf._syscall
def syscall(*arguments):
    if next(calls) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
bpf._syscall = syscall
sys.exit(main())
"""


def living(mark: str) -> list[str]:
    """Processes with that in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def test_killed_before_a_call(tmp_path: Path) -> None:
    """One call of several. Nothing stays in the kernel, no process waits to be let go, a command that had begun
    goes on."""
    command = ["sh", "-c", f"touch {tmp_path}/began; sleep 0.3; touch {tmp_path}/ended"]
    killed = 0
    for at in range(1, 500, 21 if SPARING > 1 else 7):
        mark = f"PYLSM_KILLED={os.getpid()}-{at}"
        arguments = [str(at), "run", "-q", "-o", str(tmp_path / "log"), "--", *command]
        environment = {**os.environ, **dict([mark.split("=")])}
        done = subprocess.run([sys.executable, "-c", SUICIDE, *arguments], env=environment, capture_output=True)
        assert eventually(lambda mark=mark: not living(mark)), "a process stayed behind"
        began, ended = (tmp_path / name for name in ("began", "ended"))
        assert began.exists() == ended.exists()
        for path in (began, ended):
            path.unlink(missing_ok=True)
        if done.returncode != -signal.SIGKILL:
            break
        killed += 1
    assert done.returncode == 0, done.stderr
    assert killed > 2


def test_a_consumer_that_stands_still(tmp_path: Path) -> None:
    """Stopped while more happens than the ring holds: all of it is recorded or counted, and the command not delayed."""
    script = f"for n in $(seq 400); do : >{tmp_path}/$n; done; touch {tmp_path}/done; sleep 0.5"
    go = tmp_path / "go"
    command = ("sh", "-c", f"touch {tmp_path}/ready; while [ ! -e {go} ]; do sleep 0.05; done; {script}")
    running = Running("run", "--ring-size", "4096", "-o", tmp_path / "log", "--", *command)
    assert eventually((tmp_path / "ready").exists)
    time.sleep(0.5)
    running.signal(signal.SIGSTOP)
    go.touch()
    assert eventually((tmp_path / "done").exists)
    time.sleep(0.2)
    running.signal(signal.SIGCONT)
    status, _, err = running.finish()
    assert status == 0
    counts = {name: int(number) for name, number in re.findall(r"(recorded|lost) (\d+)", err)}
    assert counts["lost"] > 300
    assert counts["recorded"] == len((tmp_path / "log").read_text().splitlines())
    assert "--ring-size" in err


def test_the_family_is_full_and_says_so() -> None:
    result = pylsm("run", "--family-size", "1", "--", "sh", "-c", "true; (true); /bin/true")
    assert result.returncode == 0
    assert "--family-size" in result.stderr
