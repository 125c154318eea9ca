"""What of an event's line every sink needs: its kind, its time, its fields."""

from __future__ import annotations

import json
import re
import time
from typing import Any

__all__ = ["fields_of", "kind_of", "utc"]

_KIND = re.compile(rb'"event":"([a-z_]{1,32})"')
_TIME = re.compile(rb'"time_ns":([0-9]{1,19})')


def kind_of(line: bytes) -> tuple[str, int]:
    """(kind, Unix time in nanoseconds) of a line; ("event", now) if they are not in it.

    No value can look like a field: in a value quotation marks are escaped.
    """
    kind, when = _KIND.search(line), _TIME.search(line)
    return kind[1].decode() if kind else "event", int(when[1]) if when else time.time_ns()


def fields_of(line: bytes) -> dict[str, Any]:
    """All fields of a line; {"line": …} of one that is no JSON object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"line": line.decode("ascii", "replace")}


def utc(time_ns: int) -> str:
    """A time as RFC 3339 has it, in UTC, with microseconds."""
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest // 1000:06d}Z"
