"""What a confined process can still do, tried in a process of its own."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cases.cli import Running, pylsm
from cases.lab import eventually

from pylsm.confine.files import UntrustedPath, open_output
from pylsm.confine.restrict import Needs, restrict

pytestmark = pytest.mark.root

NOBODY = 65534


def in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a forked process, through a pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            value = work()
        except BaseException as error:
            value = repr(error)
        os.write(write, json.dumps(value).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"ended with {status:#x}"
    return json.loads(data)


def errno_of(work: Callable[[], Any]) -> str:
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


def test_what_is_left(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    output = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)

    def work() -> Any:
        confined = restrict()
        status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "confined": confined,
            "status": {
                name: status[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")
            },
            "output": errno_of(lambda: os.write(output, b"line\n")),
            "clock": time.time() > 0,
            "import": __import__("colorsys").__name__,
            "inherited": errno_of(lambda: os.fstat(inherited)),
            "read": errno_of(lambda: os.open(secret, os.O_RDONLY)),
            "shadow": errno_of(lambda: os.open("/etc/shadow", os.O_RDONLY)),
            "write": errno_of(lambda: os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT)),
            "overwrite": errno_of(lambda: os.open(secret, os.O_WRONLY)),
            "unlink": errno_of(lambda: os.unlink(secret)),
            "chmod": errno_of(lambda: os.chmod(secret, 0o777)),
            "fork": errno_of(os.fork),
            "exec": errno_of(lambda: os.execv("/bin/true", ["true"])),
            "socket": errno_of(socket.socket),
            "kill": errno_of(lambda: os.kill(os.getppid(), 0)),
            "setuid": errno_of(lambda: os.setuid(1)),
        }

    got = in_child(work)
    capabilities, abi, filtered, missing = got.pop("confined")
    assert capabilities == []
    assert filtered, missing
    assert not abi or "landlock" not in " ".join(missing)
    none = "0" * 16
    assert got.pop("status") == {
        "CapEff": none,
        "CapPrm": none,
        "CapBnd": none,
        "CapAmb": none,
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }
    readable = "EACCES" if abi else "done"
    shadow = got.pop("shadow")
    assert shadow in ("EACCES", "ENOENT", readable)
    assert got == {
        "output": "done",
        "clock": True,
        "import": "colorsys",
        "inherited": "EBADF",
        "read": readable,
        **dict.fromkeys(["write", "overwrite", "unlink", "chmod", "fork", "exec", "socket", "kill", "setuid"], "EPERM"),
    }
    os.close(inherited)
    os.close(output)


def test_no_core_and_no_tracer() -> None:
    """What is in /proc of a process that cannot be dumped belongs to root; a user's own otherwise is the user's."""

    def work() -> list[int]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        assert ctypes.CDLL(None).prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE, which a change of ids has reset
        before = os.stat("/proc/self/status").st_uid
        restrict()
        return [before, os.stat("/proc/self/status").st_uid]

    assert in_child(work) == [NOBODY, 0]


def test_what_is_needed_stays(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)

    def work() -> Any:
        confined = restrict(Needs(signals=True, network=True, writable=(str(tmp_path), str(tmp_path / "theirs"))))
        os.close(os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT))
        os.rename(tmp_path / "log", tmp_path / "theirs" / "log.1")
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.1", 9))
        os.kill(os.getppid(), 0)
        return confined

    capabilities, _, filtered, missing = in_child(work)
    assert capabilities == ["CAP_DAC_OVERRIDE", "CAP_KILL"]
    assert filtered, missing
    assert (tmp_path / "theirs" / "log.1").exists()


def test_a_capability_is_kept_where_maps_cannot_be_read_without(tmp_path: Path) -> None:
    def effective() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("CapEff:")[2].split()[0], 16)

    assert in_child(lambda: [restrict(works=lambda: False).capabilities, effective() == 1 << 39]) == [["CAP_BPF"], True]


# --- run and attach, confined -----------------------------------------------------------------------------------------


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def test_run_is_confined_and_its_command_is_not(tmp_path: Path) -> None:
    """Signals, output, counts and the end of the family work all the same."""
    running = Running(
        "run", "-o", tmp_path / "out", "--", "sh", "-c", f"cat /proc/self/status >{tmp_path}/status; exec sleep 60"
    )
    assert eventually(lambda: status_of(running.pid)["Seccomp"] == "2")
    status = status_of(running.pid)
    assert status["CapEff"] in ("0" * 14 + "20", "0000008000000020")  # CAP_KILL; CAP_BPF before 6.0
    assert status["NoNewPrivs"] == "1"
    assert eventually(lambda: (tmp_path / "status").exists() and "Seccomp" in (tmp_path / "status").read_text())
    code, _, err = running.finish(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "recorded" in err
    command = dict(line.split(":\t", 1) for line in (tmp_path / "status").read_text().splitlines())
    assert (command["NoNewPrivs"], command["Seccomp"]) == ("0", "0")
    assert command["CapEff"] == status_of(os.getpid())["CapEff"]
    assert "/status" in (tmp_path / "out").read_text()


def test_attach_is_confined(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        running = Running("attach", "-p", sleeper.pid)
        assert eventually(lambda: status_of(running.pid)["Seccomp"] == "2")
        assert status_of(running.pid)["CapEff"] in ("0" * 16, "0000008000000000")
        sleeper.kill()
        sleeper.wait()
        code, _, err = running.finish()
    assert code == 0
    assert "all traced processes have ended" in err


def test_not_when_asked() -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        running = Running("attach", "--no-confine", "-p", sleeper.pid)
        time.sleep(0.5)
        assert status_of(running.pid)["Seccomp"] == "0"
        sleeper.kill()
        sleeper.wait()
        assert running.finish()[0] == 0


def test_the_command_runs_as_the_user_who_called_sudo(tmp_path: Path) -> None:
    program = "id -u; id -g; id -G; echo $USER; env | grep -c SUDO_"
    sudo = {**os.environ, "SUDO_UID": str(NOBODY), "SUDO_GID": str(NOBODY), "SUDO_USER": "nobody", "USER": "root"}
    command = ("--", "sh", "-c", program)
    result = pylsm("run", "-q", "-o", tmp_path / "out", *command, env=sudo)
    assert result.stdout.split() == ["65534", "65534", "65534", "nobody", "0"], result.stderr
    # Its signals are passed on although it is another user's.
    running = Running("run", "-o", tmp_path / "out", "--", "sleep", "60", env=sudo)
    assert eventually(lambda: status_of(running.pid)["Seccomp"] == "2")
    assert running.finish(signal.SIGTERM)[0] == 128 + signal.SIGTERM
    result = pylsm("run", "-q", "--root", "-o", tmp_path / "out", *command, env=sudo)
    assert result.stdout.split()[0] == "0"
    wrong = pylsm("run", "--", "true", env={**sudo, "SUDO_UID": "me"})
    assert wrong.returncode == 125
    assert "SUDO_UID is 'me'" in wrong.stderr


def test_the_command_inherits_no_descriptor_of_ours(tmp_path: Path) -> None:
    result = pylsm("run", "-q", "-o", tmp_path / "out", "--", "sh", "-c", "ls -l /proc/self/fd")
    assert result.returncode == 0
    numbers = [line.split(" -> ")[0].split()[-1] for line in result.stdout.splitlines() if " -> " in line]
    assert numbers == ["0", "1", "2", "3"]  # 3 is ls's own, of the directory
    assert "anon_inode" not in result.stdout


# --- output files -----------------------------------------------------------------------------------------------------


def test_output_files_are_private(tmp_path: Path) -> None:
    os.umask(os.umask(0) & 0)
    os.close(open_output(str(tmp_path / "new")))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600


def plant_link(tmp_path: Path, owner: int) -> tuple[Path, Path]:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    os.lchown(link, owner, owner)
    return target, link


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    target, link = plant_link(tmp_path, NOBODY)
    with pytest.raises(UntrustedPath, match=r"symbolic link 'link' belongs to uid 65534"):
        open_output(str(link))
    assert target.read_text() == "precious"
    result = pylsm("run", "-o", link, "--", "true")
    assert result.returncode == 125
    assert "hint: remove it" in result.stderr
    assert target.read_text() == "precious"


def test_a_link_of_our_own_is_followed(tmp_path: Path) -> None:
    target, link = plant_link(tmp_path, os.geteuid())
    os.close(open_output(str(link), append=True))
    assert target.read_text() == "precious"
    os.close(open_output(str(link)))
    assert target.read_text() == ""


def test_a_planted_link_among_the_directories(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    os.close(open_output(str(tmp_path / "way" / "a")))
    os.lchown(tmp_path / "way", NOBODY, NOBODY)
    with pytest.raises(UntrustedPath, match="symbolic link 'way'"):
        open_output(str(tmp_path / "way" / "b"))
    assert os.listdir(tmp_path / "real") == ["a"]


def test_a_file_of_somebody_else_and_a_second_name(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("x")
    os.link(tmp_path / "one", tmp_path / "two")
    with pytest.raises(UntrustedPath, match="2 names"):
        open_output(str(tmp_path / "two"))
    (tmp_path / "theirs").write_text("x")
    os.chown(tmp_path / "theirs", NOBODY, NOBODY)
    with pytest.raises(UntrustedPath, match="file belongs to uid 65534"):
        open_output(str(tmp_path / "theirs"))
    assert (tmp_path / "one").read_text() == (tmp_path / "theirs").read_text() == "x"


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev/null"])
def test_devices_and_own_descriptors(path: str) -> None:
    result = pylsm("run", "-q", "-o", path, "--", "true")
    assert result.returncode == 0
    assert ("[LSM] open" in result.stdout) == (path != "/dev/null")


@pytest.mark.parametrize(("path", "name"), [("", "ENOENT"), (".", "ENOENT"), ("no/such", "ENOENT"), ("loop", "ELOOP")])
def test_paths_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    assert errno_of(lambda: open_output(path)) == name


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert errno_of(lambda: open_output(str(tmp_path))) == "EISDIR"
    assert errno_of(lambda: open_output(f"{tmp_path}/")) == "EISDIR"
