"""In the machine: does a hook cost more when the family is larger, the table of opens fuller, the rules are more?

Run by ``tools/bench scale`` under ``tools/vm --icount``.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pylsm.audit import Audit
from pylsm.audit.filters import Filters
from pylsm.loader import Object
from tools.benchlib.hooks import empty
from tools.benchlib.machine import save
from tools.benchlib.work import FOLDER, Work, make_files

__all__ = ["main"]

FAMILIES = (1, 10, 100, 1_000, 10_000, 100_000)
OPENS = (100, 1_000, 10_000, 30_000, 60_000, 100_000)
#: How many rules are in a trie: of destinations that are not shown, and of paths.
DESTINATIONS = (0, 1, 10, 100, 1_000, 10_000)
PATHS = (0, 1, 10, 100, 1_000)
_ROUNDS = 2000
#: Above every pid there is, below every pid there may be (PID_MAX_LIMIT, 4 Mi).
_FIRST_PID = 1 << 21


def _costs(program: Path, runs: int, audit: Audit | None) -> dict[str, list[float]]:
    cells: dict[str, list[float]] = {}
    for traced in (False, True):
        if traced and audit is None:
            continue
        with Work(program, _ROUNDS) as work:
            if traced and audit is not None:
                audit.trace([work.pid])
            for _ in range(runs):
                for name in ("same", "connect"):
                    cells.setdefault(f"{name}, {'traced' if traced else 'untraced'}", []).append(work.run(name))
                    if audit is not None:
                        audit.read()
    return cells


def _families(program: Path, runs: int) -> dict[str, Any]:
    with Object(empty()) as floor:
        floor.attach()
        result: dict[str, Any] = {"empty": _costs(program, runs, None), "sizes": []}
    with Audit(source="lsm", family_size=1 << 17) as audit:
        members = 0
        for size in FAMILIES:
            audit.trace(range(_FIRST_PID + members, _FIRST_PID + size))
            members = size
            result["sizes"].append({"size": size, "cost": _costs(program, runs, audit)})
            print(size, result["sizes"][-1], flush=True)
    return result


def _opens(program: Path) -> list[dict[str, Any]]:
    """The cost of opening N files again that the process has opened before."""
    points: list[dict[str, Any]] = [{"opens": count} for count in OPENS]
    for probe in ("empty", "pylsm"):
        for point in points:
            with ExitStack() as stack:
                audit = None
                if probe == "empty":
                    stack.enter_context(Object(empty())).attach()
                else:
                    audit = stack.enter_context(Audit(source="lsm", ring_bytes=64 << 20))
                work = stack.enter_context(Work(program, point["opens"]))
                if audit is not None:
                    audit.trace([work.pid])
                point[f"{probe}, new"] = work.run("new")
                if audit is not None:
                    audit.read()
                point[f"{probe}, again"] = work.run("again")
                if audit is not None:
                    counts = audit.counts()
                    point["recorded"], point["deduplicated"] = counts.recorded, counts.deduplicated
                    point["lost"] = counts.lost
            print(point, flush=True)
    return points


def _rules(program: Path, runs: int) -> dict[str, Any]:
    """What a connect and an open that are recorded cost by how many rules are looked through for them."""
    result: dict[str, Any] = {}
    for kind, workload, sizes in (("destinations", "connect", DESTINATIONS), ("paths", "new", PATHS)):
        with Object(empty()) as floor, Work(program, _ROUNDS) as work:
            floor.attach()
            found: dict[str, Any] = {"empty": [work.run(workload) for _ in range(runs)], "sizes": []}
        for size in sizes:
            with Audit(source="lsm", filters=_refusing(kind, size)) as audit, Work(program, _ROUNDS) as work:
                audit.trace([work.pid])
                costs = []
                for _ in range(runs):
                    costs.append(work.run(workload))
                    audit.read()
                if audit.counts().recorded < _ROUNDS * runs:
                    raise RuntimeError(f"{size} rules of {kind} let through {audit.counts()}")
            found["sizes"].append({"size": size, "cost": costs})
            print(kind, found["sizes"][-1], flush=True)
        result[kind] = found
    return result


def _refusing(kind: str, size: int) -> Filters | None:
    """Rules that refuse nothing the workload does, and lie close to it."""
    if not size:
        return None
    if kind == "paths":
        return Filters(not_paths=[f"{FOLDER}/f{number:06d}x" for number in range(size)])
    networks = (number * 0x9E3779B1 >> 8 & 0xFFFFFF for number in range(1, size + 1))
    return Filters(not_dsts=[f"{n >> 16}.{n >> 8 & 255}.{n & 255}.0/24" for n in networks if n != 0x7F0000])


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the workload program, runs.
    """
    program = Path(arguments[0])
    make_files(program, max(OPENS))
    with Work(program, _ROUNDS) as warm:  # pays for caches that all later ones find filled
        for name in ("same", "connect"):
            warm.run(name)
    runs = int(arguments[1])
    result = {
        "kernel": os.uname().release,
        "family": _families(program, runs),
        "opens": _opens(program),
        "rules": _rules(program, runs),
    }
    save("scale", result)


if __name__ == "__main__":
    main(sys.argv[1:])
