"""Heartbeats between the events of a JSON log, and the proof they allow: that no event is missing between two of them.

A heartbeat says how many event lines were written before it and what the kernel counted so far. It comes at the start
(number 0), every so often, and once at the end (``final``), when the programs are detached and the ring is empty: then
what was recorded and what was written have to be equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from time import time_ns
from typing import Any, NamedTuple

from pylsm.audit.session import Counts

__all__ = ["Verdict", "render", "verify"]

_NUMBERS = ("number", "events", "recorded", "lost")


def render(session: str, number: int, events: int, counts: Counts, final: bool) -> str:
    """A heartbeat as one line.

    Args:
        session: tells recordings in one file apart; hexadecimal digits.
        number: 0, 1, 2 … in a session.
        events: lines of events written before it in this session.
        counts: the audit's.
        final: the last one, with nothing left in the ring.
    """
    return json.dumps(
        {
            "event": "heartbeat",
            "time_ns": time_ns(),
            "session": session,
            "number": number,
            "final": final,
            "events": events,
            **counts._asdict(),
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


class _Session:
    """Heartbeats of one recording, in the order of the file."""

    def __init__(self) -> None:
        self.number = -1
        self.line = 0
        self.counted = 0
        self.since = 0  # lines of events behind the last heartbeat
        self.lost = 0
        self.final = False


def verify(lines: Iterable[bytes]) -> Verdict:
    """Read a log in JSON and say whether it is whole.

    Shown to be missing: events removed or added between two heartbeats, heartbeats, a beginning, an end, and events
    that were recorded and never written. Not shown: a line replaced by another. A log of several recordings, one after
    the other, is taken apart by their sessions.

    Args:
        lines: of the file, as bytes.
    """
    missing: list[str] = []
    session = _Session()
    name = ""
    events = heartbeats = lost = pending = 0
    last = 0

    def end_session() -> None:
        if name and not session.final:
            missing.append(
                f"line {session.line}: the last heartbeat of session {name} is not its final one; what came after it "
                f"is not known ({session.since} events follow)"
            )
        elif name and session.since:
            missing.append(f"line {session.line}: {session.since} events follow the final heartbeat of session {name}")

    for last, line in enumerate(lines, 1):
        found = _object(line)
        if found is None:
            missing.append(f"line {last}: not a line of JSON, or cut off: {line[:60]!r}")
            continue
        if found.get("event") != "heartbeat":
            events += 1
            session.since += 1
            pending += not name
            continue
        heartbeats += 1
        wrong = [key for key in _NUMBERS if type(found.get(key)) is not int or found[key] < 0]
        if wrong or not isinstance(found.get("session"), str):
            missing.append(f"line {last}: a heartbeat without a sound {(wrong or ['session'])[0]!r}")
            continue
        if found["session"] != name:
            end_session()
            if pending:
                missing.append(f"line {last}: {pending} events come before the first heartbeat")
                pending = 0
            lost += session.lost
            session, name = _Session(), found["session"]
        before = f"between the heartbeats in lines {session.line} and {last}" if session.line else f"before line {last}"
        skipped = found["number"] - session.number - 1
        if skipped:
            missing.append(f"line {last}: {_many(skipped, 'heartbeat')} {before}")
        gap = found["events"] - session.counted - session.since
        if gap:
            missing.append(f"line {last}: {_many(gap, 'event')} {before}")
        if found.get("final") and found["recorded"] != found["events"]:
            unwritten = found["recorded"] - found["events"]
            missing.append(f"line {last}: {unwritten} recorded events were never written")
        session.number, session.line, session.counted = found["number"], last, found["events"]
        session.since, session.lost, session.final = 0, found["lost"], found.get("final") is True
    end_session()
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
