"""Recordings, a line at a time: what is no line of ours is counted and said, never raised."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import IO, Any, Final

from pylsm.audit.events import KINDS
from pylsm.errors import PylsmError
from pylsm.output.jsonl import VERSION, to_dict

__all__ = ["Recording", "RecordingError"]

#: The longest line; a path has 4,096 bytes at most, each of them six characters in JSON.
_LONGEST: Final = 1 << 20
#: What a reader relies on in any line.
_TYPES: Final[dict[str, type[Any]]] = {
    name: type(value)
    for kind in KINDS
    for name, value in to_dict(kind.make(**({kind.layout.tail_name: b""} if kind.layout.tail_name else {}))).items()
    if value is not None
}
_TYPES.update(
    dict.fromkeys(("ppid", "child_pid", "target_pid", "status", "signal", "sport", "duration_ns", "uid"), int),
    **dict.fromkeys(("src_ip", "exe", "user", "container", "scope", "new_path", "protocol", "source", "name"), str),
    argv=list,
)
_WORDS: Final = {int: "a whole number", str: "a string", bool: "true or false", list: "a list"}


class RecordingError(PylsmError):
    """A recording that cannot be read at all."""


class Recording:
    """The events of a file, in its order.

    Args:
        path: of the file; "-" for standard input.

    Attributes:
        path: the same.
        lines: read so far.
        events: of them.
        skipped: why lines were skipped → (how many, the first of them).
        lost: events that the kernel had no room for, as heartbeats say.
        disordered: events more than a second older than one before them.
        raw: the line that the latest event came from.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lines = self.events = self.disordered = 0
        self.skipped: dict[str, tuple[int, int]] = {}
        self.raw = b""
        self._lost: dict[str, int] = {}
        self._latest = 0

    @property
    def lost(self) -> int:
        """Events that the kernel had no room for, and children that it did not trace."""
        return sum(self._lost.values())

    def raw_lines(self) -> Iterator[bytes]:
        """All lines, counted, each at most as long as one can be.

        Raises:
            RecordingError: the file cannot be read.
        """
        try:
            file: IO[bytes]
            with sys.stdin.buffer if self.path == "-" else open(self.path, "rb") as file:
                while True:
                    line = file.readline(_LONGEST)
                    if not line:
                        return
                    if len(line) == _LONGEST and not line.endswith(b"\n"):
                        while True:
                            rest = file.readline(_LONGEST)
                            if not rest or rest.endswith(b"\n"):
                                break
                    self.lines += 1
                    yield line
        except OSError as error:
            raise RecordingError(
                f"cannot read {self.path}: {error.strerror}",
                hint="name a recording: pylsm run --format json -o events.jsonl -- CMD",
            ) from None

    def parse(self, line: bytes) -> dict[str, Any] | None:
        """The event or heartbeat of a line; None for one that is skipped, which is counted."""
        found, why = _event(line)
        if found is None:
            if why:
                count, first = self.skipped.get(why, (0, self.lines))
                if count or len(self.skipped) < 20:
                    self.skipped[why] = (count + 1, first)
                else:
                    count, first = self.skipped.get("other reasons", (0, self.lines))
                    self.skipped["other reasons"] = (count + 1, first)
            return None
        if found["event"] == "heartbeat":
            session, counts = found.get("session"), [found.get(name) for name in ("lost", "family_full", "skipped")]
            if isinstance(session, str) and (session in self._lost or len(self._lost) < 1000):
                self._lost[session] = sum(count for count in counts if type(count) is int and count > 0)
            return found
        self.events += 1
        if found["time_ns"] < self._latest - 1_000_000_000:
            self.disordered += 1
        self._latest = max(self._latest, found["time_ns"])
        self.raw = line
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The events, without heartbeats.

        Raises:
            RecordingError: the file cannot be read.
        """
        for line in self.raw_lines():
            found = self.parse(line)
            if found is not None and found["event"] != "heartbeat":
                yield found

    def remarks(self) -> list[str]:
        """What is to be said of the recording: what was skipped and why, what was lost, what is out of order."""
        total = sum(count for count, _ in self.skipped.values())
        said = []
        if total:
            said.append(f"{self.path}: {total} of {self.lines} lines skipped")
            said += [
                f"  {count}: {why} (the first in line {first})"
                for why, (count, first) in sorted(self.skipped.items(), key=lambda item: -item[1][0])
            ]
        if self.disordered:
            said.append(f"{self.path}: {self.disordered} events are older than one before them: lines are out of order")
        if self.lost:
            said.append(f"{self.path}: {self.lost} events or children were lost when it was recorded")
        return said


def _event(line: bytes) -> tuple[dict[str, Any] | None, str]:
    """The event of a line, or why it is none; no reason for an empty line."""
    if not line.strip():
        return None, ""
    if len(line) >= _LONGEST:
        return None, "longer than any event"
    whole = line.endswith(b"\n")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not JSON" if whole else "cut off: the file ends in the middle of a line"
    if b"\\ud" in line or b"\\uD" in line:
        found = _sound(found)
    if not isinstance(found, dict):
        return None, "JSON, but no object"
    if "class_uid" in found or "@timestamp" in found:
        return None, f"{'OCSF' if 'class_uid' in found else 'ECS'}, not what --format json writes"
    if not isinstance(found.get("event"), str) or "time_ns" not in found:
        return None, 'an object of something else: no "event" with a "time_ns"'
    version = found.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        return None, f"of version {_short(version)}: this pylsm knows {VERSION}"
    if found["event"] == "heartbeat":
        return found, ""
    for name, value in found.items():
        wanted = _TYPES.get(name)
        if wanted is None or value is None:
            continue
        if type(value) is not wanted:
            return None, f"field {name!r} is {_short(value)}, not {_WORDS[wanted]}"
        if type(value) is int and not -(1 << 63) <= value < 1 << 64:
            return None, f"field {name!r} is {_short(value)}, which is no such number"
        if type(value) is list and not all(isinstance(item, str) for item in value):
            return None, f"field {name!r} is {_short(value)}, not a list of strings"
    if type(found["time_ns"]) is not int:
        return None, "field 'time_ns' is null"
    # A field of null says no more than one that is not there.
    if None in found.values():
        found = {name: value for name, value in found.items() if value is not None}
    return found, ""


def _sound(value: Any) -> Any:
    """JSON can have halves of characters, which no output can: they become U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_sound(item) for item in value]
    if isinstance(value, dict):
        return {_sound(name): _sound(item) for name, item in value.items()}
    return value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
