"""Lines to order: some fields of each event (``--fields``), the time in JSON (``--timestamps``)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pylsm.audit.events import COMMON, KINDS, Event
from pylsm.output import jsonl
from pylsm.output.escape import escape
from pylsm.output.jsonl import VERSION, to_dict
from pylsm.output.text import stamp

__all__ = ["known", "render_json", "render_stamped", "render_text"]


def known() -> list[str]:
    """The names of all fields of all kinds."""
    names = [field.name for kind in (None, *KINDS) for field in (kind.fields if kind else COMMON)]
    return list(dict.fromkeys(names))


def render_stamped(event: Event) -> str:
    """An event as one line of JSON with ``time`` at its end: the UTC time, as RFC 3339 has it."""
    return f'{jsonl.render(event)[:-1]},"time":"{stamp(event.time_ns)}"}}'


def render_json(event: Event, names: Sequence[str], *, timestamps: bool = False) -> str:
    """An event as one line of JSON with its version, its kind and those of the fields that it has.

    Args:
        event: the event.
        names: of fields, in their order.
        timestamps: add ``time``, as `text.stamp` has it.
    """
    values = to_dict(event)
    chosen = {"version": VERSION, "event": event.name}
    for name in names:
        for key in (name, name + "_hex"):
            if key in values:
                chosen[key] = values[key]
    if timestamps:
        chosen["time"] = stamp(event.time_ns)
    return json.dumps(chosen, separators=(",", ":")).replace("\x7f", "\\u007f")


def render_text(event: Event, names: Sequence[str], *, timestamps: bool = False) -> str:
    """An event as one line of ``name=value``, of those of the fields that it has; one that comes last keeps its spaces.

    Args:
        event: the event.
        names: of fields, in their order.
        timestamps: begin with the UTC time.
    """
    fields = {field.name: field for field in (*COMMON, *event.fields)}
    chosen = [fields[name] for name in names if name in fields and name != "event"]
    words = [f"[LSM] {event.name}"]
    for index, field in enumerate(chosen):
        value = field.of(event)
        if isinstance(value, bytes):
            value = escape(value, spaces=index < len(chosen) - 1)
        elif isinstance(value, tuple):
            items = (item if isinstance(item, bytes) else item.encode() for item in value)
            value = ",".join(escape(item, spaces=True).replace(",", "\\x2c") for item in items)
        elif isinstance(value, bool):
            value = "true" if value else "false"
        if value is not None:
            words.append(f"{field.name}={value}")
    line = " ".join(words)
    return f"{stamp(event.time_ns)} {line}" if timestamps else line
