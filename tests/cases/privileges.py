"""What each feature needs of root's capabilities: with exactly these it works, and the error names one that is missing.

Root without the others, so that it may read its own Python; what is another user's is what it lacks permission for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cases.cli import PYLSM, nothing_left
from cases.lab import eventually
from pylsm.loader.bpf import kernel_release

NOBODY = 65534
#: Every audit takes these (before 5.11 maps are charged to RLIMIT_MEMLOCK, which has to be raised).
LEAST = ("bpf", "perfmon", *(("sys_resource",) if kernel_release() < (5, 11) else ()))


class Held(subprocess.Popen[str]):
    """pylsm by root with these capabilities only."""

    def __init__(self, held: Sequence[str], *arguments: object) -> None:
        wanted = ",".join(("-all", *(f"+{name}" for name in held)))
        command = ["setpriv", f"--inh-caps={wanted}", f"--bounding-set={wanted}", *PYLSM, *map(str, arguments)]
        super().__init__(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = ""

    def attached(self) -> bool:
        assert self.stderr
        while "attached to" not in self.said:
            line = self.stderr.readline()
            if not line:
                return False
            self.said += line
        return True

    def end(self, number: int = 0) -> tuple[int, str, str]:
        """(exit status, standard output, standard error)."""
        if number:
            self.send_signal(number)
        out, err = self.communicate(timeout=120)
        self.said += err
        assert "Traceback" not in self.said, self.said
        return self.returncode, out, self.said


def attach(held: Sequence[str], *arguments: object) -> tuple[int, str, str]:
    """`pylsm attach`, ended by Ctrl-C as soon as it is attached."""
    process = Held(held, "attach", *arguments)
    return process.end(signal.SIGINT if process.attached() else 0)


def run(held: Sequence[str], *arguments: object) -> tuple[int, str, str]:
    return Held(held, "run", *arguments, "--", "true").end()


def without(held: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each of them, and the others."""
    return [(one, [name for name in held if name != one]) for one in held]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    with nothing_left():
        yield


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Another user's process, which holds a file."""
    command = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "sleep", "1000"]
    with open("/etc/hosts") as file, subprocess.Popen(command, stdin=file) as process:
        assert eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        yield process
        process.kill()


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path("/sys/fs/bpf") / f"pylsm-test-{uuid.uuid4().hex[:8]}"
    yield path
    if path.exists():
        subprocess.run([*PYLSM, "detach", path], check=True)


def test_run() -> None:
    assert run(LEAST)[0] == 0
    for missing, held in without(LEAST):
        status, _, said = run(held)
        assert status == 125
        assert f"CAP_{missing.upper()}" in said


def test_pin_adopt_and_detach(place: Path, stranger: subprocess.Popen[bytes]) -> None:
    for missing, held in without(LEAST):
        status, _, said = attach(held, "-p", stranger.pid, "--pin", place)
        assert (status, f"CAP_{missing.upper()}" in said) == (125, True), said
        assert not place.exists()
    assert attach(LEAST, "-p", stranger.pid, "--pin", place)[0] == 0
    for missing, held in without(LEAST):
        status, _, said = attach(held, "--adopt", place)
        assert (status, f"CAP_{missing.upper()}" in said) == (125, True), said
    assert attach(LEAST, "--adopt", place)[0] == 0
    # To end it takes less, from 6.0 on nothing; where it is not had, nothing is touched.
    if kernel_release() < (6, 0):
        before = sorted(os.listdir(place))
        status, _, said = Held((), "detach", place).end()
        assert (status, "CAP_BPF" in said) == (125, True), said
        assert sorted(os.listdir(place)) == before
    status, _, said = Held(("bpf",) if kernel_release() < (6, 0) else (), "detach", place).end()
    assert status == 0, said
    assert not place.exists()


def test_pin_where_only_another_user_writes(place: Path, stranger: subprocess.Popen[bytes]) -> None:
    place.mkdir(0o755)
    try:
        os.chown(place, NOBODY, NOBODY)
        status, _, said = attach(LEAST, "-p", stranger.pid, "--pin", place / "audit")
        assert (status, "CAP_DAC_OVERRIDE" in said) == (125, True), said
        assert attach((*LEAST, "dac_override"), "-p", stranger.pid, "--pin", place / "audit")[0] == 0
        assert Held(("bpf", "dac_override"), "detach", place / "audit").end()[0] == 0
    finally:
        place.rmdir()


@pytest.mark.parametrize("by", ["--comm", "--uid", "--cgroup", "-p", "--all"])
def test_to_select(by: str, stranger: subprocess.Popen[bytes]) -> None:
    """By what anybody may see of a process."""
    value = {"--comm": ["sleep"], "--uid": [NOBODY], "--cgroup": ["/"], "-p": [stranger.pid], "--all": []}[by]
    status, _, said = attach(LEAST, by, *value)
    assert status == 0, said
    assert "may not be looked into" not in said


def test_to_select_by_executable(stranger: subprocess.Popen[bytes]) -> None:
    executable = os.path.realpath(f"/proc/{stranger.pid}/exe")
    for held in (LEAST, (*LEAST, "sys_ptrace")):
        status, _, said = attach(held, "--exe", executable)
        assert status == 0, said
        assert ("that takes CAP_SYS_PTRACE" in said) == (held is LEAST), said
        assert ("no process matches" in said) == (held is LEAST), said


def test_what_is_open_already(stranger: subprocess.Popen[bytes]) -> None:
    needed = ("dac_read_search", "sys_ptrace")
    for missing, held in without(needed):
        status, out, said = attach((*LEAST, *held), "-p", stranger.pid, "--already-open")
        assert status == 0, said
        assert f"that takes CAP_{missing.upper()}" in said, said
        assert f"({stranger.pid})" in said
        assert "/etc/hosts" not in out
    status, out, said = attach((*LEAST, *needed), "-p", stranger.pid, "--already-open")
    assert "path=/etc/hosts" in out
    assert "may not be looked into" not in said


def test_context(stranger: subprocess.Popen[bytes]) -> None:
    """Of what is executed from now on all is known; the executable of another user's process is not."""
    status, _, said = attach(LEAST, "-p", stranger.pid, "--context")
    assert status == 0, said
    assert "the executable is not known of 1 process" in said
    assert "that takes CAP_SYS_PTRACE" in said
    assert "may not be looked into" not in attach((*LEAST, "sys_ptrace"), "-p", stranger.pid, "--context")[2]
    status, out, said = run(LEAST, "--context", "--format", "json")
    assert status == 0, said
    assert '"exe":"/' in out


def test_sinks(tmp_path: Path) -> None:
    """By itself; as another user it takes what makes it one."""
    sink = ("--sink", f"file://{tmp_path}/delivered", "--spool")
    assert run(LEAST, *sink, tmp_path / "own")[0] == 0
    assert (tmp_path / "delivered").read_text().count("\n") > 1
    needed = ("chown", "setgid", "setuid")
    for missing, held in without(needed):
        status, _, said = run((*LEAST, *held), *sink, tmp_path / missing, "--sink-user", "nobody")
        assert (status, f"CAP_{missing.upper()}" in said) == (125, True), said
    assert run((*LEAST, *needed), *sink, tmp_path / "theirs", "--sink-user", "nobody")[0] == 0


def test_run_under_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UID", "GID"):
        monkeypatch.setenv(f"SUDO_{name}", str(NOBODY))
    needed = ("setgid", "setuid")
    for missing, held in without(needed):
        status, _, said = run((*LEAST, *held))
        assert status == 125
        assert f"CAP_{missing.upper()}" in said, said
    status, _, said = run((*LEAST, *needed))
    assert status == 0, said


def test_output_in_a_directory_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, NOBODY)
    tmp_path.chmod(0o755)
    status, _, said = run(LEAST, "-o", tmp_path / "log")
    assert (status, "CAP_DAC_OVERRIDE" in said) == (125, True), said
    assert run((*LEAST, "dac_override"), "-o", tmp_path / "log")[0] == 0
