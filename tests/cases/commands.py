"""`pylsm run` and `pylsm attach` on real processes: the main job, as a user sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cases.cli import Opener, Running, nothing_left, pylsm
from cases.lab import eventually
from cases.selection import group  # noqa: F401

COUNTS = re.compile(r"recorded (\d+), deduplicated (\d+), lost (\d+), untraced (\d+)")


def counts(stderr: str) -> tuple[int, int, int]:
    """(recorded, deduplicated, lost) as said last."""
    recorded, deduplicated, lost, _ = COUNTS.findall(stderr)[-1]
    return int(recorded), int(deduplicated), int(lost)


def test_run_prints_what_the_command_opens(tmp_path: Path, source: str) -> None:
    path = tmp_path / "a file"
    path.write_text("contents\n")
    with nothing_left():
        result = pylsm("run", "--", "cat", path)
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert "contents" in lines
    (line,) = [line for line in lines if str(tmp_path) in line and "[LSM] open" in line]
    assert re.fullmatch(rf"\[LSM\] open pid=\d+ comm=cat mode=r path={re.escape(str(path))}", line)
    assert f"source {source}\n" in result.stderr
    assert re.search("not seen by it: |does not see: ", result.stderr)
    recorded, _, lost = counts(result.stderr)
    assert (recorded, lost) == (sum(line.startswith("[LSM] ") for line in lines), 0)


def test_run_shows_connects_and_children_as_json(tmp_path: Path) -> None:
    output = tmp_path / "events.jsonl"
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        script = f"""
import os, socket
if not os.fork():
    socket.create_connection(("::1", {port}))
    os._exit(0)
os.wait()
"""
        result = pylsm("run", "--format", "json", "-o", output, "--", sys.executable, "-IS", "-c", script)
    assert (result.returncode, result.stdout) == (0, "")
    events = [json.loads(line) for line in output.read_text().splitlines()]
    (connect,) = [event for event in events if event["event"] == "connect"]
    assert (connect["dst_ip"], connect["dport"], connect["family"]) == ("::1", port, "ipv6")
    assert connect["pid"] == connect["tid"]
    assert connect["pid"] not in {event["pid"] for event in events[:1]}
    assert abs(connect["time_ns"] - time.time_ns()) < 60e9
    assert output.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["no-such-command"], 127),
        (["/etc/passwd"], 126),
    ],
    ids=["exit 7", "kill -TERM", "not found", "not executable"],
)
def test_run_ends_as_the_command_does(command: list[str], status: int) -> None:
    with nothing_left():
        result = pylsm("run", "-q", "--", *command)
    assert result.returncode == status
    errors = [line for line in result.stderr.splitlines() if line.startswith("pylsm: error: ")]
    assert len(errors) == (status in (126, 127))


def test_run_waits_for_those_that_outlive_the_command(tmp_path: Path) -> None:
    script = f"(sleep 1; echo x >{tmp_path}/late) & exit 3"
    result = pylsm("run", "-q", "--", "sh", "-c", script)
    assert result.returncode == 3
    assert f"mode=w path={tmp_path}/late\n" in result.stdout


def test_attach_until_interrupted(tmp_path: Path) -> None:
    with nothing_left(), Opener(comm=b"a b\n") as opener, Opener() as stranger:
        opener.open(tmp_path / "before")
        running = Running("attach", "-p", opener.pid)
        opener.open(tmp_path / "one", tmp_path / "two")
        stranger.open(tmp_path / "stranger")
        status, out, err = running.finish(signal.SIGINT)
        opener.open(tmp_path / "after")
    assert status == 0
    lines = out.splitlines()
    assert [line.rpartition("/")[2] for line in lines] == ["one", "two"]
    assert all(line.startswith("[LSM] open pid=") and " comm=a\\x20b\\x0a mode=w path=" in line for line in lines)
    assert counts(err) == (2, 0, 0)


def test_attach_ends_with_its_processes(tmp_path: Path) -> None:
    with nothing_left():
        with Opener() as opener:
            running = Running("attach", "--pid", opener.pid)
            opener.open(tmp_path / "last words")
        status, out, err = running.finish()
    assert status == 0
    assert [line.split()[1] for line in out.splitlines()[-2:]] == ["open", "exit"]
    assert out.splitlines()[-2].endswith("/last words")
    assert "all traced processes have ended" in err


def test_a_stopped_reader_loses_nothing_unseen(tmp_path: Path) -> None:
    """pylsm is stopped while more is opened than its ring holds: every open is a line or counted as lost."""
    files = 500
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid, "--ring-size", "4K")
        running.signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{running.pid}/stat").read_text().split()[2] == "T")
        opener.open(*[tmp_path / str(n) for n in range(files)])
        opener.open(*[tmp_path / "0"] * 100)
        running.signal(signal.SIGCONT)
        status, out, err = running.finish(signal.SIGINT)
    recorded, deduplicated, lost = counts(err)
    assert status == 0
    assert lost > 0
    assert recorded + deduplicated + lost == files + 100
    assert len(out.splitlines()) == recorded
    assert "--ring-size" in err


def test_a_killed_auditor_leaves_nothing_in_the_kernel(tmp_path: Path) -> None:
    with nothing_left(), Opener() as opener:
        running = Running("attach", "-p", opener.pid)
        status, _, _ = running.finish(signal.SIGKILL)
        assert status == -signal.SIGKILL
        opener.open(tmp_path / "and goes on")


def test_the_command_of_a_killed_auditor_goes_on(tmp_path: Path) -> None:
    with nothing_left():
        script = f": >{tmp_path}/began; read x; echo done >{tmp_path}/file"
        running = Running("run", "--", "sh", "-c", script, stdin=subprocess.PIPE)
        assert eventually((tmp_path / "began").exists)
        running.signal(signal.SIGKILL)
        running.process.wait()
        running.process.communicate("\n")
        assert eventually(lambda: (tmp_path / "file").exists() and (tmp_path / "file").read_text() == "done\n")


def test_thread_ids_stand_for_their_process(tmp_path: Path) -> None:
    script = f"""
import threading, sys, os
def work():
    print(threading.get_native_id(), flush=True)
    sys.stdin.readline()
    open("{tmp_path}/by a thread", "w")
thread = threading.Thread(target=work)
thread.start()
thread.join()
open("{tmp_path}/by the first", "w")
"""
    target = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert target.stdout
    assert target.stdin
    tid = int(target.stdout.readline())
    running = Running("attach", "-p", tid, "--format", "json")
    target.communicate("\n")
    status, out, _ = running.finish()
    assert status == 0
    events = {
        os.path.basename(e["path"]): e
        for e in map(json.loads, out.splitlines())
        if e["event"] == "open" and str(tmp_path) in e["path"]
    }
    assert (events["by a thread"]["pid"], events["by a thread"]["tid"]) == (target.pid, tid)
    assert (events["by the first"]["pid"], events["by the first"]["tid"]) == (target.pid, target.pid)


def test_hostile_names_stay_on_their_line(tmp_path: Path) -> None:
    names = [b"\x1b[2K\r", b"\xff", "\u202e".encode(), b"\\x41"]
    with Opener(comm=b"c\x1b mode=w") as opener:
        running = Running("attach", "-p", opener.pid)
        for name in names:
            opener.open(os.fsencode(tmp_path) + b"/" + name)
        _, out, _ = running.finish(signal.SIGINT)
        line = f"[LSM] open pid={opener.pid} comm=c\\x1b\\x20mode=w mode=w path={tmp_path}/"
    assert out == "".join(f"{line}{shown}\n" for shown in (r"\x1b[2K\x0d", r"\xff", r"\xe2\x80\xae", r"\\x41"))


def test_filters_of_a_command(tmp_path: Path) -> None:
    """What is left out is counted, and a log without it is whole."""
    output = tmp_path / "events.jsonl"
    folder = tmp_path / "files"
    folder.mkdir()
    script = f"""
import os, socket
for name in ("a", "b.tmp", "c"):
    os.close(os.open("{folder}/" + name, os.O_WRONLY | os.O_CREAT))
os.close(os.open("{folder}/a", os.O_RDONLY))
for port in (79, 80):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
"""
    options = ("--mode", "w", "--path", str(folder), "--not-path", "*.tmp", "--dst", "127.0.0.0/8", "--port", "80-89")
    log = ("--format", "json", "--heartbeat", "60", "-o", output, "--events", "connect,open")
    with nothing_left():
        result = pylsm("run", *options, *log, "--", sys.executable, "-IS", "-c", script)
    assert result.returncode == 0, result.stderr
    events = [json.loads(line) for line in output.read_text().splitlines() if "heartbeat" not in line]
    assert [event.get("path", event.get("dport")) for event in events] == [f"{folder}/a", f"{folder}/c", 80]
    assert counts(result.stderr)[0] == 3
    filtered = re.search(r", filtered (\d+)", result.stderr)
    assert filtered and int(filtered[1]) > 3, "what the interpreter opens, too"
    assert pylsm("verify-log", output).returncode == 0


def test_a_cgroup_that_vanishes_ends_the_audit(
    group: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Nobody can join any more."""
    from cases.selection import enter

    running = Running("attach", "--cgroup", group, "--events", "open")
    assert "no process matches --cgroup" in running.stderr

    script = f"open('{tmp_path}/inside', 'w')"
    subprocess.run([sys.executable, "-IS", "-c", script], preexec_fn=lambda: enter(group), check=True)
    for folder in (group / "inner", group):
        assert eventually(lambda folder=folder: not (folder / "cgroup.procs").read_text())
        folder.rmdir()
    status, out, err = running.finish()
    assert status == 0
    assert f"path={tmp_path}/inside" in out
    assert f"cgroup {group} has been removed" in err
