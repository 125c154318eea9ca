"""A ring that overflows: every open is recorded, deduplicated or counted as lost, exactly once."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cases.lab import CONNECTS_AND_OPENS, Lab, deep_directory, look, touch
from pylsm.audit.session import Audit

FILES = 300


@pytest.fixture
def tight(source: str) -> Iterator[Lab]:
    """An audit with room for some twenty records, which nobody reads while a process works."""
    with Audit(source=source, events=CONNECTS_AND_OPENS, ring_bytes=os.sysconf("SC_PAGESIZE")) as audit:
        yield Lab(audit)


def test_recorded_and_lost_add_up(tight: Lab, tmp_path: Path) -> None:
    outcome = tight.run(lambda: [touch(tmp_path / str(n)) for n in range(FILES)])
    counts = outcome.counts
    assert counts.lost > 0
    assert counts.recorded > 0
    assert counts.recorded + counts.lost == FILES
    assert len(outcome.events) == counts.recorded
    # What came through is the beginning, in order.
    assert [os.path.basename(e.path) for e in outcome.opens()] == [b"%d" % n for n in range(counts.recorded)]


def test_a_lost_record_leaves_a_gap_in_the_numbers_of_its_processor(tight: Lab, tmp_path: Path) -> None:
    """Who reads the ring sees how many are missing between two events, without the counts."""
    before = tight.audit.next_numbers()
    lost = 0
    seen: dict[int, list[int]] = {}
    for _ in range(3):
        outcome = tight.run(lambda: [touch(tmp_path / str(n)) for n in range(FILES)])
        assert outcome.counts.numbered == outcome.counts.recorded + outcome.counts.lost == FILES
        lost += outcome.counts.lost
        for event in outcome.events:
            seen.setdefault(event.cpu, []).append(event.sequence)
    assert lost
    missing = 0
    for cpu, (first, end) in enumerate(zip(before, tight.audit.next_numbers())):
        numbers = seen.get(cpu, [])
        assert numbers == sorted(set(numbers))
        assert all(first <= number < end for number in numbers)
        missing += end - first - len(numbers)
    assert missing == lost


def test_a_lost_record_leaves_no_mark(tight: Lab, tmp_path: Path) -> None:
    """The same process opens all of them again: what was recorded is a duplicate, what was lost is not."""

    def work() -> None:
        for _ in range(3):
            for n in range(FILES):
                touch(tmp_path / str(n))

    counts = tight.run(work).counts
    assert counts.recorded + counts.lost + counts.deduplicated == 3 * FILES
    assert counts.deduplicated == 2 * counts.recorded


def test_it_goes_on_when_there_is_room_again(tight: Lab, tmp_path: Path) -> None:
    first = tight.run(lambda: [touch(tmp_path / str(n)) for n in range(FILES)])
    second = tight.run(lambda: look(tmp_path / "0"))
    assert first.counts.lost
    assert [e.mode for e in second.opens()] == ["r"]
    assert second.counts.lost == 0


def test_connects_too(tight: Lab) -> None:
    def work() -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for port in range(1, FILES + 1):
                sock.connect(("127.0.0.1", port))

    outcome = tight.run(work)
    assert outcome.counts.recorded + outcome.counts.lost == FILES
    assert [e.port for e in outcome.connects] == list(range(1, outcome.counts.recorded + 1))
    assert outcome.counts.lost > 0


@pytest.mark.skipif(os.sysconf("SC_PAGESIZE") > 4096, reason="the smallest ring is larger than the longest path")
def test_a_path_larger_than_the_whole_ring(tight: Lab, tmp_path: Path) -> None:
    """It can never be recorded; it is counted each time."""

    def work() -> None:
        path = deep_directory(tmp_path, 4090)
        for _ in range(3):
            touch(b"f" * (4089 - len(path)))

    before = tight.audit.counts()
    outcome = tight.run(work)
    assert not [e for e in outcome.opens() if b"/f" in e.path]
    assert tight.audit.counts().lost - before.lost == 3
