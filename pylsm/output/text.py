"""One line per event for people: ``[LSM] open pid=4321 comm=cat mode=r path=/etc/passwd``."""

from __future__ import annotations

import time

from pylsm.audit.events import Context, Event
from pylsm.light import TYPE_CHECKING
from pylsm.output.escape import escape

if TYPE_CHECKING:
    from typing import Final

__all__ = ["render", "stamp"]


#: What a kind is printed in (SGR parameters, ECMA-48): connections, changes, programs; others as they are.
_COLOURS: Final = {
    **dict.fromkeys(("connect", "sendto", "bind", "listen"), "36"),
    **dict.fromkeys(("unlink", "rename", "mkdir", "chmod", "mount", "module", "bpf", "ptrace", "kill"), "33"),
    **dict.fromkeys(("exec", "fork", "exit"), "32"),
}


def render(event: Event, *, timestamps: bool = False, colour: bool = False) -> str:
    """An event as one line: the words that its kind has in `Event.line`.

    Args:
        event: the event.
        timestamps: begin with the UTC time, to the nanosecond (RFC 3339).
        colour: for a terminal: what a kind touches in its colour, what is the same in most lines faint.

    What is unusual about an event comes in a ``flags=`` field. A path that comes last keeps its spaces; all others have
    them escaped.
    """
    words = [f"[LSM] {event.name} pid={event.pid} comm={escape(event.comm, spaces=True)}"]
    context = event.context
    if context is not None:
        words += _context(event, context)
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
    if colour:
        words = _paint(event, words)
    text = " ".join(words)
    return f"{stamp(event.time_ns)} {text}" if timestamps else text


def _context(event: Event, context: Context) -> list[str]:
    shown = {"user": context.user, "ppid": context.ppid, "container": context.container, "exe": context.exe}
    where = event.where
    if where is not None:
        shown.update(zip(("src_ip", "interface", "scope"), where))
    own = {label for label, _ in event.line}
    return [
        f"{name}={escape(value, spaces=True) if isinstance(value, bytes) else value}"
        for name, value in shown.items()
        if value is not None and name not in own
    ]


def _paint(event: Event, words: list[str]) -> list[str]:
    head, *rest = words
    _, name, who = head.split(" ", 2)
    written = name == "open" and "w" in getattr(event, "mode", "")
    code = "33" if written else _COLOURS.get(name, "")
    shown = [f"\x1b[2m[LSM]\x1b[0m \x1b[{code or '0'}m{name}\x1b[0m \x1b[2m{who}\x1b[0m"]
    for word in rest:
        label, _, value = word.partition("=")
        shown.append(f"\x1b[2m{label}=\x1b[0m\x1b[{code or '0'}m{value}\x1b[0m")
    return shown


def _item(item: str | bytes) -> str:
    return escape(item, spaces=True).replace(",", "\\x2c") if isinstance(item, bytes) else item


def stamp(time_ns: int) -> str:
    """Unix time in nanoseconds as UTC (RFC 3339)."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{nanoseconds:09d}Z"
