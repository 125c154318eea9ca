"""What heartbeats prove: a log with anything removed, added or cut off is not called whole."""

from __future__ import annotations

import json
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
        lines.append(render(session, number, written, counts, final=final).encode() + b"\n")
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
    lines = [render("a", 0, 0, zero, final=False).encode(), EVENT, render("a", 1, 1, counts, final=True).encode()]
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


def numbered(
    batches: list[list[int]], *, base: tuple[int, ...] = (0, 0, 0), lost: int = 0, hide: set[int] = frozenset()
) -> list[bytes]:
    """A log of events on the processors in the batches; of all those that would be written, ``hide`` are not, though
    every heartbeat was rewritten to their want. The last ``lost`` never came out of the kernel."""
    following, lines, written, made = list(base), [], 0, 0
    total = sum(map(len, batches))
    for number, batch in enumerate([[], *batches]):
        for cpu in batch:
            if made not in hide and made < total - lost:
                event = {"event": "open", "time_ns": 1, "cpu": cpu, "sequence": following[cpu], "path": "/x"}
                lines.append(json.dumps(event).encode() + b"\n")
                written += 1
            following[cpu] += 1
            made += 1
        counts = Counts._make([0] * len(Counts._fields))._replace(recorded=written, lost=lost if number else 0)
        final = number == len(batches)
        lines.append(render("n", number, written, counts, final=final, next_numbers=following).encode() + b"\n")
    return lines


on_processors = st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5).filter(any)
bases = st.tuples(*[st.integers(0, 1 << 60)] * 3)


@given(on_processors, bases, st.data())
def test_numbers_of_a_whole_log(batches: list[list[int]], base: tuple[int, ...], data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, sum(map(len, batches))))
    verdict = verify(numbered(batches, base=base, lost=lost))
    assert verdict.missing == ()
    assert verdict.lost == lost


@given(on_processors, bases, st.data())
def test_numbers_tell_what_rewritten_heartbeats_hide(
    batches: list[list[int]], base: tuple[int, ...], data: st.DataObject
) -> None:
    total = sum(map(len, batches))
    hide = data.draw(st.sets(st.integers(0, total - 1), min_size=1))
    verdict = verify(numbered(batches, base=base, hide=hide))
    what = f"{len(hide)} number{'' if len(hide) == 1 else 's'} of records are in no line, and only 0 were lost"
    assert any(sentence.startswith(what) for sentence in verdict.missing)


@given(on_processors, bases, st.randoms(use_true_random=False))
def test_a_line_in_the_place_of_another_is_noticed(
    batches: list[list[int]], base: tuple[int, ...], choice: random.Random
) -> None:
    lines = numbered(batches, base=base)
    events = [index for index, line in enumerate(lines) if b"heartbeat" not in line]
    if len(events) < 2:
        return
    place, other = choice.sample(events, 2)
    lines[place] = lines[other]
    assert verify(lines).missing


@given(on_processors, st.randoms(use_true_random=False))
def test_records_that_overtake_each_other_are_whole(batches: list[list[int]], choice: random.Random) -> None:
    """Between two heartbeats lines may come in any order."""
    lines = numbered(batches)
    at = 0
    for end in [index for index, line in enumerate(lines) if b"heartbeat" in line]:
        part = lines[at:end]
        choice.shuffle(part)
        lines[at:end] = part
        at = end + 1
    assert verify(lines).missing == ()


def test_what_waited_in_the_ring_of_an_audit_that_goes_on() -> None:
    """Its numbers are from before the first heartbeat, and its events were counted for another log."""
    lines = numbered([[0, 0, 0]], base=(7, 0, 0))
    beats = [json.loads(line) for line in lines if b"heartbeat" in line]
    beats[0]["next"] = [9, 0, 0]
    for beat in beats:
        beat["continued"], beat["recorded"] = True, 100
    lines[0], lines[-1] = (json.dumps(beat).encode() + b"\n" for beat in beats)
    assert verify(lines).missing == ()
    del lines[2]
    assert "processor 0: number 8 between lines 2 and 3" in verify(lines).missing


@pytest.mark.parametrize("wrong", [None, 3, "x", [-1], ["1"], [True], [[]], {}])
def test_a_heartbeat_without_numbers_is_taken_for_what_it_is(wrong: object) -> None:
    lines = numbered([[0, 1], [2]])
    beats = [json.loads(line) for line in lines]
    for beat in beats:
        if beat["event"] == "heartbeat":
            beat["next"] = wrong
    assert verify([json.dumps(beat).encode() for beat in beats]).missing == ()


@pytest.mark.parametrize("name", ["a\x1b[2J", "a\nb", "", "\ud800", "a" * 65])
def test_a_session_that_would_do_something_to_a_terminal(name: str) -> None:
    """Its name is shown, so that it has to be one of ours."""
    ours, theirs = b'"session":"ab"', b'"session":' + json.dumps(name).encode()
    missing = verify([line.replace(ours, theirs) for line in log([1])]).missing
    assert "a heartbeat without a sound 'session'" in missing[0]
    assert all(said.isprintable() for said in missing)
