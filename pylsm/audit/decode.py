"""Records → events. Nothing in a record is trusted: what does not fit is counted, never raised."""

from __future__ import annotations

import struct
import sys
import time

from pylsm.audit.events import KINDS, Event, FileOpen
from pylsm.audit.records import SOURCE_LSM
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["Decoder"]

#: A record's first bytes → its class and the fewest bytes it can have: the fixed part, and a NUL of the variable one.
_BY_KIND: Final = {
    struct.pack("=IH", SOURCE_LSM, row.kind): (row, row.layout.size + bool(row.layout.tail_name)) for row in KINDS
}
_KIND_SIZE: Final = 6
_OPEN: Final = struct.pack("=IH", SOURCE_LSM, FileOpen.kind)
_OPEN_SIZE: Final = FileOpen.layout.size

# An event is made by setting its slots: twice as fast as its constructor, which has to go past its own __setattr__.
_new = object.__new__
_set_record = Event.record.__set__  # type: ignore[attr-defined,misc]
_set_clock = Event.clock_ns.__set__  # type: ignore[attr-defined,misc]


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
        """Take the distance between CLOCK_BOOTTIME and Unix time again; it changes when the clock is set."""
        self._clock = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

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
            # Opens are most of what comes, and the look into the table is a tenth of the time of an event.
            if record.startswith(_OPEN) and length > _OPEN_SIZE:
                if record.find(0, _OPEN_SIZE) != length - 1:
                    self._check_tail(record)
                event: Event = _new(FileOpen)
            else:
                found = _BY_KIND.get(record[:_KIND_SIZE])
                if found is None or length < found[1]:
                    self._reject(record)
                    continue
                event = _new(found[0])
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
