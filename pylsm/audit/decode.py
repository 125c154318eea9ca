"""Records → events. Nothing in a record is trusted: what does not fit is counted, never raised."""

from __future__ import annotations

import sys
import time
from typing import Final

from pylsm.audit.events import Connect, Event, FileOpen, destination
from pylsm.audit.records import (
    CONNECT,
    FILE_OPEN,
    FLAG_BASENAME,
    FLAG_TRUNCATED,
    KIND_CONNECT,
    KIND_OPEN,
    SOURCE_LSM,
)

__all__ = ["Decoder"]

_ORDER: Final = sys.byteorder
_PORT: Final = CONNECT.field("port")[0]
_MINOR_BITS = 20  # the kernel's own dev_t: major << 20 | minor (include/linux/kdev_t.h)


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

    def decode(self, record: memoryview) -> Event | None:
        """One record → its event, or None when it is not ours or no record we know."""
        length = len(record)
        if length < 8:
            # Too short for our header, or even for a source: whose it was cannot be told.
            if length >= 4 and int.from_bytes(record[:4], _ORDER) != SOURCE_LSM:
                self.foreign += 1
            else:
                self.malformed += 1
            return None
        if int.from_bytes(record[:4], _ORDER) != SOURCE_LSM:
            self.foreign += 1
            return None
        kind = int.from_bytes(record[4:6], _ORDER)
        if kind == KIND_OPEN and length > FILE_OPEN.size:
            return self._open(record)
        if kind == KIND_CONNECT and length >= CONNECT.size:
            return self._connect(record)
        self.malformed += 1
        return None

    def _open(self, record: memoryview) -> FileOpen:
        (
            _source,
            _kind,
            flags,
            pid_tgid,
            uid_gid,
            monotonic,
            comm,
            inode,
            device,
            open_flags,
            granted,
            _reserved,
        ) = FILE_OPEN.unpacker.unpack_from(record)
        path, _, rest = bytes(record[FILE_OPEN.size :]).partition(b"\0")
        if rest.strip(b"\0"):
            self.leaked += 1
        return FileOpen(
            pid_tgid >> 32,
            pid_tgid & 0xFFFFFFFF,
            uid_gid & 0xFFFFFFFF,
            uid_gid >> 32,
            comm.partition(b"\0")[0],
            monotonic + self._clock,
            path,
            open_flags,
            granted,
            (device >> _MINOR_BITS, device & (1 << _MINOR_BITS) - 1),
            inode,
            bool(flags & FLAG_BASENAME),
            bool(flags & FLAG_TRUNCATED),
        )

    def _connect(self, record: memoryview) -> Connect | None:
        (
            _source,
            _kind,
            _flags,
            pid_tgid,
            uid_gid,
            monotonic,
            comm,
            family,
            _port,
            _reserved,
            raw,
        ) = CONNECT.unpacker.unpack_from(record)
        address, mapped = destination(raw, family)
        return Connect(
            pid_tgid >> 32,
            pid_tgid & 0xFFFFFFFF,
            uid_gid & 0xFFFFFFFF,
            uid_gid >> 32,
            comm.partition(b"\0")[0],
            monotonic + self._clock,
            family,
            address,
            int.from_bytes(record[_PORT : _PORT + 2], "big"),
            mapped,
        )
