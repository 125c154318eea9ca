"""A burst of opens of different files by one process, traced with defaults: nothing may be lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tools.benchlib.agent import Agent
from tools.benchlib.machine import save
from tools.benchlib.work import Work, make_files

__all__ = ["main", "measure"]

OPENS = 100_000
_OUTPUT = "/tmp/burst.jsonl"


def measure(program: Path) -> dict[str, Any]:
    """Open `OPENS` files as fast as one process can, with a default agent attached."""
    make_files(program, OPENS)
    with Work(program, OPENS) as work:
        agent = Agent(work.pid, *Agent.json_to(_OUTPUT))
        try:
            took = work.run("new")
            counts = agent.stop()
        except BaseException:
            agent.kill()
            raise
    with open(_OUTPUT, "rb") as file:
        lines = sum(b"/f" in line for line in file)
    os.unlink(_OUTPUT)
    return {"opens": OPENS, "lines": lines, "ns_per_open": took, **counts}


def main(arguments: list[str]) -> None:
    """Measure and save the result.

    Args:
        arguments: the workload program.
    """
    save("burst", {"kernel": os.uname().release, **measure(Path(arguments[0]))})


if __name__ == "__main__":
    main(sys.argv[1:])
