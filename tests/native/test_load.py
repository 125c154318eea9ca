"""A fork bomb and a flood of opens: nothing waits, nothing is lost without being counted, memory stays where it is."""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cases.lab import CONNECTS_AND_OPENS, Lab, Worker
from evasion.raw import burst

from pylsm.audit.session import Audit

pytestmark = pytest.mark.root


def resident_kib() -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1])


def under_load(source: str, work: Callable[[], tuple[int, float]]) -> tuple[int, float, float]:
    """Run the work, and read and drop its events meanwhile; (events produced, seconds, KiB grown)."""
    with Audit(source=source, events=CONNECTS_AND_OPENS) as audit:
        before, memory, read = audit.counts(), resident_kib(), 0
        worker = Worker(work)
        audit.trace([worker.pid])
        worker.release()
        while not select.select([worker._result], [], [], 0)[0]:
            read += len(audit.read(0.05))
        produced, seconds = worker.wait()
        Lab(audit).settle()
        read += len(audit.read())
        grown = resident_kib() - memory
        after = audit.counts()
        recorded, lost, repeated = (
            getattr(after, name) - getattr(before, name) for name in ("recorded", "lost", "deduplicated")
        )
    assert read == recorded
    assert recorded + lost + repeated == produced
    return produced, seconds, grown


def test_a_fork_bomb(source: str, tmp_path: Path) -> None:
    """Processes that open a file and end, as fast as one parent can start them (vfork, machine code)."""
    lives = 3_000

    def work() -> tuple[int, float]:
        began = time.monotonic()
        burst(os.fsencode(tmp_path / "x"), lives)
        return lives, time.monotonic() - began

    produced, seconds, grown = under_load(source, work)
    print(f"\n{produced / seconds:,.0f} processes a second, {grown} KiB more")
    assert grown < 16 << 10


def test_a_flood_of_opens(source: str, tmp_path: Path) -> None:
    """Each file five times."""
    files, rounds = 2_000, 5

    def work() -> tuple[int, float]:
        names = [f"{tmp_path}/{number}" for number in range(files)]
        began = time.monotonic()
        for _ in range(rounds):
            for name in names:
                os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
        return files * rounds, time.monotonic() - began

    produced, seconds, grown = under_load(source, work)
    print(f"\n{produced / seconds:,.0f} opens a second, {grown} KiB more")
    assert grown < 32 << 10
