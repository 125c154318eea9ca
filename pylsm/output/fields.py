"""Lines to order: some fields of each event (``--fields``), the time in JSON (``--timestamps``)."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pylsm.audit.events import COMMON, CONTEXT, KINDS, WHERE, Event, HeldOpen
from pylsm.output import jsonl
from pylsm.output.escape import escape
from pylsm.output.jsonl import VERSION, to_dict
from pylsm.output.text import stamp

__all__ = ["known", "render_json", "render_stamped", "render_text"]


def known() -> list[str]:
    """The names of all fields of all kinds."""
    tables = (COMMON, *(kind.fields for kind in KINDS), CONTEXT, WHERE, HeldOpen.fields)
    return list(dict.fromkeys(field.name for table in tables for field in table))


def render_stamped(event: Event) -> str:
    """An event as one line of JSON with ``time`` at its end: the UTC time, as RFC 3339 has it."""
    return f'{jsonl.render_with_context(event)[:-1]},"time":"{stamp(event.time_ns)}"}}'


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
    values = {**_context(event), **{field.name: field.of(event) for field in (*COMMON, *event.fields)}}
    chosen = [name for name in names if name in values and name != "event"]
    words = [f"[LSM] {event.name}"]
    for index, name in enumerate(chosen):
        value = values[name]
        if isinstance(value, bytes):
            value = escape(value, spaces=index < len(chosen) - 1)
        elif isinstance(value, tuple):
            items = (item if isinstance(item, bytes) else item.encode() for item in value)
            value = ",".join(escape(item, spaces=True).replace(",", "\\x2c") for item in items)
        elif isinstance(value, bool):
            value = "true" if value else "false"
        if value is not None:
            words.append(f"{name}={value}")
    line = " ".join(words)
    return f"{stamp(event.time_ns)} {line}" if timestamps else line


def _context(event: Event) -> dict[str, object]:
    context, where = event.context, event.where
    found: dict[str, object] = {field.name: field.of(context) for field in CONTEXT} if context is not None else {}
    if where is not None:
        found.update((field.name, value) for field, value in zip(WHERE, where))
    return found
