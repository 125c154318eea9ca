"""In the machine: what a hook costs per system call, by probe and workload, in guest instructions.

Run by ``tools/bench`` under ``tools/vm --icount``, where a virtual nanosecond is an instruction.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pylsm.asm import R0, R1, Asm, Program, u64
from pylsm.audit.maps import TRACED
from pylsm.audit.programs.file_open import file_open
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.audit.sources import family_programs
from pylsm.loader import Map, Object

__all__ = ["main"]

#: name, rounds, whether a traced run of it is interesting
_WORKLOADS = (("same", 4000), ("new", 3000), ("connect", 4000))

Trace = Callable[[int], None]


def _empty() -> list[Program]:
    """The floor: programs that only return the verdict."""
    programs = []
    for hook, slot in (("file_open", 1), ("socket_connect", 3)):
        a = Asm(f"lsm/{hook}")
        a.ldx(R0, u64[R1 + 8 * slot])
        a.exit_()
        programs.append(a.build())
    return programs


@contextlib.contextmanager
def _nothing() -> Iterator[tuple[Trace, dict[str, Any]]]:
    yield lambda pid: None, {}


@contextlib.contextmanager
def _python(programs: list[Program]) -> Iterator[tuple[Trace, dict[str, Any]]]:
    with Object(programs) as probe:
        probe.attach()
        infos = {program.name: _info(probe.programs[program.name], program.slots) for program in programs}

        def trace(pid: int) -> None:
            probe.maps[TRACED.name].update(pid.to_bytes(4, sys.byteorder), b"\1\0\0\0")

        yield trace, infos


def _info(loaded: Any, slots: int) -> dict[str, int]:
    info = loaded.info
    return {"slots": slots, "jited": info.jited_len, "verified": info.verified_insns}


@contextlib.contextmanager
def _c(loader: Path) -> Iterator[tuple[Trace, dict[str, Any]]]:
    with subprocess.Popen([loader], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        shown = json.loads(subprocess.check_output(["bpftool", "-j", "map", "show", "name", "traced"]))
        number = (shown[0] if isinstance(shown, list) else shown)["id"]
        programs = json.loads(subprocess.check_output(["bpftool", "-j", "prog", "show"]))
        from pylsm.loader import LoadedProgram

        infos = {}
        for each in programs:
            if each.get("name") in ("on_open", "on_connect"):
                with LoadedProgram.from_id(each["id"]) as loaded:
                    name = {"on_open": "file_open", "on_connect": "socket_connect"}[each["name"]]
                    infos[name] = {"jited": loaded.info.jited_len, "verified": loaded.info.verified_insns}
        with Map.from_id(number) as traced:
            yield lambda pid: traced.update(pid.to_bytes(4, sys.byteorder), b"\1\0\0\0"), infos
        process.stdin.close()


def _measure(work: Path, name: str, rounds: int, trace: Trace | None) -> float:
    with subprocess.Popen([work, name, str(rounds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if trace:
            trace(process.pid)
        output, _ = process.communicate(b"g")
        return float(output)


def main(arguments: list[str]) -> None:
    """Measure and write /out/hooks.json.

    Args:
        arguments: the folder with the built peers.
    """
    peers = Path(arguments[0])
    work = peers / "work"
    os.mkdir("/tmp/work")
    subprocess.run([work, "make", str(max(rounds for _, rounds in _WORKLOADS))], check=True)
    probes: dict[str, Any] = {
        "none": _nothing(),
        "empty": _python(_empty()),
        "pylsm": _python([*family_programs(), socket_connect(), file_open()]),
        "pylsm basename": _python([*family_programs(), socket_connect(), file_open("basename")]),
    }
    if (peers / "loader").exists():
        probes["c"] = _c(peers / "loader")
    results: dict[str, Any] = {"kernel": os.uname().release, "cost": {}, "programs": {}}
    for probe, opened in probes.items():
        with opened as (trace, infos):
            results["programs"][probe] = infos
            cells = {}
            for name, rounds in _WORKLOADS:
                cells[f"{name}, untraced"] = _measure(work, name, rounds, None)
                if probe not in ("none", "empty"):
                    cells[f"{name}, traced"] = _measure(work, name, rounds, trace)
            results["cost"][probe] = cells
        print(probe, json.dumps(results["cost"][probe]), json.dumps(infos), flush=True)
    Path("/out/hooks.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
