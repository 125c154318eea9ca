"""Records → events. Nothing in a record is trusted: what does not fit is counted, never raised."""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Sequence

from pylsm.audit.events import Connect, Event, FileOpen
from pylsm.audit.records import CONNECT, FILE_OPEN, KIND_CONNECT, KIND_OPEN, SOURCE_LSM
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["Decoder"]

_OPEN: Final = struct.pack("=IH", SOURCE_LSM, KIND_OPEN)
_CONNECT: Final = struct.pack("=IH", SOURCE_LSM, KIND_CONNECT)
_OPEN_SIZE: Final = FILE_OPEN.size
_CONNECT_SIZE: Final = CONNECT.size

# An event is made by setting its slots: twice as fast as the frozen class's own constructor, which goes through
# object.__setattr__ by name.
_new = object.__new__
_set_record = FileOpen.record.__set__  # type: ignore[attr-defined,misc]
_set_clock = FileOpen.clock_ns.__set__  # type: ignore[attr-defined,misc]


class Decoder:
    """Decodes records and counts those it cannot.

    Attributes:
        foreign: records of other sources in a shared ring.
        malformed: records of ours of an unknown kind or too short.
        leaked: records with a byte behind the path's NUL that is not zero: memory that should not have left the kernel.
    """

    __slots__ = ("_clock", "foreign", "leaked", "malformed")

    def __init__(self) -> None:
        self.foreign = 0
        self.malformed = 0
        self.leaked = 0
        self.synchronise()

    def synchronise(self) -> None:
        """Take the distance between CLOCK_MONOTONIC and Unix time again; it changes when the clock is set."""
        self._clock = time.time_ns() - time.monotonic_ns()

    def decode(self, record: bytes | memoryview) -> Event | None:
        """One record → its event, or None when it is not ours or no record we know."""
        events = self.decode_batch(memoryview(record), ((0, len(record)),))
        return events[0] if events else None

    def decode_batch(self, data: memoryview, spans: Sequence[tuple[int, int]]) -> list[Event]:
        """Many records at once, as `pylsm.loader.RingBuffer.drain_spans` hands them out.

        Args:
            data: bytes that hold them.
            spans: (offset, length) of each.

        Returns:
            The events of those that are ours, in order; they keep copies of their bytes.
        """
        events: list[Event] = []
        add, clock = events.append, self._clock
        for start, length in spans:
            record = bytes(data[start : start + length])
            if record.startswith(_OPEN) and length > _OPEN_SIZE:
                if record.find(0, _OPEN_SIZE) != length - 1:
                    self._check_tail(record)
                event: Event = _new(FileOpen)
            elif record.startswith(_CONNECT) and length >= _CONNECT_SIZE:
                event = _new(Connect)
            else:
                self._reject(record)
                continue
            _set_record(event, record)
            _set_clock(event, clock)
            add(event)
        return events

    def _check_tail(self, record: bytes) -> None:
        """The path does not end with the record: what follows its NUL has to be zero."""
        if record[_OPEN_SIZE:].partition(b"\0")[2].strip(b"\0"):
            self.leaked += 1

    def _reject(self, record: bytes) -> None:
        # What is too short for a source cannot be told from one of ours.
        if len(record) >= 4 and int.from_bytes(record[:4], sys.byteorder) != SOURCE_LSM:
            self.foreign += 1
        else:
            self.malformed += 1
