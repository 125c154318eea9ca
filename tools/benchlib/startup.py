"""In the machine: from exec to both hooks live, for pylsm and its peers, in guest instructions.

Run by ``tools/bench startup`` under ``tools/vm --icount``.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from pylsm.arch import call_number
from pylsm.audit.shipped import FILE, build
from tools.benchlib import CHECKOUT, floor
from tools.benchlib.machine import save

__all__ = ["Start", "as_installed", "forget", "main", "start"]

#: Where pylsm is laid as an installation has it: nothing beside it says that it is a checkout.
SITE = Path("/tmp/site")
#: Where a cache of pylsm may lie: removed before a cold start, whatever the version of pylsm that is measured.
_CACHES = ("/root/.cache", "/var/cache", "/var/lib", "/run", "/tmp")
_PATIENCE = 600.0


def forget() -> None:
    for folder in _CACHES:
        for found in Path(folder).glob("pylsm*"):
            shutil.rmtree(found, ignore_errors=True)


def as_installed() -> None:
    """A copy with bytecode as an installed package has it: the machine's own is compared with the source at every
    import."""
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(CHECKOUT / "pylsm", SITE / "pylsm")
    (SITE / "pylsm" / FILE).write_bytes(build())
    for path in SITE.rglob("*.pyc"):
        data = bytearray(path.read_bytes())
        data[4] = 0b01  # PEP 552: valid by hash, unchecked
        path.write_bytes(data)


class Start(NamedTuple):
    """A start.

    Attributes:
        ms: from exec until it is live.
        peak: RSS in kB at the most, until then.
        running: how much of the time it ran: without what it waited for.
        said: what it printed last.
    """

    ms: float
    peak: int
    running: float
    said: str


def start(contender: dict[str, Any], victim: int) -> Start:
    """Start a contender and end it as soon as it is live."""
    command = [word.replace("PID", str(victim)).replace("ME", str(os.getpid())) for word in contender["command"]]
    environment = {**os.environ, "PYTHONPATH": str(SITE), **contender.get("environment", {})}
    ready = contender["ready"]
    # Whoever is started says that it is live, and goes on: it is looked at before it does.
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    # A start right behind an end waits for the end's grace periods: what the one before left behind is not measured.
    time.sleep(2)
    began = time.monotonic_ns()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        bufsize=0,
        cwd="/",
    )
    assert process.stdout is not None and process.stdin is not None
    said = b""
    marks = 0
    while True:
        if ready == "event":
            # Live is who sees: a file never opened before, every millisecond, until one of them is shown.
            path = f"/tmp/mark{marks:06d}"
            os.close(os.open(path, os.O_CREAT | os.O_RDWR))
            marks += 1
        if select.select([process.stdout], [], [], 0.001 if ready == "event" else _PATIENCE)[0]:
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            said += chunk
            if not chunk or (ready and (b"mark0" if ready == "event" else ready.encode()) in said):
                break
        elif time.monotonic_ns() - began > _PATIENCE * 1e9:
            break
    took = (time.monotonic_ns() - began) / 1e6
    peak, running = 0, 0.0
    if ready:
        running = (
            time.clock_gettime(~process.pid << 3 | 2) * 1e3
        )  # CPUCLOCK_SCHED: of all its threads, those that ended too
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
        # The kernel's own counts of pages lag behind by what a mapping of the ring adds at once; these do not.
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        peak = max(peak, next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:")), 0))
    process.stdin.close()
    process.terminate()
    process.stdout.close()
    process.wait()
    if ready and not peak:
        raise RuntimeError(f"{contender['name']} ended early: {said[-400:].decode(errors='replace')}")
    return Start(took, peak, running, said[-200:].decode(errors="replace"))


#: A start that says where its time went: milliseconds since it was executed, and those inside bpf(2), by command.
_PHASES = """
import sys, time
began = int(sys.argv.pop(1))
def now(): return (time.monotonic_ns() - began) / 1e6
at = {"interpreter": now()}
from pylsm.loader import bpf
from pylsm.loader.attr import Cmd
from pylsm.audit.session import Audit
from pylsm.cli import attach
at["modules"] = now()
spent, real, told = {}, bpf._syscall, attach.announce
def timed(number, command, *rest):
    since = time.monotonic_ns()
    result = real(number, command, *rest)
    if command == Cmd.RAW_TRACEPOINT_OPEN:
        return result  # by threads too
    name = Cmd(command).name
    spent[name] = spent.get(name, 0) + (time.monotonic_ns() - since) / 1e6
    return result
def announce(*given):
    told(*given)
    at["live"] = now()
    import json, os
    print(json.dumps({"at": at, "bpf": spent, "modules": len(sys.modules)}), flush=True)
    given[0].close()
    os._exit(0)
attached = Audit._attach
def attaching(*given):
    since = time.monotonic_ns()
    attached(*given)
    spent["RAW_TRACEPOINT_OPEN"] = (time.monotonic_ns() - since) / 1e6
bpf._syscall, attach.announce, Audit._attach = timed, announce, attaching
from pylsm.cli import main
main(sys.argv[1:])
"""


def _phases(command: list[str], victim: int) -> dict[str, Any]:
    """Where a warm start goes."""
    time.sleep(2)
    arguments = [word.replace("PID", str(victim)) for word in command[3:]]
    done = subprocess.run(
        ["python3", "-c", _PHASES, str(time.monotonic_ns()), *arguments],
        env={**os.environ, "PYTHONPATH": str(SITE)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the contenders as JSON: name, command, environment, ready (what its output holds when it is live,
            "event" for when it shows one, "" for its end), phases (whether it is asked where its time goes), runs,
            discard (of these, uncounted), cold (without caches).
    """
    as_installed()
    floor.lay(SITE, call_number("bpf"))
    results: dict[str, Any] = {"kernel": os.uname().release, "starts": {}}
    with subprocess.Popen(["sleep", "100000"]) as victim:
        for contender in json.loads(arguments[0]):
            runs = []
            try:
                for _ in range(contender["runs"]):
                    if contender.get("cold"):
                        forget()
                    runs.append(start(contender, victim.pid))
            except (RuntimeError, OSError) as error:
                results["starts"][contender["name"]] = {"failed": str(error)}
                print(contender["name"], error, flush=True)
                continue
            runs = runs[contender.get("discard", 0) :]
            results["starts"][contender["name"]] = {
                "ms": [run.ms for run in runs],
                "running": [run.running for run in runs],
                "rss_kb": [run.peak for run in runs],
                "said": runs[-1].said,
            }
            print(contender["name"], runs, flush=True)
            if contender.get("phases"):
                results["phases"] = _phases(contender["command"], victim.pid)
                floor.record(contender["command"], victim.pid, SITE)
        victim.kill()
    save("startup", results)


if __name__ == "__main__":
    main(sys.argv[1:])
