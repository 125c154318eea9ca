"""In the machine, without --icount: does tracing cost more when several processors do it at once?

The machine's processors are threads on fewer real ones, so that only ratios mean anything: the same processes with
pylsm and without, taking turns.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pylsm.audit import Audit
from tools.benchlib.machine import save
from tools.benchlib.work import Work

__all__ = ["main"]

_ROUNDS = 5000
WORKLOADS = ("same", "connect")


def _together(program: Path, cpus: int, audit: Audit | None, traced: bool) -> dict[str, float]:
    """Mean nanoseconds per call of one process on each of ``cpus`` processors, all at once."""
    with ExitStack() as stack:
        works = [stack.enter_context(Work(program, _ROUNDS)) for _ in range(cpus)]
        for cpu, work in enumerate(works):
            os.sched_setaffinity(work.pid, {cpu})
        if traced and audit is not None:
            audit.trace([work.pid for work in works])
        means = {}
        for name in WORKLOADS:
            for work in works:
                work.start(name)
            means[name] = sum(work.result() for work in works) / cpus
            if audit is not None:
                audit.read()
        return means


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the workload program, runs.
    """
    program, runs = Path(arguments[0]), int(arguments[1])
    os.makedirs("/tmp/work", exist_ok=True)
    points: list[dict[str, Any]] = []
    cpus = 1
    while cpus <= (os.cpu_count() or 1):
        point: dict[str, Any] = {"cpus": cpus}
        for _ in range(runs):
            none = _together(program, cpus, None, False)
            with Audit(source="lsm", ring_bytes=16 << 20) as audit:
                untraced = _together(program, cpus, audit, False)
                traced = _together(program, cpus, audit, True)
            for name in WORKLOADS:
                point.setdefault(f"{name}, untraced", []).append(untraced[name] / none[name])
                point.setdefault(f"{name}, traced", []).append(traced[name] / none[name])
        points.append(point)
        print(point, flush=True)
        cpus *= 2
    save("cpus", {"kernel": os.uname().release, "points": points})


if __name__ == "__main__":
    main(sys.argv[1:])
