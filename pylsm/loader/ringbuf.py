"""Reading a BPF ring buffer through its memory maps.

Layout (kernel/bpf/ringbuf.c): page 0 holds the consumer position (ours to write), page 1 the producer position, then
the data, mapped twice in a row so that no record is ever split. A position counts bytes since the ring was made. A
record is a header of 8 bytes (u32 length with two flag bits, u32 page offset), then its data; the next one starts at
a multiple of 8.

Nothing the ring says is trusted: `walk` looks at every header before anything is handed out, and refuses one whose
length does not fit between the two positions.
"""

from __future__ import annotations

import os
from mmap import MAP_SHARED, PAGESIZE, PROT_READ, PROT_WRITE, mmap

from pylsm.light import TYPE_CHECKING
from pylsm.loader.errors import MapMismatchError, RingCorrupt
from pylsm.loader.maps import Map
from pylsm.maptype import MapType

if TYPE_CHECKING:
    import select
    from collections.abc import Callable

__all__ = ["RingBuffer", "walk"]

#: Flag bits of a header's length (BPF_RINGBUF_BUSY_BIT, BPF_RINGBUF_DISCARD_BIT).
BUSY = 1 << 31
DISCARD = 1 << 30

#: At most this many bytes are handed out before their room is given back to the kernel.
_BATCH = 256 * 1024


def walk(
    words: memoryview[int], consumer: int, producer: int, size: int, budget: int = 1 << 62
) -> tuple[list[tuple[int, int]], int]:
    """Find the finished records between two positions.

    Args:
        words: the ring's data as 32-bit words of this machine, at least ``size`` bytes.
        consumer, producer: positions in bytes; those of the ring, not yet wrapped.
        size: bytes of data in the ring, a power of two.
        budget: stop at the first record that begins this many bytes or more after ``consumer``.

    Returns:
        (offset, length) of each record's data in bytes, counted in the doubly mapped data and so without a wrap, and
        the position up to which the ring was walked: discarded records are passed over, a record that is still being
        written ends the walk.

    Raises:
        RingCorrupt: the positions contradict each other, or the first header's length goes beyond the producer's
            position. A bad header further on ends the walk before it, so that what is sound is not lost with it.
    """
    if (consumer | producer) & 7 or not 0 <= producer - consumer <= size:
        raise RingCorrupt(
            f"positions of a ring of {size} bytes contradict each other", consumer=consumer, producer=producer
        )
    spans: list[tuple[int, int]] = []
    found = spans.append
    mask = size - 1
    position = consumer
    stop = min(producer, consumer + budget)
    while position < stop:
        at = position & mask
        length = words[at >> 2]
        if length >= DISCARD:
            if length >= BUSY:
                break
            length -= DISCARD
            following = position + (length + 15 & -8)
            if following > producer:
                break
        else:
            following = position + (length + 15 & -8)
            if following > producer:
                break
            found((at + 8, length))
        position = following
    else:
        return spans, position
    if position == consumer and length < BUSY:
        raise RingCorrupt(
            f"a record of {length} bytes does not fit the ring of {size} bytes", consumer=consumer, producer=producer
        )
    return spans, position


class RingBuffer:
    """The consumer's side of a ring buffer map. One consumer per ring.

    Args:
        map: of type RINGBUF; it stays open as long as this object is used and is not closed with it.

    Raises:
        MapMismatchError: another type of map.
        OSError: mmap(2) failed.
    """

    __slots__ = ("_consumer", "_data", "_map", "_maps", "_poll", "_producer", "_views", "_words", "label", "size")

    def __init__(self, map: Map) -> None:
        if map.type != MapType.RINGBUF:
            raise MapMismatchError(f"{map.label} is no ring buffer")
        self.label = map.label
        self.size = map.max_entries
        self._map = map
        self._poll: select.poll | None = None
        fd = map.fileno()
        writable = mmap(fd, PAGESIZE, flags=MAP_SHARED, prot=PROT_READ | PROT_WRITE, offset=0)
        try:
            readable = mmap(fd, PAGESIZE + 2 * self.size, flags=MAP_SHARED, prot=PROT_READ, offset=PAGESIZE)
        except BaseException:
            writable.close()
            raise
        self._maps: tuple[mmap, ...] = (writable, readable)
        first, second = memoryview(writable), memoryview(readable)
        self._data = second[PAGESIZE:]
        # An aligned item of a native format is read and written in one move, never byte by byte.
        self._consumer = first[:8].cast("Q")
        self._producer = second[:8].cast("Q")
        self._words = self._data[: self.size].cast("I")
        self._views: tuple[memoryview, ...] = (self._words, self._producer, self._consumer, self._data, second, first)

    @property
    def data(self) -> memoryview:
        """The data, mapped twice in a row: what the offsets of `drain_spans` count in. Read-only."""
        return self._data

    @property
    def consumed(self) -> int:
        """Bytes of records (headers included) that were handed out since the ring was made."""
        return self._consumer[0]

    @property
    def pending(self) -> int:
        """Bytes between the two positions: records (headers included) that are finished or being written."""
        return self._producer[0] - self._consumer[0]

    def fileno(self) -> int:
        """The map's descriptor, readable for poll(2) and epoll(7) while `pending` is not 0.

        The kernel wakes a sleeper only for a record that comes when all before it are consumed: with epoll, call
        `drain` until it returns 0 before sleeping again.
        """
        return self._map.fileno()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until there is something to drain.

        Args:
            timeout: seconds; None for ever.

        Returns:
            Whether there is something; a record still being written counts.
        """
        if self._producer[0] != self._consumer[0]:
            return True
        if self._poll is None:
            # poll(2), not epoll: it looks at the ring again on each call, so that no record that came between the
            # last look and the publishing of our position can be slept through.
            import select

            self._poll = select.poll()
            self._poll.register(self.fileno(), select.POLLIN)
        self._poll.poll(None if timeout is None else max(0, timeout) * 1000)
        return self._producer[0] != self._consumer[0]

    def drain(self, consumer: Callable[[memoryview], object], limit: int = 0) -> int:
        """Hand every finished record to ``consumer``, oldest first.

        The room is given back to the kernel a batch at a time. If the consumer raises, the records it was given count
        as consumed, the one it raised for included; the others come again.

        Args:
            consumer: called with the record's bytes: a view of the ring, gone when the call returns. ``bytes(view)``
                keeps a copy.
            limit: at most this many records; 0 for all that were begun when the call began.

        Returns:
            How many records were handed out.

        Raises:
            RingCorrupt: see `walk`.
        """
        data, mask, count = self._data, self.size - 1, 0
        end = self._producer[0]
        while True:
            position = self._consumer[0]
            spans, following = self._batch(position, end)
            if limit and len(spans) > limit - count:
                del spans[limit - count :]
                following = _after(spans[-1], position, mask)
            current = None
            try:
                for current in spans:
                    start, length = current
                    consumer(data[start : start + length])
            except BaseException:
                following = position if current is None else _after(current, position, mask)
                raise
            finally:
                if following != position:
                    self._consumer[0] = following
            count += len(spans)
            if following == position or following >= end or (limit and count >= limit):
                return count

    def drain_spans(self, consumer: Callable[[memoryview, list[tuple[int, int]]], object]) -> int:
        """Hand out finished records a batch at a time: the fastest way, one call for some thousand records.

        If the consumer raises, the batch counts as consumed.

        Args:
            consumer: called with `data` and the (offset, length) of each record in it, oldest first; the bytes are
                gone when the call returns.

        Returns:
            How many records were handed out.

        Raises:
            RingCorrupt: see `walk`.
        """
        count = 0
        end = self._producer[0]
        while True:
            position = self._consumer[0]
            spans, following = self._batch(position, end)
            if spans:
                count += len(spans)
                try:
                    consumer(self._data, spans)
                finally:
                    self._consumer[0] = following
            elif following != position:
                self._consumer[0] = following
            if following == position or following >= end:
                return count

    def read(self, limit: int = 0) -> list[bytes]:
        """Copies of the finished records, oldest first; at most ``limit`` (0: all)."""
        records: list[bytes] = []
        self.drain(lambda view: records.append(bytes(view)), limit)
        return records

    def _batch(self, position: int, end: int) -> tuple[list[tuple[int, int]], int]:
        batch = walk(self._words, position, end, self.size, min(_BATCH, self.size // 4))
        if _fence is not None:
            _fence()
        return batch

    def close(self) -> None:
        """Unmap; the map itself stays open. Views that a consumer kept keep the memory mapped until they are gone."""
        views, self._views = self._views, ()
        for view in views:
            view.release()
        maps, self._maps = self._maps, ()
        for mapping in maps:
            try:  # noqa: SIM105 (contextlib is not worth its import here)
                mapping.close()
            except BufferError:
                pass  # unmapped with the last view

    def __enter__(self) -> RingBuffer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<RingBuffer {self.label}, {self.size} bytes>"


def _after(span: tuple[int, int], position: int, mask: int) -> int:
    """The position behind a record of a batch that began at ``position``."""
    start, length = span
    return position + ((start - 8 - position) & mask) + (length + 15 & -8)


def _lock_fence() -> Callable[[], None] | None:
    """A full memory barrier, where the processor needs one between reading a header and reading its data.

    x86 keeps loads in order. Elsewhere the kernel's store-release of the header has to be met by an acquire here;
    Python has none by name, but releasing and taking a lock is one (release, then acquire).
    """
    if os.uname().machine in ("x86_64", "i686", "i586", "i386"):
        return None
    from _thread import allocate_lock

    lock = allocate_lock()
    lock.acquire()

    def fence() -> None:
        lock.release()
        lock.acquire()

    return fence


_fence = _lock_fence()
