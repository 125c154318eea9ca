"""One line per event for people: ``[LSM] open pid=4321 comm=cat mode=r path=/etc/passwd``."""

from __future__ import annotations

import time

from pylsm.audit.events import Event
from pylsm.output.escape import escape

__all__ = ["render", "stamp"]


def render(event: Event, *, timestamps: bool = False) -> str:
    """An event as one line: the words that its kind has in `Event.line`.

    Args:
        event: the event.
        timestamps: begin with the UTC time, to the nanosecond (RFC 3339).

    What is unusual about an event comes in a ``flags=`` field. A path that comes last keeps its spaces; all others have
    them escaped.
    """
    words = [f"[LSM] {event.name} pid={event.pid} comm={escape(event.comm, spaces=True)}"]
    line = event.line
    last = len(line) - 1
    for index, (label, attribute) in enumerate(line):
        value = getattr(event, attribute)
        if isinstance(value, bytes):
            words.append(f"{label}={escape(value, spaces=index < last)}")
        elif isinstance(value, tuple):
            if value:
                words.append(f"{label}={','.join(_item(item) for item in value)}")
        elif value is not None:
            words.append(f"{label}={value}")
    text = " ".join(words)
    return f"{stamp(event.time_ns)} {text}" if timestamps else text


def _item(item: str | bytes) -> str:
    return escape(item, spaces=True).replace(",", "\\x2c") if isinstance(item, bytes) else item


def stamp(time_ns: int) -> str:
    """Unix time in nanoseconds as UTC (RFC 3339)."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"
