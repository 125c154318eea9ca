"""Heartbeats of a real recording."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cases.cli import pylsm

pytestmark = pytest.mark.root


def test_a_recording_is_whole_until_somebody_touches_it(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    command = ("sh", "-c", "for n in 1 2 3 4 5 6; do cat /etc/hostname; sleep 0.1; done")
    recorded = pylsm("run", "-q", "--format", "json", "--heartbeat", "0.1", "-o", log, "--", *command)
    assert recorded.returncode == 0, recorded.stderr
    whole = pylsm("verify-log", log)
    assert whole.returncode == 0, whole.stderr
    assert ": whole: " in whole.stdout
    lines = log.read_bytes().splitlines(keepends=True)
    assert sum(b'"event":"heartbeat"' in line for line in lines) >= 4
    gone = next(n for n, line in enumerate(lines) if b"/etc/hostname" in line)
    log.write_bytes(b"".join(lines[:gone] + lines[gone + 1 :]))
    touched = pylsm("verify-log", log)
    assert touched.returncode == 1
    assert "1 event is missing between the heartbeats in lines" in touched.stderr
    taken = json.loads(lines[gone])
    assert f"processor {taken['cpu']}: number {taken['sequence']} between lines" in touched.stderr


def test_losses_are_told_from_lines_taken_out(tmp_path: Path) -> None:
    """A reader that is stopped loses events: the log is whole, for it says so. One line less, and it is not."""
    log = tmp_path / "events.jsonl"
    work = f"""import os, signal
os.kill(os.getppid(), signal.SIGSTOP)  # pylsm
for n in range(1000): os.close(os.open("{tmp_path}/%d" % n, os.O_CREAT | os.O_WRONLY))
os.kill(os.getppid(), signal.SIGCONT)"""
    command = (sys.executable, "-c", work)
    page = str(os.sysconf("SC_PAGESIZE"))
    recorded = pylsm("run", "-q", "--format=json", "--heartbeat=9", "--ring-size", page, "-o", log, "--", *command)
    assert recorded.returncode == 0, recorded.stderr
    whole = pylsm("verify-log", log)
    assert whole.returncode == 0, whole.stderr
    assert " 0 lost" not in whole.stdout
    lines = log.read_bytes().splitlines(keepends=True)
    final = json.loads(lines[-1])
    assert final["numbered"] == final["recorded"] + final["lost"]
    # The heartbeats know of no other count than this one: what is left is the numbers.
    final["events"] -= 1
    final["recorded"] -= 1
    log.write_bytes(b"".join(lines[:9] + lines[10:-1]) + json.dumps(final).encode())
    touched = pylsm("verify-log", log)
    assert touched.returncode == 1
    numbers = final["lost"] + 1
    assert f"{numbers} numbers of records are in no line, and only {numbers - 1} were lost" in touched.stderr


def test_bad_input(tmp_path: Path) -> None:
    assert pylsm("verify-log", tmp_path / "none").returncode == 125
    text = pylsm("run", "--heartbeat", "1", "--", "true")
    assert text.returncode == 125
    assert "--heartbeat is for --format json" in text.stderr
