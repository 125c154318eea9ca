"""Heartbeats between the events of a JSON log, and what they and the numbers of the events prove: that none is missing.

A heartbeat says how many event lines were written before it and what the kernel counted so far. It comes at the start
(number 0), every so often, and once at the end (``final``), when the programs are detached and the ring is empty: then
what was recorded and what was written have to be equal.

Every record has a number on its processor, taken before it is sent: numbers in no line were lost in the kernel, which
counts them, or were taken out.
"""

from __future__ import annotations

import json
import re
from bisect import bisect
from collections.abc import Iterable, Sequence
from time import time_ns
from typing import Any, NamedTuple

from pylsm.audit.session import Counts
from pylsm.output.jsonl import VERSION

__all__ = ["Verdict", "render", "verify"]

_NUMBERS = ("number", "events", "recorded", "lost")
_SESSION = re.compile(r"[0-9A-Za-z]{1,64}")
#: Gaps that are told one by one.
_TOLD = 5


def render(
    session: str,
    number: int,
    events: int,
    counts: Counts,
    *,
    final: bool,
    continued: bool = False,
    next_numbers: Sequence[int] = (),
) -> str:
    """A heartbeat as one line.

    Args:
        session: tells recordings in one file apart; hexadecimal digits.
        number: 0, 1, 2 … in a session.
        events: lines of events written before it in this session.
        counts: the audit's.
        final: the last one, with nothing left in the ring.
        continued: the audit is another process's, whose earlier events are counted too.
        next_numbers: for each processor the sequence number of its next record.
    """
    return json.dumps(
        {
            "version": VERSION,
            "event": "heartbeat",
            "time_ns": time_ns(),
            "session": session,
            "number": number,
            "final": final,
            "continued": continued,
            "events": events,
            **counts._asdict(),
            "next": list(next_numbers),
        },
        separators=(",", ":"),
    )


class Verdict(NamedTuple):
    """What a log proves.

    Attributes:
        events: lines of events.
        heartbeats: lines of heartbeats.
        lost: events that the kernel had no room for; the log says so itself.
        missing: what is not as it was written, a sentence each; empty: the log is whole.
    """

    events: int
    heartbeats: int
    lost: int
    missing: tuple[str, ...]


class _Gap(NamedTuple):
    """Numbers of a processor that no line has: from ``first`` to before ``end``."""

    first: int
    end: int
    after: int  # the line before them, 0: the beginning
    before: int  # the line behind them


class _Processor:
    """The numbers of one processor's records so far.

    Lines need not be in their order: a record can be interrupted by another, which takes the later number and is sent
    first.
    """

    def __init__(self, following: int | None, line: int) -> None:
        self.following = following  # the number that comes next; None: not known
        self.line = line  # the last that is taken into account
        self.gaps: list[_Gap] = []  # in order

    def add(self, number: int, line: int) -> bool:
        """A line with this number; whether there was none before."""
        expected = number if self.following is None else self.following
        if number >= expected:
            self.upto(number, line)
            self.following = number + 1
            return True
        index = bisect(self.gaps, _Gap(number + 1, 0, 0, 0)) - 1
        if index < 0 or number >= self.gaps[index].end:
            return False
        first, end, after, before = self.gaps.pop(index)
        parts = (_Gap(first, number, after, line), _Gap(number + 1, end, line, before))
        self.gaps[index:index] = [part for part in parts if part.first < part.end]
        return True

    def upto(self, number: int, line: int) -> None:
        """All numbers before this one were taken when this line was written."""
        if self.following is not None and number > self.following:
            self.gaps.append(_Gap(self.following, number, self.line, line))
        self.following, self.line = number, line


class _Session:
    """One recording: its heartbeats and events, in the order of the file."""

    def __init__(self, name: str = "") -> None:
        self.name = name  # "": events before any heartbeat
        self.number = -1
        self.line = 0
        self.counted = 0
        self.since = 0  # lines of events behind the last heartbeat
        self.lost = self.unreadable = self.withheld = 0
        self.final = False
        self.first: Sequence[int] = ()  # the number that each processor's next record had at the first heartbeat
        self.processors: dict[int, _Processor] = {}
        self.missing: list[str] = []

    def event(self, found: dict[str, Any], line: int) -> None:
        """A line of an event; what was there at the attach is none of the kernel's, and not counted."""
        if found.get("already_open") is True:
            return
        self.since += 1
        cpu, number = found.get("cpu"), found.get("sequence")
        if type(cpu) is not int or type(number) is not int or cpu < 0 or number < 0:
            return  # of a producer that does not number
        processor = self.processors.get(cpu)
        if processor is None:
            # What waited in the ring of a continued audit has numbers from before the first heartbeat.
            first = self.first[cpu] if cpu < len(self.first) else None
            known = first is not None and number >= first
            processor = self.processors[cpu] = _Processor(first if known else None, self.line)
        if not processor.add(number, line):
            self.missing.append(f"line {line}: number {number} of processor {cpu} comes a second time")

    def heartbeat(self, found: dict[str, Any], line: int) -> None:
        """A line of a heartbeat."""
        since = f"between the heartbeats in lines {self.line} and {line}" if self.line else f"before line {line}"
        skipped = found["number"] - self.number - 1
        if skipped:
            self.missing.append(f"line {line}: {_many(skipped, 'heartbeat')} {since}")
        gap = found["events"] - self.counted - self.since
        if gap:
            self.missing.append(f"line {line}: {_many(gap, 'event')} {since}")
        if found.get("final") and not found.get("continued") and found["recorded"] != found["events"]:
            unwritten = found["recorded"] - found["events"]
            self.missing.append(f"line {line}: {unwritten} recorded events were never written")
        following = _sequence_numbers(found.get("next"))
        if self.number < 0:
            self.first = following
        if found.get("final"):
            self._end_of_numbers(following, line)
        unreadable = found.get("unreadable")
        self.unreadable = unreadable if type(unreadable) is int and unreadable > 0 else 0
        withheld = found.get("withheld")
        self.withheld = withheld if type(withheld) is int and withheld > 0 else 0
        self.number, self.line, self.counted = found["number"], line, found["events"]
        self.since, self.lost, self.final = 0, found["lost"], found.get("final") is True

    def _end_of_numbers(self, following: Sequence[int], line: int) -> None:
        for cpu, number in enumerate(following):
            if cpu not in self.processors and cpu < len(self.first):
                self.processors[cpu] = _Processor(self.first[cpu], self.line)
            if cpu in self.processors:
                self.processors[cpu].upto(number, line)

    def end(self) -> None:
        """Nothing of this recording follows."""
        if not self.name:
            return
        if not self.final:
            self.missing.append(
                f"line {self.line}: the last heartbeat of session {self.name} is not its final one; what came after it "
                f"is not known ({self.since} events follow)"
            )
        elif self.since:
            self.missing.append(
                f"line {self.line}: {self.since} events follow the final heartbeat of session {self.name}"
            )
        gaps = [(cpu, gap) for cpu, processor in sorted(self.processors.items()) for gap in processor.gaps]
        gone = sum(gap.end - gap.first for _, gap in gaps)
        # Behind the last heartbeat losses are not counted yet.
        known = self.lost + self.unreadable + self.withheld if self.final else gone
        if gone > known:
            numbers = f"{gone} number{'' if gone == 1 else 's'} of records"
            self.missing.append(f"{numbers} are in no line, and only {known} were lost in the kernel or filtered")
            self.missing += [_describe(cpu, gap) for cpu, gap in gaps[:_TOLD]]
            if len(gaps) > _TOLD:
                self.missing.append(f"… and {len(gaps) - _TOLD} further gaps")


def _sequence_numbers(given: object) -> Sequence[int]:
    """The numbers of a heartbeat, none if it has none."""
    if isinstance(given, list) and all(type(number) is int and number >= 0 for number in given):
        return given
    return ()


def _describe(cpu: int, gap: _Gap) -> str:
    one = gap.end - gap.first == 1
    numbers = f"number {gap.first}" if one else f"numbers {gap.first} to {gap.end - 1}"
    return f"processor {cpu}: {numbers} between lines {gap.after} and {gap.before}"


def verify(lines: Iterable[bytes]) -> Verdict:
    """Read a log in JSON and say whether it is whole.

    Shown to be missing: events removed or added between two heartbeats, heartbeats, a beginning, an end, events that
    were recorded and never written, and numbers that were neither written nor lost; so a line that another one replaces
    is noticed as well, unless it has that one's processor and number. A log of several recordings, one after the other,
    is taken apart by their sessions.

    Args:
        lines: of the file, as bytes.
    """
    missing: list[str] = []
    session = _Session()
    events = heartbeats = lost = 0

    for last, line in enumerate(lines, 1):
        found = _object(line)
        if found is None:
            session.missing.append(f"line {last}: not a line of JSON, or cut off: {line[:60]!r}")
            continue
        if found.get("event") != "heartbeat":
            events += 1
            session.event(found, last)
            continue
        heartbeats += 1
        wrong = [key for key in _NUMBERS if type(found.get(key)) is not int or found[key] < 0]
        session_name = found.get("session")  # it is shown
        if wrong or not isinstance(session_name, str) or not _SESSION.fullmatch(session_name):
            session.missing.append(f"line {last}: a heartbeat without a sound {(wrong or ['session'])[0]!r}")
            continue
        if found["session"] != session.name:
            session.end()
            if session.since and not session.name:
                session.missing.append(f"line {last}: {session.since} events come before the first heartbeat")
            missing += session.missing
            lost += session.lost
            session = _Session(found["session"])
        session.heartbeat(found, last)
    session.end()
    missing += session.missing
    if not heartbeats:
        missing.append("there is no heartbeat: record with --format json --heartbeat SECONDS")
    return Verdict(events, heartbeats, lost + session.lost, tuple(missing))


def _many(number: int, what: str) -> str:
    """ "3 events are missing", or what else the number means."""
    plural = "" if abs(number) == 1 else "s"
    if number < 0:
        return f"{-number} {what}{plural} more than were written"
    return f"{number} {what}{plural} {'is' if number == 1 else 'are'} missing"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
