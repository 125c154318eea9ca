"""What heartbeats prove: a log with anything removed, added or cut off is not called whole."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.audit.session import Counts
from pylsm.output.heartbeat import render, verify

EVENT = b'{"event":"open","time_ns":1,"path":"/x"}\n'


def log(batches: list[int], session: str = "ab", lost: int = 0) -> list[bytes]:
    lines, written = [], 0
    for number, batch in enumerate([0, *batches]):
        lines += [EVENT] * batch
        written += batch
        final = number == len(batches)
        counts = Counts._make([0] * len(Counts._fields))._replace(recorded=written, lost=lost if final else 0)
        lines.append(render(session, number, written, counts, final).encode() + b"\n")
    return lines


batches = st.lists(st.integers(0, 5), min_size=1, max_size=6)


@given(batches, st.integers(0, 9))
def test_a_whole_log(sizes: list[int], lost: int) -> None:
    verdict = verify(log(sizes, lost=lost))
    assert verdict == (sum(sizes), len(sizes) + 1, lost, ())


@given(batches, batches)
def test_two_recordings_in_one_file(first: list[int], second: list[int]) -> None:
    assert verify(log(first) + log(second, "cd")).missing == ()


@given(batches, st.randoms(use_true_random=False))
def test_any_line_removed_is_missed(sizes: list[int], choice: random.Random) -> None:
    lines = log(sizes)
    del lines[choice.randrange(len(lines))]
    assert verify(lines).missing


@given(batches, st.randoms(use_true_random=False))
def test_any_event_added_is_noticed(sizes: list[int], choice: random.Random) -> None:
    lines = log(sizes)
    lines.insert(choice.randrange(len(lines) + 1), EVENT)
    assert verify(lines).missing


@given(batches, st.randoms(use_true_random=False))
def test_a_log_cut_off_anywhere(sizes: list[int], choice: random.Random) -> None:
    whole = b"".join(log(sizes))
    cut = whole[: choice.randrange(len(whole) - 1)]
    assert verify(cut.splitlines(keepends=True)).missing


def test_it_says_where_and_how_many() -> None:
    lines = log([2, 3, 1])
    del lines[4:6]
    (sentence,) = verify(lines).missing
    assert sentence == "line 6: 2 events are missing between the heartbeats in lines 4 and 6"


def test_recorded_and_never_written() -> None:
    counts = Counts._make([0] * len(Counts._fields))._replace(recorded=5)
    zero = Counts._make([0] * len(Counts._fields))
    lines = [render("a", 0, 0, zero, False).encode(), EVENT, render("a", 1, 1, counts, True).encode()]
    assert verify(lines).missing == ("line 3: 4 recorded events were never written",)


@pytest.mark.parametrize(
    "line",
    [b"", b"\xff", b"[]", b"{}", b'{"event":3}', b'{"event":"heartbeat"}', b"[" * 100_000, b'{"event":"heartbeat",'
     b'"session":"a","number":-1,"events":0,"recorded":0,"lost":0}'],
)  # fmt: skip
def test_hostile_lines_are_named(line: bytes) -> None:
    assert any(sentence.startswith("line 2: ") for sentence in verify([log([1])[0], line, *log([1])[1:]]).missing)


def test_no_heartbeat_at_all() -> None:
    assert verify([EVENT]).missing == ("there is no heartbeat: record with --format json --heartbeat SECONDS",)
