"""What a workload costs under each tool that watches it, the tool's own work included.

Run by ``tools/bench peers``: in the machine with one processor and --icount, where all that anyone does is counted;
and natively, where tools and workload share real processors.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.benchlib.machine import save
from tools.benchlib.work import Work, make_files

__all__ = ["main", "measure"]

ROUNDS = 1000
WORKLOADS = ("same", "new", "connect")
_PATIENCE = 300.0
_OUTPUT = "/tmp/bench-output"

_AUDITD = """\
local_events = yes
write_logs = yes
log_file = /tmp/bench-output
log_format = RAW
flush = INCREMENTAL_ASYNC
freq = 50
max_log_file = 200
num_logs = 2
max_log_file_action = IGNORE
space_left = 2
admin_space_left = 1
space_left_action = IGNORE
admin_space_left_action = IGNORE
disk_full_action = IGNORE
disk_error_action = IGNORE
name_format = NONE
"""


@contextlib.contextmanager
def _watched(contender: dict[str, Any], program: Path) -> Iterator[Work]:
    """The workload process, watched by the contender."""
    environment = {**os.environ, **contender.get("environment", {})}
    with contextlib.ExitStack() as stack:
        Path(_OUTPUT).write_bytes(b"")
        if contender["kind"] == "auditd":
            stack.enter_context(_auditd(contender, environment))
        work = stack.enter_context(Work(program, ROUNDS, contender.get("wrap", ())))
        if contender["kind"] == "auditd":
            rule = ["-a", "always,exit", "-F", "arch=b64", "-S", "openat,connect", "-F", f"pid={work.pid}"]
            subprocess.run([contender["control"], *rule], env=environment, check=True, stdout=subprocess.DEVNULL)
        elif contender["kind"] == "agent":
            stack.enter_context(_agent(contender, environment, work.pid))
        yield work


@contextlib.contextmanager
def _agent(contender: dict[str, Any], environment: dict[str, str], pid: int) -> Iterator[None]:
    """A tool that attaches to a process, from when it is live; what it shows goes to a file."""
    command = [word.replace("PID", str(pid)) for word in contender["command"]]
    with open(_OUTPUT, "ab") as output, open("/tmp/bench-errors", "wb") as errors:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
    try:
        deadline = time.monotonic() + _PATIENCE
        while contender["ready"] not in Path("/tmp/bench-errors").read_text() + Path(_OUTPUT).read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{contender['name']}: {Path('/tmp/bench-errors').read_text()[-300:]}")
            time.sleep(0.05)
        time.sleep(contender.get("settle", 0.0))
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def _auditd(contender: dict[str, Any], environment: dict[str, str]) -> Iterator[None]:
    folder = Path("/tmp/auditd")
    folder.mkdir(mode=0o750, exist_ok=True)
    configuration = folder / "auditd.conf"
    configuration.write_text(_AUDITD)
    configuration.chmod(0o640)
    os.makedirs("/var/log/audit", exist_ok=True)
    os.chmod(_OUTPUT, 0o600)

    def control(*arguments: str) -> None:
        subprocess.run([contender["control"], *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)

    daemon = subprocess.Popen(
        [contender["daemon"], "-n", "-c", str(folder)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        time.sleep(1)
        if daemon.poll() is not None:
            assert daemon.stderr is not None
            raise RuntimeError(f"auditd ended: {daemon.stderr.read().decode(errors='replace')[-300:]}")
        # Never wait for auditd, never print to the console instead, room for what it has not read yet.
        control("-e", "1", "-f", "0", "-b", "65536", "-r", "0", "--backlog_wait_time", "0")
        yield
    finally:
        if daemon.poll() is None:
            control("-D")
            control("-e", "0")
        daemon.terminate()
        daemon.wait()


def measure(contenders: list[dict[str, Any]], program: Path, rounds: int, runs: int) -> dict[str, Any]:
    """Nanoseconds per call of each workload under each contender: ``rounds`` turns of ``runs`` runs each."""
    make_files(program, ROUNDS * runs)
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for contender in contenders:
            kept = results.setdefault(contender["name"], {})
            if "failed" in kept:
                continue
            try:
                with _watched(contender, program) as work:
                    for _ in range(runs):
                        for workload in WORKLOADS:
                            kept.setdefault(workload, []).append(work.run(workload))
                    time.sleep(0.2)
            except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
                results[contender["name"]] = {"failed": str(error)}
                continue
            # Whether it showed what it was asked to show: every new file's name, every connect.
            with open(contender.get("output", _OUTPUT), "rb") as output:
                text = output.read()
            kept["lines"] = text.count(b"\n")
            kept["files"] = sum(b"/f%06d" % n in text or b" f%06d" % n in text for n in range(ROUNDS * runs))
            print(contender["name"], json.dumps(kept), flush=True)
    return {"rounds": ROUNDS, "files": ROUNDS * runs, "contenders": results}


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the contenders as JSON, the workload program, runs.
    """
    result = measure(json.loads(arguments[0]), Path(arguments[1]), 1, int(arguments[2]))
    save("slowdown", {"kernel": os.uname().release, **result})


if __name__ == "__main__":
    main(sys.argv[1:])
