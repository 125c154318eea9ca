"""The command line on this kernel: options, errors and their exit statuses, and that failing leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cases.cli import PYLSM, Opener, Running, nothing_left, pylsm
from cases.commands import COUNTS, counts
from cases.lab import eventually

from pylsm.asm import MapSpec, MapType
from pylsm.audit import maps
from pylsm.loader import Map, RingBuffer

pytestmark = pytest.mark.root


@pytest.fixture
def pin(tmp_path: Path) -> Iterator[Path]:
    """A path on the BPF filesystem where nothing is pinned yet."""
    path = Path("/sys/fs/bpf") / f"pylsm-test-{uuid.uuid4().hex[:8]}"
    yield path
    path.unlink(missing_ok=True)


def refusal(result: subprocess.CompletedProcess[str], status: int = 125) -> str:
    """The error of a command that failed as it should: one line, and one with the next step."""
    assert (result.returncode, result.stdout) == (status, ""), result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("pylsm: warning: lsm cannot be used")]
    assert len(lines) == 2, result.stderr
    assert lines[0].startswith("pylsm: error: ")
    assert lines[1].startswith("pylsm: hint: ")
    return lines[0][len("pylsm: error: ") :]


# --- sources -------------------------------------------------------------------------------------------------------


def test_the_fallback_is_told_once(tmp_path: Path) -> None:
    result = pylsm("run", "--", "true")
    assert result.returncode == 0
    warnings = [line for line in result.stderr.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "Falling back to raw_tracepoint, which does not see: io_uring" in warnings[0]
    assert result.stderr.count("io_uring; ") == 1


def test_the_weaker_source_by_name_needs_no_warning() -> None:
    result = pylsm("run", "--backend", "raw_tracepoint", "--", "true")
    assert "warning" not in result.stderr
    assert result.returncode == 0


@pytest.mark.parametrize("options", [("--backend", "lsm"), ("--if-unavailable", "fail")], ids=" ".join)
def test_without_lsm_hooks_refusing_is_an_option(options: tuple[str, ...], tmp_path: Path) -> None:
    with nothing_left():
        assert "lsm: " in refusal(pylsm("run", *options, "--", "touch", tmp_path / "ran"))
        with Opener() as opener:
            assert "lsm: " in refusal(pylsm("attach", *options, "-p", opener.pid))
    assert not (tmp_path / "ran").exists()


def test_without_lsm_hooks_going_on_is_an_option() -> None:
    with nothing_left():
        result = pylsm("run", "--if-unavailable", "skip", "--", "sh", "-c", "echo ran; exit 5")
        assert (result.returncode, result.stdout) == (5, "ran\n")
        assert "warning: no audit: lsm: " in result.stderr
        with Opener() as opener:
            result = pylsm("attach", "--if-unavailable", "skip", "-p", opener.pid)
            assert (result.returncode, result.stdout) == (0, "")
            assert "warning: no audit: lsm: " in result.stderr


def test_skipping_finds_commands_as_running_does() -> None:
    assert pylsm("run", "--if-unavailable", "skip", "--", "no-such-command").returncode == 127
    assert pylsm("run", "--if-unavailable", "skip", "--", "/etc/passwd").returncode == 126


def test_no_privilege(tmp_path: Path) -> None:
    """A root without capabilities, as in many containers."""
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    for options, status in (((), 125), (("--if-unavailable", "fail"), 125), (("--if-unavailable", "skip"), 0)):
        result = subprocess.run(
            [*drop, *PYLSM, "run", *options, "--", "touch", tmp_path / f"ran {status}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == status
        assert "EPERM" in result.stderr
        assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ran 0"]


# --- processes to attach to ------------------------------------------------------------------------------------------


def nobody() -> int:
    """A pid that no process has."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) - 1


def test_unknown_pid() -> None:
    with nothing_left():
        assert refusal(pylsm("attach", "-p", nobody())) == f"no process has pid {nobody()}"
        assert refusal(pylsm("attach", "-p", os.getpid(), "-p", 2**31 - 1)) == f"no process has pid {2**31 - 1}"


def test_itself() -> None:
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" -p $$', "sh", *PYLSM, "attach"], capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"process \d+ is this pylsm itself", refusal(result))


def test_a_process_that_ends_while_pylsm_starts() -> None:
    """At any moment of the start: it is traced to its end, or said to be gone; never waited for."""
    seen = set()
    with nothing_left():
        for delay in (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35):
            target = subprocess.Popen(["sleep", str(delay)])
            process = subprocess.Popen(
                [*PYLSM, "attach", "-p", str(target.pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            target.wait()
            _, err = process.communicate(timeout=20)
            assert "Traceback" not in err
            assert process.returncode in (0, 125), err
            if process.returncode:
                assert f"no process has pid {target.pid}" in err or f"process {target.pid} ended while" in err
            else:
                assert "all traced processes have ended" in err
            seen.add(process.returncode)
    assert 125 in seen


def test_by_name_and_user(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if not parent.stat().st_mode & 1:
            parent.chmod(parent.stat().st_mode | 0o11)
    mine = f"n{uuid.uuid4().hex[:10]}".encode()
    with Opener(mine, 54321) as one, Opener(mine, 54322) as two, Opener(b"else", 54321) as three:
        for options, expected in (
            (("--comm", mine.decode()), {one.pid, two.pid}),
            (("--uid", "54321"), {one.pid, three.pid}),
            (("--comm", mine.decode(), "--uid", "54321"), {one.pid}),
            (("-p", two.pid, "--comm", "else"), {two.pid, three.pid}),
        ):
            running = Running("attach", *options, "--format", "json")
            for opener in (one, two, three):
                opener.open(tmp_path / str(opener.pid))
                assert (tmp_path / str(opener.pid)).exists()
            status, out, _ = running.finish(signal.SIGINT)
            assert status == 0
            assert {json.loads(line)["pid"] for line in out.splitlines()} == expected


def test_nobody_matches_yet() -> None:
    with nothing_left():
        running = Running("attach", "--user", "nobody", "--comm", "no such")
        status, _, err = running.finish(signal.SIGINT)
        assert status == 0
        assert "no process matches --comm no such --uid 65534 now; those that match later are traced" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--comm", "a[b"), "--comm: 'a[b' is not a pattern: the [ at character 2 has no ]"),
        (("--comm", "longer-than-fifteen*"), "--comm: 'longer-than-fifteen*' matches no name of a process"),
        (("--exe", "bin/x"), "--exe: 'bin/x' is not a path from the root"),
        (("--exe", ""), "--exe: '' is not a pattern: it is empty"),
        (("--cgroup", "/no/such"), "--cgroup: there is no cgroup '/no/such'"),
        (("--cgroup", "no-such.service"), "--cgroup: there is no cgroup 'no-such.service'"),
        (("--container", "no such"), "--container: no running container has the name or the id 'no such'"),
    ],
)
def test_a_name_that_stands_for_nothing(options: tuple[str, ...], message: str) -> None:
    with nothing_left():
        assert refusal(pylsm("attach", *options)).startswith(message)


def test_several_families_at_once(tmp_path: Path) -> None:
    with Opener() as one, Opener() as two:
        running = Running("attach", "-p", one.pid, "-p", two.pid, "-p", one.pid)
        assert "attached to 2 processes; " in running.stderr
        one.open(tmp_path / "1")
        two.open(tmp_path / "2")
        one.end()  # and the other goes on
        two.open(tmp_path / "3")
        _, out, _ = running.finish(signal.SIGTERM)
    assert [line[-1] for line in out.splitlines() if "open" in line.split()] == ["1", "2", "3"]


def test_the_shell_that_pylsm_was_started_from(tmp_path: Path) -> None:
    """pylsm itself is a child of it: it must not trace itself, and must end with the shell."""
    script = f"""
"$@" attach -p $$ 2>{tmp_path}/err &
until grep -q 'attached to' {tmp_path}/err; do sleep 0.1; done
: >{tmp_path}/file
kill -KILL $$
"""
    shell = subprocess.run(
        ["sh", "-c", script, "sh", *PYLSM], stdout=subprocess.PIPE, text=True, check=False, timeout=30
    )
    assert shell.stdout.splitlines()[-1].split()[1:4:2] == ["exit", "comm=sh"]
    assert shell.stdout.splitlines()[-2].endswith(f"mode=w path={tmp_path}/file")
    assert "all traced processes have ended" in (tmp_path / "err").read_text()
    assert "comm=py" not in shell.stdout


def test_a_family_that_is_full(tmp_path: Path) -> None:
    with nothing_left():
        result = pylsm("run", "--family-size", 1, "--", "sh", "-c", f"(: >{tmp_path}/child) & wait; : >{tmp_path}/self")
        assert result.returncode == 0
        assert f"{tmp_path}/self" in result.stdout
        assert f"path={tmp_path}/child" not in result.stdout
        assert "children not traced 1" in result.stderr
        assert "warning: children were not traced because the family was full" in result.stderr
        assert "--family-size" in result.stderr
        with Opener() as one, Opener() as two:
            error = refusal(pylsm("attach", "--family-size", 1, "-p", one.pid, "-p", two.pid))
            assert error == "map 'traced_processes' is full: it has room for 1 processes"


# --- output --------------------------------------------------------------------------------------------------------


def test_quiet_says_nothing_that_is_not_trouble(tmp_path: Path) -> None:
    result = pylsm("run", "-q", "--backend", "raw_tracepoint", "--", "true")
    assert result.stderr == ""
    assert "[LSM] open " in result.stdout


def test_timestamps(tmp_path: Path) -> None:
    began = time.time()
    result = pylsm("run", "--timestamps", "--", "true")
    for line in result.stdout.splitlines():
        found = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d{9}Z \[LSM\] (open|exec|exit) ", line)
        assert found
        then = time.mktime(time.strptime(found[1] + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone
        assert began - 2 <= then <= time.time() + 1


def test_output_to_a_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old contents\n" * 1000)
    result = pylsm("run", "-o", path, "--", "echo", "hello")
    assert (result.returncode, result.stdout) == (0, "hello\n")
    lines = path.read_text().splitlines()
    assert lines
    assert all(line.startswith("[LSM] ") for line in lines)


@pytest.mark.parametrize("path", ["/no/such/directory/file", "/proc/1/no", "/"])
def test_output_that_cannot_be_opened(path: str, tmp_path: Path) -> None:
    with nothing_left():
        assert refusal(pylsm("run", "-o", path, "--", "touch", tmp_path / "ran")).startswith(
            f"cannot write to {path}: "
        )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["-o", "stdout"])
def test_a_full_disk(how: str, tmp_path: Path) -> None:
    """The command must not go on unseen: it is ended, with what it started."""
    command = ["sh", "-c", f"sleep 30 & echo $! >{tmp_path}/child; : >{tmp_path}/a; sleep 30"]
    with nothing_left():
        if how == "-o":
            result = pylsm("run", "-o", "/dev/full", "--", *command)
        else:
            with open("/dev/full", "wb") as full:
                result = subprocess.run(
                    [*PYLSM, "run", "--", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
                )
        assert result.returncode == 125
        assert "No space left on device; 0 lines were written before" in result.stderr
        assert "hint: make room" in result.stderr
        assert "ending sh, since it can no longer be audited" in result.stderr
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            child = int((tmp_path / "child").read_text())
            assert eventually(lambda: not Path(f"/proc/{child}").exists() or is_zombie(child))
        with Opener() as opener:
            running = Running("attach", "-p", opener.pid, "-o", "/dev/full")
            opener.open(tmp_path / "b")
            status, _, err = running.finish()
            assert (status, "No space left on device" in err) == (125, True)
            opener.open(tmp_path / "c")  # what is only watched goes on


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    with nothing_left():
        script = "while :; do sleep 0.05; : >$0/$$; done"
        running = subprocess.Popen(
            [*PYLSM, "run", "--", "sh", "-c", script, tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert running.stdout
        assert running.stdout.readline().startswith("[LSM] ")
        running.stdout.close()
        assert running.stderr
        err = running.stderr.read()
        assert running.wait(timeout=20) == 125
        assert "whoever read standard output closed it" in err
        assert "hint: write to a file with -o" in err


def test_a_reader_that_goes_away_while_nothing_happens(tmp_path: Path) -> None:
    with nothing_left(), Opener() as opener:
        running = Running("attach", "-p", opener.pid)
        assert running.process.stdout
        running.process.stdout.close()
        assert running.process.wait(timeout=20) == 125
        assert running.process.stderr
        assert "whoever read standard output closed it; 0 lines were written before" in running.process.stderr.read()
        opener.open(tmp_path / "goes on")


def test_standard_descriptors_that_are_closed(tmp_path: Path) -> None:
    """Files that pylsm opens must not become its standard output, nor that of the command."""

    def closed(redirection: str, *options: str) -> subprocess.CompletedProcess[str]:
        shell = ["sh", "-c", f'exec "$@" {redirection}', "sh", *PYLSM, "run", *options, "--", "sh", "-c"]
        return subprocess.run(
            [*shell, "ls -l /proc/self/fd >$0", tmp_path / "fds"], capture_output=True, text=True, check=False
        )

    result = closed("2>&-")
    assert (result.returncode, result.stderr) == (0, "")
    assert "[LSM] open " in result.stdout
    result = closed("0<&- 2>&-", "-o", str(tmp_path / "events"))
    assert (result.returncode, result.stdout) == (0, "")
    assert "[LSM] open " in (tmp_path / "events").read_text()
    assert "events" not in (tmp_path / "fds").read_text()
    assert "bpf" not in (tmp_path / "fds").read_text()
    result = closed("1>&-")
    assert result.returncode == 125
    assert "cannot write to standard output: Bad file descriptor" in result.stderr


# --- counts ----------------------------------------------------------------------------------------------------------


def test_counts_on_a_signal(tmp_path: Path) -> None:
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid)
        opener.open(tmp_path / "1", tmp_path / "2", tmp_path / "1")
        running.signal(signal.SIGUSR1)
        running.wait_for("recorded ")
        assert counts(running.stderr) == (2, 1, 0)
        opener.open(tmp_path / "3")
        status, out, err = running.finish(signal.SIGINT)
    assert status == 0
    assert counts(err) == (3, 1, 0)
    assert len(out.splitlines()) == 3


def test_counts_every_so_often(tmp_path: Path) -> None:
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid, "--stats", "0.1")
        began = time.monotonic()
        opener.open(tmp_path / "1")
        time.sleep(1.5)
        _, _, err = running.finish(signal.SIGINT)
    reports = COUNTS.findall(err)
    assert 4 <= len(reports) <= 10 * (time.monotonic() - began) + 2
    assert reports[-1][0] == "1"


# --- maps of others --------------------------------------------------------------------------------------------------


def test_a_family_map_that_another_tool_fills(pin: Path, tmp_path: Path) -> None:
    """attach without -p: who is traced is the other tool's business, and so is the end."""
    with Map.create(maps.TRACED.resized(8)) as family, Opener() as opener, Opener() as other:
        family.pin(pin)
        running = Running("attach", "--traced-map", pin)
        assert "attached to 0 processes" in running.stderr
        opener.open(tmp_path / "before")
        family.update(opener.pid.to_bytes(4, sys.byteorder), b"\1\0\0\0")
        opener.open(tmp_path / "traced")
        other.open(tmp_path / "other")
        status, out, _ = running.finish(signal.SIGINT)
        assert status == 0
        assert [line.rpartition("/")[2] for line in out.splitlines()] == ["traced"]

        running = Running("attach", "--traced-map", pin, "-p", other.pid)
        assert len(list(family.items())) == 2
        running.finish(signal.SIGINT)
        assert list(family.items()) == [(opener.pid.to_bytes(4, sys.byteorder), b"\1\0\0\0")]
    assert pin.exists()


def test_a_ring_that_another_tool_owns(pin: Path, tmp_path: Path) -> None:
    with Map.create(maps.RING.resized(1 << 16)) as ring, Opener() as opener:
        ring.pin(pin)
        running = Running("attach", "--ringbuf", pin, "-p", opener.pid)
        opener.open(tmp_path / "file")
        status, out, _ = running.finish(signal.SIGINT)
        assert status == 0
        assert len(out.splitlines()) == 1


@pytest.mark.parametrize("output", ["pipe", "terminal"])
def test_what_nobody_reads_yet_waits_in_memory(output: str, pin: Path, tmp_path: Path) -> None:
    """Many times what the ring and a pipe hold is recorded while whoever reads the lines does not."""
    rounds, each = 50, 100
    with Map.create(maps.RING.resized(1 << 15)) as ring, RingBuffer(ring) as records, Opener() as opener:
        ring.pin(pin)
        options: dict[str, Any] = {}
        if output == "terminal":
            screen, options["stdout"] = pty.openpty()
        running = Running("attach", "--ringbuf", pin, "-p", opener.pid, "--color", "never", **options)
        for number in range(rounds):
            opener.open(*[tmp_path / f"{number}-{n}" for n in range(each)])
            eventually(lambda: not records.pending)
        running.signal(signal.SIGUSR1)  # and it listens meanwhile
        running.wait_for(f"recorded {rounds * each}, deduplicated 0, lost 0")
        if output == "terminal":
            running.signal(signal.SIGINT)
            os.close(options["stdout"])
            shown = b""
            with suppress(OSError):  # EIO: the other side is closed
                while chunk := os.read(screen, 1 << 16):
                    shown += chunk
            os.close(screen)
            out = shown.decode().replace("\r", "")
            status, _, err = running.finish()
        else:
            status, out, err = running.finish(signal.SIGINT)
        assert status == 0
        assert f"recorded {rounds * each}, deduplicated 0, lost 0" in err
        names = [line.rpartition("/")[2] for line in out.splitlines()]
        assert names == [f"{number}-{n}" for number in range(rounds) for n in range(each)]


@pytest.mark.parametrize("option", ["--traced-map", "--ringbuf"])
def test_maps_that_cannot_be_shared(option: str, pin: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    needs = {"--traced-map": "traced_processes needs a hash map", "--ringbuf": "pylsm_ring needs a ring buffer"}[option]
    with Map.create(MapSpec("x", MapType.ARRAY, key=4, value=4, max_entries=1)) as wrong, nothing_left():
        wrong.pin(pin)
        for path, why in (
            (pin, f"{pin} is an array"),
            (pin.with_name("pylsm-nothing-here"), "does not exist: no map is pinned there"),
            (tmp_path / "file", "is not on a BPF filesystem"),
            (pin.parent, "is a directory, not a pinned map"),
        ):
            error = refusal(pylsm("run", option, path, "--", "touch", tmp_path / "ran"))
            assert why in error
            assert (needs in error) == (path == pin)
    assert not (tmp_path / "ran").exists()
