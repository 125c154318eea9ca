"""Output options of `run` and `attach` on real processes."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cases.cli import PYLSM, Opener, Running, nothing_left, pylsm
from cases.lab import eventually


def _connector(port: int) -> list[str]:
    return [sys.executable, "-IS", "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"]


def test_a_recording_makes_an_allow_list_that_the_same_command_keeps_to(tmp_path: Path) -> None:
    log, allow, other = tmp_path / "events.jsonl", tmp_path / "allow.toml", tmp_path / "other file"
    command = ["sh", "-c", f"echo x >{tmp_path}/file; cat {tmp_path}/file"]
    assert pylsm("run", "-q", "--format", "json", "-o", log, "--", *command).returncode == 0
    made = pylsm("expect", log)
    assert f'"{tmp_path}/file"' in made.stdout
    allow.write_text(made.stdout)
    with nothing_left():
        kept = pylsm("run", "-q", "--expect", allow, "--", *command)
    assert kept.returncode == 0, kept.stderr
    broken = pylsm("run", "-q", "--expect", allow, "--", "sh", "-c", f": >'{other}'; exit 7")
    assert broken.returncode == 3
    assert f"  file written: {other}\n" in broken.stderr
    assert "sh itself ended with status 7" in broken.stderr
    assert other.exists(), "nothing is denied"


def test_expect_names_a_host_that_is_not_in_the_list(tmp_path: Path) -> None:
    allow = tmp_path / "allow.toml"
    allow.write_text('hosts = ["127.0.0.1:1"]\n')
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = pylsm("run", "-q", "--expect", allow, "--", *_connector(port))
        assert result.returncode == 3
        assert f"  host: 127.0.0.1:{port}\n" in result.stderr
        allow.write_text('hosts = ["127.0.0.0/8"]\n')
        result = pylsm("run", "-q", "--expect", allow, "--", *_connector(port))
    assert result.returncode == 0
    assert "has no list: read, write, run" in result.stderr


def test_an_allow_list_that_cannot_be_used_starts_nothing(tmp_path: Path) -> None:
    allow = tmp_path / "allow.toml"
    allow.write_text("host = []\n")
    result = pylsm("run", "--expect", allow, "--", "touch", tmp_path / "done")
    assert result.returncode == 125
    assert "did you mean 'hosts'?" in result.stderr
    assert not (tmp_path / "done").exists()
    assert pylsm("run", "--expect", allow, "--if-unavailable", "skip", "--", "true").returncode == 2


def test_a_summary_at_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        command = ["sh", "-c", f': >{tmp_path}/w; exec {" ".join(map(repr, _connector(port)[:3]))} "$0"']
        result = pylsm("run", "-q", "--summary", "-o", "/dev/null", "--", *command, _connector(port)[3])
    assert result.returncode == 0, result.stderr
    lines = result.stderr.splitlines()
    assert f"pylsm:   127.0.0.1:{port}" in lines
    assert "pylsm: 1 file written" in lines
    assert f"pylsm:   {tmp_path}/w" in lines
    assert any(re.fullmatch(r"pylsm: \d+ files read", line) for line in lines)


def test_attach_sums_up_too(tmp_path: Path) -> None:
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid, "--summary")
        opener.open(tmp_path / "one")
        status, _, err = running.finish(signal.SIGINT)
    assert status == 0
    assert f"pylsm: 1 file written\npylsm:   {tmp_path}/one\n" in err


@pytest.mark.parametrize("form", ["json", "ecs", "ocsf"])
def test_every_format_is_one_object_a_line(tmp_path: Path, form: str) -> None:
    output = tmp_path / "events"
    result = pylsm("run", "-q", "--format", form, "--timestamps", "-o", output, "--", "cat", "/etc/hostname")
    assert result.returncode == 0
    events = [json.loads(line) for line in output.read_text().splitlines()]
    paths = {"json": lambda e: e["path"], "ecs": lambda e: e["file"]["path"], "ocsf": lambda e: e["file"]["path"]}
    files = [e for e in events if e.get("event") == "open" or "file" in e]
    assert "/etc/hostname" in [paths[form](event) for event in files]
    times = {"json": "time", "ecs": "@timestamp", "ocsf": "time"}
    assert all(times[form] in event for event in events)


def test_fields(tmp_path: Path) -> None:
    text = pylsm("run", "-q", "--fields", "mode,path", "--timestamps", "--", "cat", "/etc/hostname").stdout
    assert re.search(r"^\d{4}-\S+Z \[LSM\] open mode=r path=/etc/hostname$", text, re.MULTILINE)
    output = tmp_path / "events"
    pylsm("run", "-q", "--fields", "path,pid", "--format", "json", "-o", output, "--", "cat", "/etc/hostname")
    events = [json.loads(line) for line in output.read_text().splitlines()]
    assert {tuple(event) for event in events if event["event"] == "open"} == {("version", "event", "path", "pid")}
    for arguments, why in (
        (("--fields", "pth"), "did you mean 'path'?"),
        (("--fields", ","), "no field is named"),
        (("--fields", "pid", "--format", "json", "--heartbeat", "1"), "add cpu,sequence to --fields"),
        (("--fields", "pid", "--format", "ecs"), "--fields is for text and json"),
    ):
        result = pylsm("run", *arguments, "--", "true")
        assert result.returncode in (2, 125)
        assert why in result.stderr


def _on_terminal(*arguments: str, **environment: str) -> bytes:
    """What pylsm writes to a terminal."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*PYLSM, "run", "-q", *arguments, "--", "cat", "/etc/hostname"],
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TERM": "xterm", **environment},
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(master, 65536)
        except OSError:  # EIO: nobody has the other side any more
            break
        if not data:
            break
        shown += data
    os.close(master)
    assert process.wait() == 0
    return shown


def test_colour_is_for_terminals_that_want_it() -> None:
    assert b"\x1b[0mopen\x1b[0m" in _on_terminal()
    assert b"\x1b" not in _on_terminal(NO_COLOR="1")
    assert b"\x1b" not in _on_terminal(TERM="dumb")
    assert b"\x1b" not in _on_terminal("--color", "never")
    assert b"\x1b" not in _on_terminal("--format", "json", "--color", "always")
    assert "\x1b" not in pylsm("run", "-q", "--", "cat", "/etc/hostname").stdout
    coloured = pylsm("run", "-q", "--color", "always", "--", "cat", "/etc/hostname").stdout
    assert "\x1b" in coloured
    plain = re.sub(r"\x1b\[\d+m", "", coloured)
    assert re.search(r"^\[LSM\] open pid=\d+ comm=cat mode=r path=/etc/hostname$", plain, re.MULTILINE)


def _lose(tmp_path: Path, *arguments: str) -> tuple[int, str]:
    """pylsm is stopped while more is opened than its ring holds."""
    with Opener() as opener:
        running = Running("attach", "-p", opener.pid, "--ring-size", "4K", *arguments)
        running.signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{running.pid}/stat").read_text().split()[2] == "T")
        opener.open(*[tmp_path / str(n) for n in range(500)])
        running.signal(signal.SIGCONT)
        status, _, err = running.finish(0 if "exit" in arguments else signal.SIGINT)
    return status, err


def test_losses_end_it_when_that_is_asked_for(tmp_path: Path) -> None:
    status, err = _lose(tmp_path, "--on-loss", "exit")
    assert status == 4
    assert "events lost so far; ending (--on-loss exit)" in err


def test_losses_are_only_told_otherwise(tmp_path: Path) -> None:
    status, err = _lose(tmp_path)
    assert status == 0
    assert "events were lost because the ring was full" in err


def test_a_command_that_is_not_all_seen_is_ended(tmp_path: Path) -> None:
    """The command stops the pylsm above it, opens more than the ring holds, and would go on for long."""
    script = (
        "import os, signal, time\n"
        "parent = os.getppid()\n"
        "os.kill(parent, signal.SIGSTOP)\n"
        f"[open(f'{tmp_path}/{{n}}', 'w').close() for n in range(500)]\n"
        "os.kill(parent, signal.SIGCONT)\n"
        "time.sleep(50)\n"
    )
    with nothing_left():
        result = pylsm("run", "-q", "--on-loss", "exit", "--ring-size", "4K", "--root", "-o", tmp_path / "log", "--",
                       sys.executable, "-IS", "-c", script)  # fmt: skip
    assert result.returncode == 4, result.stderr
    assert "since not all that it does is seen" in result.stderr
    assert "itself ended with status 143" in result.stderr
