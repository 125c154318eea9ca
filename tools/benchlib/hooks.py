"""In the machine: what a hook costs per system call, by probe and workload, in guest instructions.

Run by ``tools/bench hooks`` under ``tools/vm --icount``, where a virtual nanosecond is an instruction.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from pylsm.asm import R0, R1, Asm, Program, u64
from pylsm.audit import Audit
from pylsm.audit.maps import RING, TRACED
from pylsm.audit.sources import SOURCES
from pylsm.loader import LoadedProgram, Map, Object, RingBuffer
from tools.benchlib import helpers
from tools.benchlib.machine import save
from tools.benchlib.work import Work, make_files

__all__ = ["Opened", "attached", "empty", "loaded", "main", "nothing"]

#: Rounds of a run: so few that nothing interrupts some of the runs. Those are the ones with the fewest instructions.
ROUNDS = 50
WORKLOADS = ("same", "new", "connect")


class Opened(NamedTuple):
    """A probe while it is attached: how to trace a process, how to empty the ring, what its programs are."""

    trace: Callable[[int], object]
    drain: Callable[[], object]
    programs: dict[str, dict[str, int | None]]


Probe = AbstractContextManager[Opened]


def empty() -> list[Program]:
    """The floor: programs that only return the verdict."""
    programs = []
    for hook, slot in (("file_open", 1), ("socket_connect", 3)):
        a = Asm(f"lsm/{hook}")
        a.ldx(R0, u64[R1 + 8 * slot])
        a.exit_()
        programs.append(a.build())
    return programs


@contextlib.contextmanager
def nothing() -> Iterator[Opened]:
    yield Opened(lambda pid: None, lambda: None, {})


@contextlib.contextmanager
def loaded(programs: list[Program]) -> Iterator[Opened]:
    with Object(programs) as probe, contextlib.ExitStack() as stack:
        probe.attach()
        infos = {program.name: _info(probe.programs[program.name], program.slots) for program in programs}
        drain: Callable[[], object] = lambda: None  # noqa: E731 (the floor has no ring)
        if RING.name in probe.maps:
            ring = stack.enter_context(RingBuffer(probe.maps[RING.name]))
            drain = lambda: ring.drain(len)  # noqa: E731
        yield Opened(lambda pid: _trace(probe.maps[TRACED.name], pid), drain, infos)


@contextlib.contextmanager
def attached() -> Iterator[Opened]:
    """What ``pylsm attach`` attaches, whatever that is."""
    before = {each["id"] for each in _listed("prog", "show")}
    source = next(source for source in SOURCES if source.name == "lsm")
    variant = source.variants[0]
    programs = source.all(variant)
    slots = {program.name: program.slots for program in programs}
    with Audit(source="lsm") as audit:
        infos = {}
        for each in _listed("prog", "show"):
            # The kernel keeps 15 bytes of a name.
            name = next((name for name in slots if name[:15] == each.get("name", "")[:15]), None)
            if name and each["id"] not in before:
                with LoadedProgram.from_id(each["id"]) as program:
                    infos[name] = _info(program, slots[name])
        yield Opened(lambda pid: audit.trace([pid]), audit.read, infos)


def _trace(traced: Map, pid: int) -> None:
    traced.update(pid.to_bytes(4, sys.byteorder), b"\1\0\0\0")


def _info(program: LoadedProgram, slots: int | None) -> dict[str, int | None]:
    info = program.info
    return {
        "slots": slots,
        "verified": info.verified_insns,
        "xlated": info.xlated_len // 8,
        "jited": info.jited_len,
    }


@contextlib.contextmanager
def _c(loader: Path) -> Iterator[Opened]:
    with subprocess.Popen([loader], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        infos = {}
        for each in _listed("prog", "show"):
            name = {"on_open": "file_open", "on_connect": "socket_connect"}.get(each.get("name", ""))
            if name:
                with LoadedProgram.from_id(each["id"]) as program:
                    infos[name] = _info(program, None)
        ids = {each.get("name"): each["id"] for each in _listed("map", "show")}
        with Map.from_id(ids["traced"]) as traced, Map.from_id(ids["ring"]) as records, RingBuffer(records) as ring:
            yield Opened(lambda pid: _trace(traced, pid), lambda: ring.drain(len), infos)
        process.stdin.close()


def _listed(*command: str) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = json.loads(subprocess.check_output(["bpftool", "-j", *command]))
    return shown


def _cells(program: Path, runs: int, opened: Opened, traced: bool) -> dict[str, list[float]]:
    """Workload → nanoseconds per round, a value per run."""
    cells: dict[str, list[float]] = {name: [] for name in WORKLOADS}
    with Work(program, ROUNDS) as work:
        if traced:
            opened.trace(work.pid)
        for _ in range(runs):
            for name in WORKLOADS:
                cells[name].append(work.run(name))
                opened.drain()
    return {f"{name}, {'traced' if traced else 'untraced'}": values for name, values in cells.items()}


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the folder with the built peers, and how many runs of each workload (default 41).
    """
    peers = Path(arguments[0])
    runs = int(arguments[1]) if len(arguments) > 1 else 41
    work = peers / "work"
    make_files(work, ROUNDS * runs)
    probes: dict[str, Probe] = {
        "none": nothing(),
        "empty": loaded(empty()),
        "pylsm": attached(),
    }
    if (peers / "loader").exists():
        probes["c"] = _c(peers / "loader")
    results: dict[str, Any] = {
        "kernel": os.uname().release,
        "rounds": ROUNDS,
        "cost": {},
        "programs": {},
        "helpers": {},
    }
    with nothing() as bare:  # pays for caches that all later ones find filled
        _cells(work, runs, bare, False)
    for name, probe in probes.items():
        with probe as opened:
            cells = _cells(work, runs, opened, False)
            if opened.programs and name != "empty":
                cells |= _cells(work, runs, opened, True)
        results["cost"][name] = cells
        results["programs"][name] = opened.programs
        print(name, json.dumps(cells), json.dumps(opened.programs), flush=True)
    for parts in (*((name,) for name in helpers.PARTS), helpers.ALL, helpers.WITH_COMPONENT):
        with loaded([helpers.calling(*parts)]) as opened:
            results["helpers"][" ".join(parts)] = _cells(work, runs, opened, False)["new, untraced"]
    save("hooks", results)


if __name__ == "__main__":
    main(sys.argv[1:])
