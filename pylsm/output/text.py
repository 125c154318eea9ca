"""One line per event for people: ``[LSM] open pid=4321 comm=cat mode=r path=/etc/passwd``."""

from __future__ import annotations

import time

from pylsm.audit.events import Connect, Event
from pylsm.output.escape import escape

__all__ = ["render"]


def render(event: Event, *, timestamps: bool = False) -> str:
    """An event as one line.

    Args:
        event: the event.
        timestamps: begin with the UTC time, to the nanosecond (RFC 3339).

    What is unusual about an event comes in a ``flags=`` field: ``v4mapped`` behind a destination, ``basename``,
    ``truncated`` or ``unlinked`` before a path. The path comes last, since it may hold spaces.
    """
    head = f"{_stamp(event.time_ns)} " if timestamps else ""
    who = f"pid={event.pid} comm={escape(event.comm, spaces=True)}"
    if isinstance(event, Connect):
        host = event.dst_ip if len(event.address) == 4 else f"[{event.dst_ip}]"
        flags = " flags=v4mapped" if event.mapped else ""
        return f"{head}[LSM] connect {who} dst={host}:{event.port}{flags}"
    flags = ",".join(name for name in ("basename", "truncated", "unlinked") if getattr(event, name))
    unusual = f"flags={flags} " if flags else ""
    return f"{head}[LSM] open {who} mode={event.mode} {unusual}path={escape(event.path)}"


def _stamp(time_ns: int) -> str:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"
