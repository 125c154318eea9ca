"""From the spool to the sinks: a thread for each, with a reader and a cursor of its own."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from pylsm.ship.identity import Identity
from pylsm.ship.sinks import DeliveryError, Rejected, Sink
from pylsm.ship.sinks.fields import kind_of
from pylsm.ship.spool import Cursor, Item, Position, Reader, loss, remove_behind, segment_path, segments, used_bytes

__all__ = ["Delivery", "Shipper", "Standing"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
#: How long an idle thread sleeps if nobody wakes it, in seconds.
_IDLE_SECONDS = 1.0
#: How often segments are removed and put on the disk, in seconds.
_HOUSEKEEPING_SECONDS = 0.25
_SYNC_SECONDS = 1.0


class Standing(NamedTuple):
    """How a sink stands.

    Attributes:
        name: of the sink.
        state: "starting", "ok", or that of the `DeliveryError` it is stopped by.
        next: the number of the first event that is not acknowledged.
        delivered: events acknowledged since this process began.
        rejected: of those, thrown away by the engine, by its own word.
        lost: events that were missing in the spool, by reason.
        retries: batches sent again.
        newest_ns: time of the last event that was acknowledged; 0: none yet.
    """

    name: str
    state: str
    next: int
    delivered: int
    rejected: int
    lost: dict[str, int]
    retries: int
    newest_ns: int


class Delivery(threading.Thread):
    """Delivers a spool to one sink, in order, until stopped. Nothing ends it: what fails is tried again.

    Args:
        directory: of the spool.
        identity: whose events they are.
        sink: not connected yet.
        say: told of what an operator should know, a line each.
    """

    def __init__(self, directory: str, identity: Identity, sink: Sink, say: Callable[[str], None]) -> None:
        super().__init__(name=f"sink-{sink.name}"[:60], daemon=True)
        self._directory = directory
        self._identity = identity
        self._sink = sink
        self._say = say
        self._cursor = Cursor(os.path.join(directory, f"cursor-{sink.name}"))
        self._wake = threading.Event()
        self._stop_asked = False
        self._reader = Reader(directory, self._cursor.position)
        self._connected = False
        self._unsettled: deque[tuple[float, Item, int]] = deque()
        self._singly = 0  # so many events are sent one at a time: one of them is not taken
        self._pause = _FIRST_PAUSE
        self._told = ("", 0.0)
        self._state = "starting"
        self._idle = False
        self._delivered = self._rejected = self._retries = self._newest_ns = 0
        self._lost: dict[str, int] = {}
        self._counted_to = self._cursor.position.number  # losses before it are in _lost
        self._cursor_failed = False

    # ---- from other threads ------------------------------------------------------------------------------------------

    @property
    def standing(self) -> Standing:
        """How it stands now."""
        return Standing(
            self._sink.name,
            self._state,
            self._cursor.position.number,
            self._delivered,
            self._rejected,
            dict(self._lost),
            self._retries,
            self._newest_ns,
        )

    @property
    def idle(self) -> bool:
        """All that it found when it last looked is acknowledged."""
        return self._idle and not self._unsettled

    def wake(self) -> None:
        """There is something to read."""
        self._wake.set()

    def stop(self) -> None:
        """End after what is being sent now."""
        self._stop_asked = True
        self._wake.set()

    # ---- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Deliver until stopped."""
        while not self._stop_asked:
            try:
                self._step()
            except DeliveryError as error:
                self._failed(error)
            except Exception as error:  # whatever a library thinks of: it is tried again, and said
                self._failed(DeliveryError(f"{self._sink.address}: {type(error).__name__}: {error}"))
        with suppress(Exception):
            self._sink.close()
        self._reader.close()

    def _step(self) -> None:
        if not self._connected:
            self._sink.connect(self._identity)
            self._connected = True
        self._settle()
        self._wake.clear()
        batch = self._reader.read(1 if self._singly else self._sink.batch)
        self._idle = not batch
        if not batch:
            self._pause = _FIRST_PAUSE
            self._good()
            self._wake.wait(0.05 if self._unsettled else _IDLE_SECONDS)
            return
        self._reader.sync()
        rejected = self._sink.send(batch)
        if rejected:
            self._rejected += rejected
            self._say(f"warning: {self._sink.address}: it has thrown away {rejected} events of {len(batch)}")
        if self._sink.settle:
            self._unsettled.append((time.monotonic() + self._sink.settle, batch[-1], len(batch)))
        else:
            self._acknowledged(batch[-1], len(batch))
        self._count_losses(batch)
        self._singly = max(0, self._singly - len(batch))
        self._pause = _FIRST_PAUSE
        self._good()

    def _settle(self) -> None:
        """Acknowledge what the connection has outlived."""
        if not self._unsettled:
            return
        if not self._sink.alive():
            raise DeliveryError(f"{self._sink.address}: the connection broke", hint="what was sent last is sent again")
        while self._unsettled and self._unsettled[0][0] <= time.monotonic():
            _, item, count = self._unsettled.popleft()
            self._acknowledged(item, count)

    def _acknowledged(self, item: Item, count: int) -> None:
        try:
            self._cursor.move(item.position)
            self._cursor_failed = False
        except OSError as error:
            # Delivered it is; after a restart it comes a second time, which its id tells.
            self._cursor.position = item.position
            if not self._cursor_failed:
                self._say(f"warning: the cursor of {self._sink.name} cannot be kept: {error.strerror}")
            self._cursor_failed = True
        self._delivered += count
        self._newest_ns = kind_of(item.line)[1]

    def _count_losses(self, batch: Sequence[Item]) -> None:
        """Count what is missing in the spool, once, however often it is read."""
        for item in batch:
            if item.lost and item.first >= self._counted_to:
                count = item.last - item.first + 1
                self._lost[item.lost] = self._lost.get(item.lost, 0) + count
                self._say(
                    f"warning: {count} events were lost before they reached {self._sink.name} ({item.lost}); "
                    "it was told so"
                )
        self._counted_to = max(self._counted_to, batch[-1].last + 1)

    def _failed(self, error: DeliveryError) -> None:
        """Keep what was taken, and go on from there after a while."""
        self._idle = False
        self._retries += 1
        with suppress(Exception):
            self._sink.close()
        self._connected = False
        self._unsettled.clear()
        self._reader.close()
        self._reader = Reader(self._directory, self._cursor.position)
        if error.accepted:
            taken = self._reader.read(error.accepted)[: error.accepted]
            self._acknowledged(taken[-1], len(taken))
            self._count_losses(taken)
            self._reader.close()
            self._reader = Reader(self._directory, self._cursor.position)
        if isinstance(error, Rejected) and self._pass_over(error):
            return
        self._state = error.state
        now = time.monotonic()
        if self._told[0] != str(error) or now - self._told[1] >= 60:
            self._say(f"warning: {error}" + (f" ({error.hint})" if error.hint else ""))
            self._told = (str(error), now)
        deadline = now + self._pause * random.uniform(0.8, 1.2)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        while not self._stop_asked and (left := deadline - time.monotonic()) > 0:
            self._wake.clear()
            self._wake.wait(left)

    def _pass_over(self, error: Rejected) -> bool:
        """Find the event that the engine does not take, and tell it of that one's loss; whether to go on at once."""
        if not self._singly:
            self._singly = self._sink.batch
            return True
        batch = self._reader.read(1)
        if not batch:
            return False
        item = batch[0]
        self._say(f"warning: {error}: event {self._identity.event_id(item.first, item.last)} is left out")
        notice = Item(item.first, item.last, loss(item.first, item.last, "rejected"), item.position, "rejected")
        try:
            self._sink.connect(self._identity)
            self._connected = True
            self._sink.send([notice])
        except Rejected:
            pass
        except DeliveryError:
            return False
        self._rejected += 1
        self._acknowledged(item, 1)
        return True

    def _good(self) -> None:
        if self._state not in ("ok", "starting"):
            self._say(f"{self._sink.address}: delivering again")
        self._state = "ok"
        self._told = ("", 0.0)


class Shipper:
    """Delivers a spool to its sinks, and removes what all of them have.

    Args:
        directory: of the spool.
        identity: whose events they are.
        sinks: none: the spool is kept as it is.
        say: told of what an operator should know, a line each.
    """

    def __init__(self, directory: str, identity: Identity, sinks: Sequence[Sink], say: Callable[[str], None]) -> None:
        self._directory = directory
        self._deliveries = [Delivery(directory, identity, sink, say) for sink in sinks]
        self._synced = (0, 0)  # segment, size
        self._tidied = self._sync_due = 0.0

    def start(self) -> None:
        """Begin to deliver."""
        for delivery in self._deliveries:
            delivery.start()

    def wake(self) -> None:
        """There is something new in the spool."""
        for delivery in self._deliveries:
            delivery.wake()

    def standings(self) -> list[Standing]:
        """How each sink stands."""
        return [delivery.standing for delivery in self._deliveries]

    def bytes(self) -> int:
        """Bytes in the spool."""
        return used_bytes(self._directory)

    def end(self) -> int:
        """The number that the next event will get, as far as the newest segment tells."""
        there = segments(self._directory)
        if not there:
            return 0
        reader = Reader(self._directory, Position(there[-1], there[-1], 0))
        last = there[-1]
        while items := reader.read(1 << 16, 64 << 20):
            last = items[-1].last + 1
        reader.close()
        return last

    def tidy(self) -> None:
        """Remove the segments that all sinks are behind, and put on the disk what no reader has; call it often."""
        now = time.monotonic()
        if now - self._tidied < _HOUSEKEEPING_SECONDS:
            return
        self._tidied = now
        standings = self.standings()
        if standings:
            remove_behind(self._directory, min(standing.next for standing in standings))
        if now >= self._sync_due:
            self._sync_due = now + _SYNC_SECONDS
            self.sync()

    def sync(self) -> None:
        """Put what was written since the last call on the disk."""
        first, size = self._synced
        for segment in segments(self._directory):
            if segment < first:
                continue
            with suppress(FileNotFoundError):
                fd = os.open(segment_path(self._directory, segment), os.O_RDONLY | os.O_CLOEXEC)
                try:
                    now = os.fstat(fd).st_size
                    if (segment, now) != (first, size):
                        os.fdatasync(fd)
                    self._synced = (segment, now)
                finally:
                    os.close(fd)

    @property
    def idle(self) -> bool:
        """All that the sinks found when they last looked is acknowledged."""
        return all(delivery.idle for delivery in self._deliveries)

    def undelivered(self, end: int) -> dict[str, int]:
        """By the name of the sink how many events before the number ``end`` it has not acknowledged; 0 is left out."""
        found = {standing.name: end - max(standing.next, 1) for standing in self.standings()}
        return {name: count for name, count in found.items() if count > 0}

    def stop(self, patience: float = 5.0) -> None:
        """End, after what is being sent now or ``patience`` seconds."""
        for delivery in self._deliveries:
            delivery.stop()
        deadline = time.monotonic() + patience
        for delivery in self._deliveries:
            delivery.join(max(0.0, deadline - time.monotonic()))
