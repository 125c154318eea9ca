"""More than can be recorded: tools/load, which says what it checks, for two seconds.

How fast it was does not matter here: a slow machine makes less load, and the accounts are the same.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cases.cli import nothing_left

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(
    not shutil.which("gcc") and not (ROOT / "build/bench/flood").exists(),
    reason="needs gcc, or the workload: tools/load --build && tools/vm --file build/bench/flood",
)


def load(source: str, *options: str) -> dict[str, str]:
    command = [sys.executable, "tools/load", "--backend", source, "--seconds", "2", *options]
    with nothing_left():
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every open is recorded, deduplicated or lost" in done.stdout
    print(done.stdout)
    return {line[:22].strip(): line[23:].replace(",", "") for line in done.stdout.splitlines()}


def test_a_flood_of_opens(source: str) -> None:
    """Most are repetitions; nothing is lost."""
    found = load(source)
    assert int(found["deduplicated"]) > int(found["recorded"]) > 0


def test_a_fork_bomb(source: str) -> None:
    """Each open is another process's."""
    found = load(source, "--files", "1", "--rounds", "1")
    assert int(found["deduplicated"]) == 0
    assert int(found["recorded"]) > 0


def test_more_than_the_ring_holds(source: str) -> None:
    """Every open has to be recorded: most are lost, and counted."""
    page = str(os.sysconf("SC_PAGESIZE"))
    found = load(source, "--rounds", "1", "--ring-size", page)
    assert int(found["lost"]) > 0


def test_pylsm_stands_still_meanwhile(source: str) -> None:
    """The workload goes on, losses are counted, and so does pylsm later (tools/load --stop 120: longer)."""
    found = load(source, "--rounds", "1", "--ring-size", "64K", "--stop", "1")
    assert int(found["opens while stopped"]) > 0
    assert int(found["lost"]) > 0


def has_memory_controller() -> bool:
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    return Path("/sys/fs/cgroup/memory").exists() or (unified.exists() and "memory" in unified.read_text())


@pytest.mark.skipif(not has_memory_controller(), reason="no memory controller of cgroups here")
def test_in_a_memory_cgroup_of_64_mib(source: str) -> None:
    """All that pylsm is charged for: its own memory, its maps, pages of files. Fewer records wait there."""
    load(source, "--rounds", "1", "--memory", "64")
