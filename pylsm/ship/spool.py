"""The spool: events on disk between the ring buffer and the engines, bounded, in order, each with a number.

A directory of segments, files named by the number of their first record. One process appends; each sink has a reader
with a cursor of its own. A segment is removed when all cursors are behind it, or, if the operator wants the oldest
dropped, when there is no more room.

A record is a header (mark, flags and length, number, CRC-32 of all but the mark) and a line of JSON. The numbers go up
by one, for as long as the directory lives: whatever is missing between two records was lost, and a reader says how many
and why (`LOST`). The mark is no ASCII, and the lines are nothing else: no event can hold the beginning of a record.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from errno import EAGAIN, EDQUOT, EFBIG, ENOSPC
from struct import Struct
from zlib import crc32

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = [
    "LEAST_BYTES",
    "LOST",
    "POLICIES",
    "Cursor",
    "Item",
    "Position",
    "Reader",
    "SpoolError",
    "SpoolWriter",
    "remove_behind",
    "segments",
    "used_bytes",
]

#: What to do with events for which there is no room: remove the oldest, forget the newest, or stop reading the ring, so
#: that the kernel counts what finds no room there.
POLICIES: Final = ("drop-oldest", "drop-newest", "block")
#: The smallest bound of a spool, in bytes.
LEAST_BYTES: Final = 1 << 20
#: The kind of the event by which a reader says that records are missing.
LOST: Final = "spool_lost"

_MARK: Final = 0xF1E5C0DE
_HEADER = Struct("<IIQ")  # mark, flags << 24 | length, number
_CRC = Struct("<I")
_OVERHEAD = _HEADER.size + _CRC.size
_UNPACK = Struct("<IIQI").unpack_from
_MARK_BYTES = _MARK.to_bytes(4, "little")
_LENGTH_MASK = (1 << 24) - 1
#: Records before this one found no room.
_FLAG_DROPPED = 1 << 24
#: A line is at most this long; what claims more is no record.
LONGEST: Final = 1 << 20

_LARGEST_SEGMENT, _SMALLEST_SEGMENT = 8 << 20, 64 << 10
#: Read at a time; more than one record of any length.
_READ_BYTES = 2 << 20
_NAME_DIGITS = 20
#: How often a full spool is looked at for room, in seconds.
_LOOK_SECONDS = 0.05
_NO_ROOM = (ENOSPC, EDQUOT, EFBIG)


class SpoolError(PylsmError):
    """A spool that cannot be used."""


def segments(directory: str) -> list[int]:
    """The numbers of the first records of the segments, oldest first."""
    names = os.listdir(directory)
    return sorted(int(n[:-4]) for n in names if n.endswith(".seg") and n[:-4].isdigit() and len(n) == _NAME_DIGITS + 4)


def used_bytes(directory: str) -> int:
    """Bytes of all segments."""
    return sum(_size(segment_path(directory, first)) for first in segments(directory))


def segment_path(directory: str, first: int) -> str:
    """The segment whose first record has this number."""
    return os.path.join(directory, f"{first:0{_NAME_DIGITS}d}.seg")


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:  # removed meanwhile
        return 0


def lock(directory: str, name: str, what: str) -> int:
    """Take a lock that goes with this process.

    Args:
        directory: of the spool.
        name: of the lock.
        what: who holds it, for the message.

    Raises:
        SpoolError: another process has it.
    """
    fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno != EAGAIN:
            raise
        raise SpoolError(
            f"the spool {directory} is in use by another {what}", hint="end that one, or give --spool another directory"
        ) from None
    return fd


# ---- writing ---------------------------------------------------------------------------------------------------------


class SpoolWriter:
    """Appends to a spool. It goes on where the last writer ended, in a new segment.

    Args:
        directory: of the spool; it exists.
        limit: bytes that all segments together may have.
        policy: one of `POLICIES`.
        sync: wait after each batch until the disk has it; otherwise the readers, and `close`, see to that.

    Attributes:
        next: the number that the next record gets.
        dropped: events that found no room here so far ("drop-newest", or a full disk).
        synchronous: as ``sync``.

    Raises:
        SpoolError: another process writes to it.
    """

    def __init__(self, directory: str, limit: int, policy: str, *, sync: bool = False) -> None:
        self._directory = directory
        self._limit = max(limit, LEAST_BYTES)
        self._segment_bytes = min(max(self._limit // 8, _SMALLEST_SEGMENT), _LARGEST_SEGMENT)
        self._policy = policy
        self.synchronous = sync
        self._fd = -1
        self._written = 0  # to the segment that is open
        self._dropping = False  # since the last record
        self._looked = 0.0
        self.dropped = 0
        self._lock = lock(directory, "writer.lock", "pylsm that writes to it")
        try:
            self.next = _next_number(directory)
            self._used = used_bytes(directory)
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def used(self) -> int:
        """Bytes of all segments, as last looked at and written since."""
        return self._used

    def room(self) -> bool:
        """Whether events may be read ("block"): false while the spool is full."""
        if self._policy != "block" or self._used < self._limit:
            return True
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._used = used_bytes(self._directory)
        return self._used < self._limit

    def append(self, lines: Sequence[bytes]) -> int:
        """Append lines, each a record. What finds no room is dropped and counted, and its numbers are not used again.

        Args:
            lines: of ASCII, without newlines.

        Returns:
            How many of them were written.

        Raises:
            OSError: the disk fails; what was written before is there.
        """
        written = 0
        while written < len(lines):
            data, count = self._batch(lines, written)
            if not self._make_room(len(data)) or not self._put(data, count):
                self._drop(len(lines) - written)
                break
            written += count
        if self.synchronous and written:
            os.fdatasync(self._fd)
        return written

    def _batch(self, lines: Sequence[bytes], start: int) -> tuple[bytes, int]:
        """As many records as fit the segment that is open, or a new one; at least one."""
        if self._written >= self._segment_bytes:
            self._end_segment()
        left = self._segment_bytes - self._written
        parts: list[bytes] = []
        number = self.next
        flags = _FLAG_DROPPED if self._dropping else 0
        for index in range(start, len(lines)):
            line = lines[index]
            head = _HEADER.pack(_MARK, flags | len(line), number)
            parts += (head, _CRC.pack(crc32(line, crc32(head[4:]))), line)
            number += 1
            flags = 0
            left -= _OVERHEAD + len(line)
            if left <= 0:
                break
        return b"".join(parts), number - self.next

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes may be written now."""
        if self._used + size <= self._limit or self._policy == "block":
            return True  # who blocks has looked before; what the ring still held at the end may go over the limit
        now = time.monotonic()
        if self._policy == "drop-oldest" or now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._used = used_bytes(self._directory)
        if self._policy == "drop-oldest":
            while self._used + size > self._limit and self._remove_oldest():
                pass
        return self._used + size <= self._limit

    def _remove_oldest(self) -> bool:
        """Remove the oldest segment but the one that is open; whether there was one."""
        there = segments(self._directory)
        if not there or (self._fd >= 0 and there[0] == self._first):
            return False
        path = segment_path(self._directory, there[0])
        self._used -= _size(path)
        try:
            os.unlink(path)
        except FileNotFoundError:
            self._used = used_bytes(self._directory)
        return True

    def _put(self, data: bytes, count: int) -> bool:
        """Write records; False: the disk has no room, nothing of them is there."""
        while True:
            try:
                if self._fd < 0:
                    self._begin_segment()
                done = 0
                while done < len(data):
                    done += os.write(self._fd, data[done:] if done else data)
            except OSError as error:
                if self._fd >= 0:
                    os.ftruncate(self._fd, self._written)
                if error.errno not in _NO_ROOM:
                    raise
                if self._policy == "drop-oldest" and self._remove_oldest():
                    continue
                return False
            break
        self._written += len(data)
        self._used += len(data)
        self.next += count
        self._dropping = False
        return True

    def _drop(self, count: int) -> None:
        self.dropped += count
        self.next += count
        self._dropping = True

    def _begin_segment(self) -> None:
        # One of this name is empty, or its number would be taken.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._first = self.next
        self._fd = os.open(segment_path(self._directory, self._first), flags, 0o640)
        self._written = 0

    def _end_segment(self) -> None:
        fd, self._fd = self._fd, -1
        self._written = 0
        if fd >= 0:
            os.close(fd)

    def close(self) -> None:
        """End the segment, on the disk; what was dropped last is written down too."""
        if self._lock < 0:
            return
        if self._dropping:
            # An empty record: a header is room enough to say that the numbers before it are missing.
            head = _HEADER.pack(_MARK, _FLAG_DROPPED, self.next)
            self._put(head + _CRC.pack(crc32(head[4:])), 1)
        if self._fd >= 0:
            os.fdatasync(self._fd)
        self._end_segment()
        os.close(self._lock)
        self._lock = -1


def _next_number(directory: str) -> int:
    """Above every number that is in the spool or was acknowledged, and those that may have been."""
    number = 1
    for name in os.listdir(directory):
        if name.startswith("cursor-"):
            cursor = Cursor(os.path.join(directory, name), read_only=True)
            number = max(number, cursor.position.number)
            cursor.close()
    for first in segments(directory)[-1:]:
        with open(segment_path(directory, first), "rb") as file:
            data = file.read()
        found, torn = _walk(data)
        number = max(number, found[-1].number + 1 if found else first)
        # What is not whole had a number too: it is lost, and its number says so.
        while (torn := data.find(_MARK_BYTES, torn)) >= 0 and torn + _HEADER.size <= len(data):
            claimed = _HEADER.unpack_from(data, torn)[2]
            if number <= claimed < number + _LARGEST_SEGMENT // _OVERHEAD:
                number = claimed + 1
            torn += 1
        if data and not found:
            number = max(number, first + 1)  # another name
    return number


# ---- reading ---------------------------------------------------------------------------------------------------------


class Position(NamedTuple):
    """Where a reader is.

    Attributes:
        number: of the next record; 0: of the oldest that is there.
        segment: the number in the name of the segment where it is looked for first.
        offset: where in that.
    """

    number: int = 0
    segment: int = 0
    offset: int = 0


class Item(NamedTuple):
    """Something to deliver.

    Attributes:
        first: its number.
        last: the same; of a loss (`LOST`) the number of the last record that is missing.
        line: JSON.
        position: behind it.
        lost: of a loss, its reason.
    """

    first: int
    last: int
    line: bytes
    position: Position
    lost: str = ""


def loss(first: int, last: int, reason: str) -> bytes:
    """The line by which a reader says that records are missing.

    Args:
        first: the number of the first.
        last: the number of the last.
        reason: "dropped-oldest", "dropped-newest", "corrupt" or "rejected" (an engine does not take it).
    """
    return (
        f'{{"version":1,"event":"{LOST}","time_ns":{time.time_ns()},"reason":"{reason}","count":{last - first + 1}'
        f',"first":{first},"last":{last}}}'
    ).encode()


class _Record(NamedTuple):
    number: int
    flags: int
    line: bytes
    end: int  # the offset behind it


def _walk(data: bytes) -> tuple[list[_Record], int]:
    """The intact records, and where what comes after them begins. Damage between two of them is passed over."""
    found: list[_Record] = []
    offset, end = 0, len(data)
    while offset + _OVERHEAD <= end:
        record = _record(data, offset, end)
        if record is not None:
            found.append(record)
            offset = record.end
            continue
        following = data.find(_MARK_BYTES, offset + 1)
        while following >= 0 and _record(data, following, end) is None:
            following = data.find(_MARK_BYTES, following + 1)
        if following < 0:
            break
        offset = following
    return found, offset


def _record(data: bytes, offset: int, end: int) -> _Record | None:
    if offset + _OVERHEAD > end:
        return None
    mark, flags, number, crc = _UNPACK(data, offset)
    start = offset + _OVERHEAD
    stop = start + (flags & _LENGTH_MASK)
    if mark != _MARK or stop > end or stop - start > LONGEST:
        return None
    line = data[start:stop]
    if crc32(line, crc32(data[offset + 4 : offset + _HEADER.size])) != crc:
        return None
    return _Record(number, flags & ~_LENGTH_MASK, line, stop)


class Reader:
    """Reads a spool from a position on, in order; what is missing comes as an event of its own (`LOST`).

    Args:
        directory: of the spool.
        position: where to begin.

    Attributes:
        lost: how many records were missing so far, by reason.
    """

    def __init__(self, directory: str, position: Position = Position()) -> None:  # noqa: B008 (immutable)
        self._directory = directory
        self._wanted = position
        self._number = position.number
        self._fd = -1
        self._first = 0  # of the segment that is open
        self._offset = 0  # in it, of what was not looked at yet
        self._ahead: list[_Record] = []  # looked at and not taken yet, the last first
        self._ahead_from = 0  # what their offsets count from
        self._removed = False  # what is missing before the next record went with a segment that was removed
        self.lost: dict[str, int] = {}

    def read(self, most: int, most_bytes: int = 1 << 20) -> list[Item]:
        """Records that are there, in order; none: nothing yet.

        Args:
            most: about so many at most.
            most_bytes: about so many bytes at most.
        """
        items: list[Item] = []
        size = 0
        while len(items) < most and size < most_bytes:
            if not self._ahead and not self._look():
                break
            number, flags, line, end = self._ahead.pop()
            if number < self._number:
                continue  # of before the position
            position = Position(number + 1, self._first, self._ahead_from + end)
            if number > self._number > 0:
                reason = "dropped-newest" if flags & _FLAG_DROPPED else "dropped-oldest" if self._removed else "corrupt"
                self.lost[reason] = self.lost.get(reason, 0) + number - self._number
                line_of_loss = loss(self._number, number - 1, reason)
                before = Position(number, self._first, position.offset - _OVERHEAD - len(line))
                items.append(Item(self._number, number - 1, line_of_loss, before, reason))
            self._removed = False
            self._number = number + 1
            if line:
                items.append(Item(number, number, line, position))
            size += len(line)
        return items

    def _look(self) -> bool:
        """Look at further records; whether there are any."""
        while self._fd >= 0 or self._open():
            # Asked before reading: what is in a segment that has a successor is all of it.
            sealed = self._successor() is not None
            data = os.pread(self._fd, _READ_BYTES, self._offset)
            last = len(data) < _READ_BYTES
            found, following = _walk(data)
            self._ahead, self._ahead_from = found[::-1], self._offset
            self._offset += following
            if found:
                return True
            if sealed and last:
                self._removed = following == len(data)  # nothing is torn: what is missing was in others
                self._leave()
            elif last:
                return False
            else:
                self._offset += len(data) - LONGEST  # nothing but damage
        return False

    def _open(self) -> bool:
        """Open the segment where the next record is looked for; whether there is one."""
        there = segments(self._directory)
        wanted, self._wanted = self._wanted, Position()
        if self._first:
            first, offset = self._successor() or 0, 0
        elif wanted.segment in there:
            first, offset = wanted.segment, wanted.offset
        else:
            # The one that has the number, else the oldest.
            first = max((n for n in there if n <= self._number), default=there[0] if there else 0)
            offset = 0
            self._removed = first > self._number
        if not first:
            self._wanted = wanted
            return False
        try:
            self._fd = os.open(segment_path(self._directory, first), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:  # removed meanwhile: there is a later one
            self._wanted = wanted
            return False
        self._first, self._offset = first, offset if offset <= os.fstat(self._fd).st_size else 0
        return True

    def _successor(self) -> int | None:
        """The next segment."""
        return min((first for first in segments(self._directory) if first > self._first), default=None)

    def sync(self) -> None:
        """Wait until the disk has what was read: a number that was delivered must never be given to another event."""
        if self._fd >= 0:
            os.fdatasync(self._fd)

    def _leave(self) -> None:
        fd, self._fd = self._fd, -1
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close the segment."""
        if self._fd >= 0:
            self._leave()


def remove_behind(directory: str, number: int) -> None:
    """Remove the segments that have only records before this one; the newest stays."""
    there = segments(directory)
    for first, following in zip(there, there[1:]):
        if following > number:
            break
        with suppress(FileNotFoundError):
            os.unlink(segment_path(directory, first))


# ---- cursors ---------------------------------------------------------------------------------------------------------


class Cursor:
    """How far a sink has got, in a file that needs no room on a full disk: two places, written in turn.

    Args:
        path: of the file, made where there is none.
        read_only: it is only looked at.

    Attributes:
        position: behind the last record that was acknowledged.
    """

    _PLACE = Struct("<QQQQI")  # generation, number, segment, offset, CRC-32 of these
    _APART = 512  # a sector: what is torn is one place only

    def __init__(self, path: str, *, read_only: bool = False) -> None:
        self.position = Position()
        self._generation = 0
        flags = os.O_RDONLY if read_only else os.O_RDWR | os.O_CREAT
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        data = os.pread(self._fd, 2 * self._APART, 0)
        for offset in (0, self._APART):
            if len(data) >= offset + self._PLACE.size:
                place = data[offset : offset + self._PLACE.size]
                generation, number, segment, at, crc = self._PLACE.unpack(place)
                if crc == crc32(place[:-4]) and generation > self._generation:
                    self._generation, self.position = generation, Position(number, segment, at)
        if not data and not read_only:
            os.pwrite(self._fd, bytes(2 * self._APART), 0)

    def move(self, position: Position) -> None:
        """Keep a position, on the disk when this returns.

        Raises:
            OSError: it could not be kept; the position before is.
        """
        self._generation += 1
        place = self._PLACE.pack(self._generation, *position, 0)[:-4]
        place += crc32(place).to_bytes(4, "little")
        os.pwrite(self._fd, place, self._generation % 2 * self._APART)
        os.fdatasync(self._fd)
        self.position = position

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
