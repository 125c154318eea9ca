"""A burst of opens of different files by one process, traced with defaults: nothing may be lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.benchlib.agent import Agent
from tools.benchlib.machine import save
from tools.benchlib.work import FOLDER, Work, make_files

__all__ = ["BURSTS", "Burst", "main", "measure"]

OPENS = 100_000
_JSON = ("--format", "json")
_OUTPUT = "/tmp/burst-output"
#: Paths there have 104 bytes with their NUL: as long as those of a computer's `find /` on average.
_DEEP = f"{FOLDER}/usr/lib/python3/dist-packages/package/".ljust(95, "d")


class Burst(NamedTuple):
    """The agent's options; whether its output is a pipe that nobody reads meanwhile; where the files lie."""

    name: str
    options: Sequence[str]
    pipe: bool
    folder: str


BURSTS = (
    Burst("short paths, JSON to a file", _JSON, False, FOLDER),
    Burst("usual paths, text to a file", (), False, _DEEP),
    Burst("usual paths, JSON to a pipe that is read afterwards", _JSON, True, _DEEP),
)


def measure(program: Path, bursts: Sequence[Burst] = BURSTS) -> dict[str, dict[str, Any]]:
    """Open `OPENS` files as fast as one process can, with a default agent attached; by name of the burst."""
    for folder in {burst.folder for burst in bursts}:
        make_files(program, OPENS, folder)
    return {burst.name: _one(program, burst) for burst in bursts}


def _one(program: Path, burst: Burst) -> dict[str, Any]:
    with Work(program, OPENS, folder=burst.folder) as work:
        if burst.pipe:
            read, write = os.pipe()
            agent = Agent(work.pid, *burst.options, stdout=write)
            os.close(write)
        else:
            agent = Agent(work.pid, *burst.options, "-o", _OUTPUT)
        try:
            took = work.run("new")
            peak = agent.peak_kb
            if burst.pipe:
                agent.process.send_signal(signal.SIGTERM)
                with open(read, "rb") as file:
                    lines = _count(file)
            counts = agent.stop()
        except BaseException:
            agent.kill()
            raise
    if not burst.pipe:
        with open(_OUTPUT, "rb") as file:
            lines = _count(file)
        os.unlink(_OUTPUT)
    return {"opens": OPENS, "lines": lines, "ns_per_open": took, "peak_kb": peak, **counts}


def _count(lines: Iterable[bytes]) -> int:
    return sum(b"/f" in line for line in lines)


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the workload program.
    """
    save("burst", {"kernel": os.uname().release, "bursts": measure(Path(arguments[0]))})


if __name__ == "__main__":
    main(sys.argv[1:])
