"""The JSON Schema of our own JSON lines, made from the table of events: what `pylsm schema` prints.

A kind's fields, their meanings and their types come from `pylsm.audit.events.KINDS`: a kind that is added there is in
the schema.
"""

from __future__ import annotations

import re
from typing import Any

from pylsm.audit.events import COMMON, CONTEXT, KINDS, WHERE, Event, Field, HeldOpen
from pylsm.audit.session import Counts
from pylsm.output.jsonl import VERSION, to_dict

__all__ = ["schema"]

_TYPES = {bool: "boolean", int: "integer", str: "string", list: "array"}
_HEARTBEAT = {
    "time_ns": "Unix time in nanoseconds",
    "session": "tells recordings in one file apart",
    "number": "0, 1, 2 … in a session",
    "final": "the last one, with nothing left in the ring",
    "continued": "the audit is another process's, whose earlier events are counted too",
    "events": "lines of events written before it in this session",
    **dict.fromkeys(Counts._fields, "a count, as `pylsm.audit.session.Counts` has it"),
    "next": "for each processor the sequence number of its next record",
}
#: What a sink puts in front of each line (`pylsm.ship.sinks.enrich`).
_DELIVERED = {
    "id": "the event's, by which a second delivery of it is told (only where a sink delivered it)",
    "host": "the host's id, 32 hexadecimal digits (only where a sink delivered it)",
    "host_name": "the host's name (only where a sink delivered it)",
}
#: What a sink delivers in the place of events that were lost on the way (`pylsm.ship.spool.loss`).
_SPOOL_LOST = {
    "time_ns": "Unix time in nanoseconds",
    "reason": "why: dropped-oldest, dropped-newest, corrupt, rejected",
    "count": "how many events",
    "first": "number of the first of them in the spool",
    "last": "number of the last",
}
_NULLABLE = re.compile(r"\bnull\b")
_TIME = {"type": "string", "format": "date-time", "description": "the UTC time, with --timestamps"}


def schema(*, strict: bool = False) -> dict[str, Any]:
    """The schema of a line of ``--format json`` (JSON Schema, draft 2020-12).

    Args:
        strict: refuse fields and kinds that this pylsm does not have. A reader of logs should not: later ones may have
            more under the same version.
    """
    kinds = {row.name: _kind(row) for row in KINDS}
    kinds["heartbeat"] = _heartbeat()
    kinds["spool_lost"] = _spool_lost()
    names: dict[str, Any] = {"type": "string"}
    if strict:
        names["enum"] = list(kinds)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of pylsm --format json, or of a sink",
        "type": "object",
        "required": ["version", "event", "time_ns"],
        "properties": {
            "version": {"const": VERSION, "description": "raised when a field goes or changes its meaning"},
            "event": names,
            "time_ns": {"type": "integer"},
        },
        "allOf": [
            {
                "if": {"properties": {"event": {"const": name}}},
                "then": {**kind, "additionalProperties": not strict},
            }
            for name, kind in kinds.items()
        ],
    }


def _kind(row: type[Event]) -> dict[str, Any]:
    blank = row.make(**({row.layout.tail_name: b""} if row.layout.tail_name else {}))
    values = to_dict(blank)
    properties: dict[str, Any] = {
        "version": {"const": VERSION},
        "event": {"const": row.name},
        "time": _TIME,
        **_delivered(),
    }
    for field in (*COMMON, *row.fields):
        if field.name == "event":
            continue
        properties[field.name] = _field(field, values[field.name])
        if isinstance(field.of(blank), (bytes, tuple)):
            exact = {"type": "string", "pattern": "^([0-9a-f]{2})*$"}
            properties[field.name + "_hex"] = {
                **({"type": "array", "items": exact} if isinstance(field.of(blank), tuple) else exact),
                "description": f"the exact bytes of `{field.name}`, only when they are no UTF-8",
            }
    for field in (*CONTEXT, *WHERE, *HeldOpen.fields[-1:]):
        properties.setdefault(field.name, {"description": field.meaning + " (only where it was asked for)"})
    required = ["version", "event", *(f.name for f in (*COMMON, *row.fields) if values[f.name] is not None)]
    return {"description": row.summary, "properties": properties, "required": list(dict.fromkeys(required))}


def _field(field: Field, value: object) -> dict[str, Any]:
    """A field's schema, by the type of its value in an event of zeros. One that can be null says so in its meaning."""
    shown: dict[str, Any] = {"description": field.meaning}
    if value is not None:
        kind = _TYPES[type(value)]
        shown["type"] = [kind, "null"] if _NULLABLE.search(field.meaning) else kind
    if isinstance(value, list):
        shown["items"] = {"type": "string"}
    return shown


def _heartbeat() -> dict[str, Any]:
    types = {"session": "string", "final": "boolean", "continued": "boolean", "next": "array"}
    kind = _said(
        "heartbeat",
        "how many event lines were written before it, and what the kernel counted so far",
        _HEARTBEAT,
        types,
    )
    kind["properties"]["next"]["items"] = {"type": "integer"}
    return kind


def _spool_lost() -> dict[str, Any]:
    return _said("spool_lost", "events that were lost between the spool and a sink", _SPOOL_LOST, {"reason": "string"})


def _said(name: str, description: str, meanings: dict[str, str], types: dict[str, str]) -> dict[str, Any]:
    """The schema of a line that pylsm says of itself: its fields, integers but for those in ``types``."""
    properties: dict[str, Any] = {
        field: {"type": types.get(field, "integer"), "description": meaning} for field, meaning in meanings.items()
    }
    own: dict[str, Any] = {"version": {"const": VERSION}, "event": {"const": name}}
    required = ["version", "event", *properties]
    return {"description": description, "properties": {**own, **_delivered(), **properties}, "required": required}


def _delivered() -> dict[str, Any]:
    return {name: {"type": "string", "description": meaning} for name, meaning in _DELIVERED.items()}
