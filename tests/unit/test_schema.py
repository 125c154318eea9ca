"""The JSON Schema of our own lines: they hold it, and it is one that can be broken."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from pylsm.audit.events import KINDS, Event
from pylsm.audit.session import Counts
from pylsm.output import heartbeat, jsonl
from pylsm.output.schema import schema

STRICT = Draft202012Validator(schema(strict=True))
OPEN = Draft202012Validator(schema())
BEAT = heartbeat.render("ab", 0, 0, Counts._make([3] * len(Counts._fields)), final=False, next_numbers=[1, 2])


def blank(kind: type[Event], **fields: Any) -> Event:
    """An event of this kind, its names no UTF-8."""
    tail = {kind.layout.tail_name: b"/\xff"} if kind.layout.tail_name else {}
    return kind.make(**{"comm": b"\xfe", **tail, **fields})


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator.check_schema(schema(strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_line_holds_it(kind: type[Event]) -> None:
    line = json.loads(jsonl.render(blank(kind)))
    STRICT.validate(line)
    assert line["comm_hex"] == "fe"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_field_of_it_counts(kind: type[Event]) -> None:
    line = json.loads(jsonl.render(blank(kind)))
    for name, value in line.items():
        if value is not None:
            with pytest.raises(ValidationError):
                OPEN.validate({**line, name: {"of another": "type"}})
        if value is not None and not name.endswith("_hex"):
            with pytest.raises(ValidationError):
                OPEN.validate({key: value for key, value in line.items() if key != name})


def test_heartbeats_hold_it_and_have_the_version_first() -> None:
    STRICT.validate(json.loads(BEAT))
    assert next(iter(json.loads(BEAT))) == next(iter(json.loads(jsonl.render(blank(KINDS[0]))))) == "version"
    with pytest.raises(ValidationError):
        OPEN.validate({**json.loads(BEAT), "events": "0"})


def test_later_fields_and_kinds_are_refused_only_when_that_is_asked_for() -> None:
    line = json.loads(jsonl.render(blank(KINDS[0])))
    for later in ({**line, "colour": "red"}, {"version": 1, "event": "sneeze", "time_ns": 1}):
        OPEN.validate(later)
        with pytest.raises(ValidationError):
            STRICT.validate(later)
    with pytest.raises(ValidationError):
        OPEN.validate({**line, "version": 2})


def test_the_command_prints_it() -> None:
    result = subprocess.run([sys.executable, "-m", "pylsm", "schema"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == schema()
