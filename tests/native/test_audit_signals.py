"""Signals: the command's, pylsm's own, with and without a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cases.cli import PYLSM, Opener, Running, nothing_left
from cases.commands import COUNTS
from cases.lab import eventually

pytestmark = pytest.mark.root

# Says when it is ready, then waits; each signal it gets is told in a file and has its own exit status.
TRAPS = """
import os, signal, sys, time
def caught(number, frame):
    os.close(os.open(f"{sys.argv[1]}/got-{number}", os.O_WRONLY | os.O_CREAT))
    if "stubborn" not in sys.argv:
        os._exit(number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(number, caught)
os.close(os.open(f"{sys.argv[1]}/ready", os.O_WRONLY | os.O_CREAT))
while True:
    time.sleep(60)
"""


def command(directory: Path, *words: str) -> list[str]:
    return ["/usr/bin/env", "python3", "-IS", "-c", TRAPS, str(directory), *words]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT], ids=lambda n: n.name)
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    """SIGINT too where no terminal has sent it to the command already."""
    running = Running("run", "--", *command(tmp_path), start_new_session=True)
    assert eventually((tmp_path / "ready").exists)
    status, out, _ = running.finish(number)
    assert (tmp_path / f"got-{number.value}").exists()
    assert status == number
    assert f"mode=w path={tmp_path}/got-{number.value}\n" in out


def test_a_command_that_a_signal_ends() -> None:
    running = Running("run", "--", "sleep", "60", start_new_session=True)
    time.sleep(0.3)
    assert running.finish(signal.SIGTERM)[0] == 128 + signal.SIGTERM


def test_usr1_is_for_the_counts_not_for_the_command(tmp_path: Path) -> None:
    running = Running("run", "--", *command(tmp_path), start_new_session=True)
    assert eventually((tmp_path / "ready").exists)
    running.signal(signal.SIGUSR1)
    running.wait_for("recorded ")
    assert not (tmp_path / f"got-{signal.SIGUSR1.value}").exists()
    assert running.finish(signal.SIGTERM)[0] == signal.SIGTERM
    assert len(COUNTS.findall(running.stderr)) == 2


def test_what_outlives_the_command_keeps_no_one_after_a_signal(tmp_path: Path) -> None:
    """The command has ended, a child of it has not: one signal ends the waiting, not the child."""
    running = Running("run", "--", "sh", "-c", f"sleep 61 & echo $! >{tmp_path}/pid; exit 4", start_new_session=True)
    assert eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    child = int((tmp_path / "pid").read_text())
    time.sleep(0.5)
    assert running.process.poll() is None
    running.signal(signal.SIGTERM)
    assert running.process.wait(timeout=20) == 4
    os.kill(child, signal.SIGKILL)
    running.finish()


def test_the_command_starts_with_default_signals() -> None:
    """None blocked, ignored or caught, whatever Python and pylsm did with them."""
    result = subprocess.run(
        [*PYLSM, "run", "-q", "--", "cat", "/proc/self/status"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert masks(result.stdout) == {"SigPnd": 0, "SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


def test_signals_that_the_caller_ignores_stay_ignored(tmp_path: Path) -> None:
    """As under nohup: neither pylsm nor its command ends with the terminal."""
    ignoring = ["sh", "-c", 'trap "" HUP QUIT; exec "$@"', "sh"]
    script = f": >{tmp_path}/ready; until [ -e {tmp_path}/go ]; do sleep 0.1; done; exec cat /proc/self/status"
    running = Running("run", "--", "sh", "-c", script, before=ignoring, start_new_session=True)
    assert eventually((tmp_path / "ready").exists)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        running.signal(number)
    (tmp_path / "go").touch()
    status, out, _ = running.finish()
    assert status == 0
    assert masks(out)["SigIgn"] == 1 << signal.SIGHUP - 1 | 1 << signal.SIGQUIT - 1

    with Opener() as opener:
        running = Running("attach", "-p", opener.pid, before=ignoring)
        running.signal(signal.SIGHUP)
        opener.open(tmp_path / "after")
        status, out, _ = running.finish(signal.SIGTERM)
    assert (status, len(out.splitlines())) == (0, 1)


def masks(status: str) -> dict[str, int]:
    """Pending, blocked, ignored and caught signals, of the contents of /proc/PID/status."""
    found = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig") and "Q" not in line)
    return {name: int(mask, 16) for name, mask in found.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_attach_ends_on_a_signal_and_what_it_watched_does_not(tmp_path: Path, number: signal.Signals) -> None:
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid)
        opener.open(tmp_path / "1")
        status, out, _ = running.finish(number)
        opener.open(tmp_path / "2")
    assert status == 0
    assert len(out.splitlines()) == 1


def test_attach_writes_what_the_ring_held_when_the_signal_came(tmp_path: Path) -> None:
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid)
        running.signal(signal.SIGSTOP)
        opener.open(*[tmp_path / str(n) for n in range(100)])
        running.signal(signal.SIGINT)
        running.signal(signal.SIGCONT)
        status, out, _ = running.finish()
    assert status == 0
    assert len(out.splitlines()) == 100


# --- with a terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(PYLSM[0], [*PYLSM, *arguments])
        self.output = ""

    def read(self, until: Callable[[str], bool], seconds: float = 20) -> None:
        deadline = time.monotonic() + seconds
        while not until(self.output) and time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    data = os.read(self.fd, 65536)
                except OSError:  # EIO: the other side is closed
                    return
                self.output += data.decode(errors="replace")

    def press(self, key: bytes) -> None:
        os.write(self.fd, key)

    def wait(self) -> int:
        self.read(lambda _: False, 20)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status)


def test_ctrl_c_reaches_the_command_once(tmp_path: Path) -> None:
    terminal = Terminal("run", "--", *command(tmp_path))
    terminal.read(lambda _: (tmp_path / "ready").exists())
    terminal.press(b"\x03")
    assert terminal.wait() == signal.SIGINT
    assert (tmp_path / "got-2").exists()
    assert not (tmp_path / "got-15").exists()
    assert "recorded " in terminal.output
    assert "Traceback" not in terminal.output


def test_a_second_ctrl_c_is_more_insistent(tmp_path: Path) -> None:
    """A command that shrugs off SIGINT gets SIGTERM with the second one."""
    terminal = Terminal("run", "--", *command(tmp_path, "stubborn"))
    terminal.read(lambda _: (tmp_path / "ready").exists())
    terminal.press(b"\x03")
    terminal.read(lambda _: (tmp_path / "got-2").exists())
    time.sleep(0.2)
    assert not (tmp_path / "got-15").exists()
    terminal.press(b"\x03")
    terminal.read(lambda _: (tmp_path / "got-15").exists())
    assert (tmp_path / "got-15").exists()
    pid = int(terminal.output.split("attached to process ")[1].split()[0])
    os.kill(pid, signal.SIGKILL)
    assert terminal.wait() == 128 + signal.SIGKILL


def test_ctrl_c_ends_attach(tmp_path: Path) -> None:
    with Opener() as opener:
        terminal = Terminal("attach", "--color", "never", "-p", str(opener.pid))
        terminal.read(lambda output: "attached to" in output)
        opener.open(tmp_path / "x")
        terminal.read(lambda output: f"path={tmp_path}/x" in output)
        terminal.press(b"\x03")
        assert terminal.wait() == 0
    assert f"path={tmp_path}/x" in terminal.output


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """SIGHUP, and writes that fail: pylsm and its command both end."""
    terminal = Terminal("run", "--", *command(tmp_path))
    terminal.read(lambda _: (tmp_path / "ready").exists())
    child = int(Path(f"/proc/{terminal.pid}/task/{terminal.pid}/children").read_text().split()[0])
    os.close(terminal.fd)
    _, status = os.waitpid(terminal.pid, 0)
    assert os.waitstatus_to_exitcode(status) in (1, 125)
    assert eventually(lambda: not Path(f"/proc/{child}").exists())
