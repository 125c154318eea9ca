"""In the machine: what each program, each hook and a start cost, against budgets that no change exceeds unseen.

``tools/test`` runs it under ``tools/vm --icount``, where a virtual nanosecond is an instruction. A workload is run
often and briefly, so that the timer interrupts some of the runs only: the fewest instructions are those of a run that
nothing interrupted, and they are the same each time.

A burst of opens, which is never to be more than the reader takes, is run besides: nothing of it may be lost.

A change that costs more raises its budget here, in the same commit, and says why. One that costs less lowers it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tools.benchlib import burst
from tools.benchlib.hooks import WORKLOADS, Opened, attached, empty, loaded
from tools.benchlib.startup import as_installed, forget, start
from tools.benchlib.work import Work, make_files

__all__ = ["main"]

#: The kernel that the figures are of.
_KERNEL = "6.1."
#: Program → instructions that the verifier followed, and instructions in the kernel.
VERIFIED = {"socket_connect": (130, 109), "file_open": (181, 154), "sched_process_fork": (93, 70)}
#: Workload → guest instructions over an empty program, and by how many they differ. Different files lie in different
#: places of the kernel's tables, and to open them costs more or less with any change of what else is in memory.
COSTS = {
    "same, untraced": (53, 1),
    "same, traced": (239, 1),
    "new, traced": (1580, 40),
    "connect, untraced": (50, 1),
    "connect, traced": (521, 1),
}
_ROUNDS, _RUNS = 50, 40
#: Start → million guest instructions that it runs from exec to the word of it, and by how much they differ: where files
#: and memory lie, and what interrupts it.
STARTS = {"warm": (122.0, 3.0), "cold": (209.0, 5.0)}
#: What passes besides at the most: the kernel's own threads, and no grace period that it waits for (20 and more).
_WAITED = 10.0
#: The Python that they are of; with another, starts are measured and said only.
_PYTHON = (3, 11)
#: What `tools/bench startup` starts, with the kinds of events that the C probe records.
_ATTACH = ["python3", "-m", "pylsm", "attach", "-p", "PID", "-o", "/tmp/events", "--events", "connect,open"]


def main(arguments: list[str]) -> int:
    """Measure, and compare.

    Args:
        arguments: the workload program.
    """
    if not os.uname().release.startswith(_KERNEL):
        print(f"budgets are of Linux {_KERNEL}x, this is {os.uname().release}", file=sys.stderr)
        return 2
    work = Path(arguments[0])
    make_files(work, _ROUNDS * _RUNS)
    with loaded(empty()) as nothing:
        _least(work, nothing, False)  # pays for caches that all later ones find filled
        floor = _least(work, nothing, False)
    with attached() as audit:
        found = {f"{name}, untraced": cost - floor[name] for name, cost in _least(work, audit, False).items()}
        found |= {f"{name}, traced": cost - floor[name] for name, cost in _least(work, audit, True).items()}
        programs = audit.programs
    wrong = []
    for program, budget in VERIFIED.items():
        info = programs[program]
        sizes = (info["verified"], info["xlated"])
        print(f"{program}: verified, in the kernel: {sizes}, budget {budget}")
        if sizes != budget:
            wrong.append(f"{program}: (verified, in the kernel) = {sizes}, not {budget}: VERIFIED")
    for cell, (limit, spread) in COSTS.items():
        print(f"{cell}: {found[cell]:.1f} instructions over an empty program, budget {limit}")
        if abs(found[cell] - limit) > spread:
            wrong.append(f"{cell}: {found[cell]:.0f} instructions, not {limit} ± {spread}: COSTS")
    for name, counts in burst.measure(work, burst.BURSTS[:1]).items():
        print(f"a burst, {name}: {counts['recorded']:,} of {counts['opens']:,} recorded, {counts['lost']:,} lost")
        if (counts["recorded"], counts["lines"], counts["lost"]) != (burst.OPENS, burst.OPENS, 0):
            wrong.append(f"a burst, {name}: {counts}")
    for name, (millions, waited) in _starts().items():
        millions_wanted, leeway = STARTS[name]
        print(f"{name} start: {millions:.1f} million instructions, budget {millions_wanted}; besides {waited:.1f}")
        if waited > _WAITED:
            wrong.append(f"{name} start: it waits for {waited:.1f} million instructions, not for {_WAITED} at most")
        if sys.version_info[:2] == _PYTHON and abs(millions - millions_wanted) > leeway:
            wrong.append(f"{name} start: {millions:.1f} million instructions, not {millions_wanted} ± {leeway}: STARTS")
    for each in wrong:
        print(f"budget: {each}", file=sys.stderr)
    if wrong:
        print(f"budget: set the new figures in {__file__}, and say in the commit why they change", file=sys.stderr)
    return int(bool(wrong))


def _starts() -> dict[str, tuple[float, float]]:
    """Start → million guest instructions that it ran, and that passed besides: the fewest of several."""
    as_installed()
    contender = {"name": "pylsm", "command": _ATTACH, "ready": "attached"}
    found: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}

    def once() -> tuple[float, float]:
        run = start(contender, victim.pid)
        return run.running, run.ms - run.running

    with subprocess.Popen(["sleep", "100000"]) as victim:
        for _ in range(3):
            forget()
            found["cold"].append(once())
        for _ in range(3):
            found["warm"].append(once())
        victim.kill()
    print("starts:", found)
    return {name: (min(run[0] for run in runs), min(run[1] for run in runs)) for name, runs in found.items()}


def _least(program: Path, opened: Opened, traced: bool) -> dict[str, float]:
    """Workload → the fewest instructions per round of any run."""
    least = {}
    with Work(program, _ROUNDS) as work:
        if traced:
            opened.trace(work.pid)
        for name in WORKLOADS:
            costs = []
            for _ in range(_RUNS):
                costs.append(work.run(name))
                opened.drain()
            least[name] = min(costs)
    return least


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
