"""``pylsm top`` in a terminal, as a user has it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases.cli import Opener, nothing_left, pylsm
from cases.lab import eventually

pytest.importorskip("textual", reason='the extra "top" is not installed')
pytestmark = [pytest.mark.root, pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")]


class Terminal:
    """A terminal of 80 columns and 24 lines, in which a command runs."""

    def __init__(self, socket: Path, *command: str) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        line = shlex.join(command) + "; echo status $?; sleep 1000"
        self("new-session", "-d", "-x", "80", "-y", "24", line)

    def __call__(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], capture_output=True, text=True, check=True).stdout

    def text(self) -> str:
        return self("capture-pane", "-p")

    def wait_for(self, wanted: str) -> str:
        assert eventually(lambda: wanted in self.text(), 60), self.text()
        return self.text()


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for terminal in made:
        terminal("kill-server")


def test_a_family_is_seen_live_and_nothing_is_left(tmp_path: Path, terminals: list[Terminal]) -> None:
    (tmp_path / "seen").touch()
    with nothing_left(), Opener() as opener:
        terminal = Terminal(tmp_path / "tmux", sys.executable, "-m", "pylsm", "top", "-p", str(opener.pid))
        terminals.append(terminal)
        terminal.wait_for("pylsm top -p")
        opener.open(tmp_path / "seen")
        text = terminal.wait_for("/seen")
        assert str(opener.pid) in text and "0 lost" in text and "opener" in text
        assert max(map(len, text.splitlines())) <= 80
        terminal("send-keys", "q")
        assert "status 0" in terminal.wait_for("status ")


@pytest.mark.parametrize("missing", ["", "bpf", "perfmon"])
def test_it_needs_what_attach_needs(missing: str, tmp_path: Path, terminals: list[Terminal]) -> None:
    held = ",".join(["-all", *(f"+{name}" for name in ("bpf", "perfmon") if name != missing)])
    with nothing_left(), Opener() as opener:
        command = ("setpriv", f"--bounding-set={held}", f"--inh-caps={held}", sys.executable, "-m", "pylsm", "top")
        terminal = Terminal(tmp_path / "tmux", *command, "-p", str(opener.pid))
        terminals.append(terminal)
        if missing:
            assert f"missing: CAP_{missing.upper()}" in "".join(terminal.wait_for("status 125").split("\n"))
        else:
            terminal.wait_for("pylsm top -p")
            opener.open(tmp_path / "seen")
            terminal.wait_for("/seen")
            terminal("send-keys", "q")
            terminal.wait_for("status 0")


def test_what_keeps_it_from_starting_is_said(tmp_path: Path, terminals: list[Terminal]) -> None:
    terminal = Terminal(tmp_path / "tmux", sys.executable, "-m", "pylsm", "top", "-p", "4194303")
    terminals.append(terminal)
    text = terminal.wait_for("status ")
    assert "no process has pid 4194303" in text and "status 125" in text


def test_it_needs_a_terminal_and_no_output_file() -> None:
    done = pylsm("top", "-p", os.getpid())
    assert done.returncode == 125 and "needs a terminal" in done.stderr
    done = pylsm("top", "--help")
    assert done.returncode == 0 and "--read" in done.stdout and "--pid" in done.stdout


def test_when_the_family_ends_the_screen_says_so(tmp_path: Path, terminals: list[Terminal]) -> None:
    process = subprocess.Popen(["bash", "-c", "read; : < /etc/hostname; sleep 1"], stdin=subprocess.PIPE)
    terminal = Terminal(tmp_path / "tmux", sys.executable, "-m", "pylsm", "top", "-p", str(process.pid))
    terminals.append(terminal)
    terminal.wait_for("pylsm top -p")
    assert process.stdin is not None
    process.stdin.close()
    assert "the recording has ended" in terminal.wait_for("the recording has ended")
    terminal.wait_for(" ended)  order")
    process.wait()
    time.sleep(0.2)
    terminal("send-keys", "q")
    assert "status 0" in terminal.wait_for("status ")
