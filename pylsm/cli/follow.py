"""The loop of ``run`` and ``attach``: events to the sink, signals and counts in between."""

from __future__ import annotations

import gc
import os
import select
import time

from pylsm.audit.events import Event
from pylsm.audit.session import Audit, Counts
from pylsm.cli.signals import Signals
from pylsm.cli.sink import Sink
from pylsm.cli.status import say
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from pylsm.cli.shipping import Shipping
    from pylsm.cli.watch import Watch
else:
    import _signal as signal  # without its enums, which cost more than a start has to spare

__all__ = ["Follower", "describe"]

#: How often the family is looked at once its first processes have ended, in seconds.
_FAMILY_SECONDS = 0.2
#: At most one warning about leaked bytes in this time, in seconds.
_LEAK_SECONDS = 10.0
#: How often it is looked whether events were lost, while they come, in seconds; if that is reason to end, each time.
_LOSS_SECONDS = 10.0

#: Events that are written at a time: between two batches the ring is emptied.
_BATCH = 1024
#: How many bytes of records may wait in memory to be written (as events they take up to twice as much).
_MOST_WAITING = 32 << 20
#: And of what a memory cgroup allows, one part in so many.
_SHARE_WAITING = 16
#: How often a heartbeat goes to the spool if none are asked for, in seconds: it tells of losses in the kernel.
_SPOOL_HEARTBEAT_SECONDS = 60.0
#: How long to wait for room in a spool that is full, in seconds.
_ROOM_SECONDS = 0.05


class _Backlog:
    """Events of the audit that wait to be written.

    A line takes several times as long as a record, and who reads the lines may take longer still: if the ring were read
    only once all that came out of it before is written, it would overflow in a burst. So it is emptied between batches,
    and the burst waits here.

    Args:
        audit: the running audit.
        most: no further records are taken out of the ring while so many bytes of them wait here.
    """

    def __init__(self, audit: Audit, most: int) -> None:
        self._audit = audit
        self.most = most
        self._reads: list[tuple[list[Event], int]] = []  # what was read at a time, and its bytes in the ring
        self._done = 0  # events of the first of them that were taken
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._reads)

    @property
    def full(self) -> bool:
        """Whether `fill` does nothing, so that records stay in the ring."""
        return self._bytes > self.most

    def fill(self) -> None:
        """Empty the ring, unless too much waits already."""
        if self.full:
            return
        before = self._audit.taken
        self.add(self._audit.read(), self._audit.taken - before)

    def add(self, events: list[Event], size: int = 0) -> None:
        """More events, of ``size`` bytes."""
        if events:
            self._bytes += size
            if self._reads and len(self._reads[-1][0]) < _BATCH:  # single ones come together
                earlier, before = self._reads.pop()
                earlier += events
                events, size = earlier, before + size
            self._reads.append((events, size))

    def take(self) -> list[Event]:
        """The oldest `_BATCH` events, or those that were read with the oldest if they are fewer."""
        if not self._reads:
            return []
        events, size = self._reads[0]
        batch = events[self._done : self._done + _BATCH]
        self._done += len(batch)
        if self._done >= len(events):
            del self._reads[0]
            self._bytes -= size
            self._done = 0
        return batch


class Follower:
    """Writes an audit's events until told to stop.

    Args:
        audit: the running audit.
        sink: where lines go.
        render: event → line.
        signals: those that the caller wants to hear of, SIGUSR1 (counts) among them.
        stats_seconds: print the counts this often; 0 for never.
        heartbeat_seconds: write a heartbeat to the sink this often (`pylsm.output.heartbeat`); 0 for never.
        watch: looks at the events besides (`pylsm.cli.watch`).
        on_loss: "warn", or "exit" to end when events were lost.
        shipping: where events go besides; it gets heartbeats in any case.
        timers: what to call while it follows, and how often, in seconds.

    Attributes:
        lossy: events were lost, and that was reason to end.
    """

    def __init__(
        self,
        audit: Audit,
        sink: Sink,
        render: Callable[[Event], str],
        signals: Signals,
        stats_seconds: float,
        heartbeat_seconds: float = 0.0,
        watch: Watch | None = None,
        on_loss: str = "warn",
        shipping: Shipping | None = None,
        timers: Sequence[tuple[float, Callable[[], object]]] = (),
    ) -> None:
        self._audit = audit
        # In the ring of a pinned audit it is safe when this process is killed; and what waits for the disk comes first.
        kept = audit.pinned is not None or (shipping is not None and shipping.synchronous)
        self._backlog = _Backlog(audit, 0 if kept else _MOST_WAITING)
        self._sink = sink
        self._render = render
        self._signals = signals
        self._stats_seconds = stats_seconds
        self._next_stats = time.monotonic() + stats_seconds
        self._leaks_told = 0
        self._next_leak_warning = 0.0
        self._shipping = shipping
        self._timers: list[list[Any]] = [[time.monotonic(), period, action] for period, action in timers]
        self._beats_are_shown = heartbeat_seconds > 0
        self._heartbeat_seconds = heartbeat_seconds or (_SPOOL_HEARTBEAT_SECONDS if shipping is not None else 0.0)
        self._next_heartbeat = time.monotonic() + self._heartbeat_seconds
        self._events = self._heartbeats = 0
        self._session = os.urandom(8).hex()
        self._watch = watch
        self.lossy = False
        self._exit_on_loss = on_loss == "exit"
        self._losses_told = 0
        self._next_loss_check = 0.0 if self._exit_on_loss else time.monotonic() + _LOSS_SECONDS
        self._beat()

    def stay_within(self, memory: int) -> None:
        """Let fewer records wait where there is little memory.

        Args:
            memory: bytes that all of this process may take, maps included; 0: as many as there are.
        """
        if memory:
            self._backlog.most = min(self._backlog.most, memory // _SHARE_WAITING)

    def run(
        self,
        ended: Callable[[], bool],
        on_signal: Callable[[int], bool],
        watch: Iterable[int] = (),
        period: float | None = None,
    ) -> None:
        """Follow until ``ended`` or until a signal says so; what the ring still holds is left to `finish`.

        Args:
            ended: asked after each round whether there is nothing left to follow.
            on_signal: told of each signal but SIGUSR1; whether it ends the loop.
            watch: further descriptors whose readability is worth a round, such as pidfds.
            period: seconds between rounds when nothing else happens, or None.

        Raises:
            SinkError: output cannot be written.
        """
        gc.freeze()
        gc.enable()
        poll = select.poll()
        ring, listening = self._audit.fileno(), select.POLLIN
        poll.register(ring, listening)
        poll.register(self._signals.fileno(), select.POLLIN)
        sink, reader = self._sink, self._sink.watched
        if reader is not None:
            poll.register(reader, 0)  # POLLERR comes unasked when the reader is gone
        waited = set(watch)
        for fd in waited:
            poll.register(fd, select.POLLIN)
        shipping = self._shipping
        while True:
            room = shipping is None or shipping.room
            sink.flush(wait=False)
            if room:
                self._backlog.fill()
                if not sink.waiting:
                    self._write(self._backlog.take())
            if self.lossy:
                return
            for number in self._signals.take():
                if number == signal.SIGUSR1:
                    self.report()
                elif on_signal(number):
                    return
            if not waited and ended():
                return
            if self._stats_seconds and time.monotonic() >= self._next_stats:
                self.report()
                self._next_stats = time.monotonic() + self._stats_seconds
            if self._heartbeat_seconds and time.monotonic() >= self._next_heartbeat:
                if not sink.waiting:  # what nobody reads is no sign of life
                    self._beat()
                self._next_heartbeat = time.monotonic() + self._heartbeat_seconds
            for timer in self._timers:
                if time.monotonic() >= timer[0]:
                    timer[0] = time.monotonic() + timer[1]
                    timer[2]()
            timeout = period if waited or period is not None else _FAMILY_SECONDS
            due = [timer[0] for timer in self._timers]
            if self._stats_seconds:
                due.append(self._next_stats)
            if self._heartbeat_seconds:
                due.append(self._next_heartbeat)
            if due:
                left = max(0.0, min(due) - time.monotonic())
                timeout = left if timeout is None else min(timeout, left)
            listen = select.POLLIN if room and not self._backlog.full else 0
            if listen != listening:  # what finds no room in the ring is counted by the kernel
                listening = listen
                poll.register(ring, listen)
            if not room:
                timeout = _ROOM_SECONDS
            elif self._backlog and not sink.waiting:
                timeout = 0
            held_up = sink.waiting
            if held_up:
                poll.register(sink.fd, select.POLLOUT)
            found = poll.poll(None if timeout is None else timeout * 1000)
            if held_up:
                poll.unregister(sink.fd) if reader is None else poll.register(reader, 0)
            for fd, what in found:
                if fd == reader and what & ~select.POLLOUT:
                    raise sink.gone()
                if fd in waited:
                    poll.unregister(fd)
                    waited.discard(fd)

    def tell(self, events: list[Event]) -> None:
        """Write events that were not recorded, and are in no count."""
        if events:
            if self._shipping is not None:
                self._shipping.write_events(events)
            self._sink.write([self._render(event) for event in events], wait=False)
            if self._watch is not None:
                self._watch.add(events)

    def finish(self) -> None:
        """Detach, write what was still in the ring."""
        self._backlog.add(self._audit.stop())
        while self._backlog:
            self._sink.flush()
            self._write(self._backlog.take())
        if self._exit_on_loss:
            self._look_for_losses()
        self._beat(final=True)
        self._sink.flush()

    def _beat(self, final: bool = False) -> None:
        """Write a heartbeat, if they are asked for."""
        if not self._heartbeat_seconds:
            return
        from pylsm.output import heartbeat

        line = heartbeat.render(
            self._session,
            self._heartbeats,
            self._events,
            self._audit.counts(),
            final=final,
            continued=self._audit.continued,
            next_numbers=self._audit.next_numbers(),
        )
        if self._shipping is not None:
            self._shipping.write([line])
        if self._beats_are_shown:
            self._sink.write([line], wait=False)
        self._heartbeats += 1

    def report(self) -> None:
        """Say the counts so far."""
        say(describe(self._audit.counts()))

    def _write(self, events: list[Event]) -> None:
        if events:
            if self._shipping is not None:
                self._shipping.write_events(events)
            render = self._render
            self._sink.write([render(event) for event in events], wait=False)
            self._events += len(events)
            if self._watch is not None:
                self._watch.add(events)
        if events and time.monotonic() >= self._next_loss_check:
            self._look_for_losses()
        leaked = self._audit.leaked
        if leaked > self._leaks_told and time.monotonic() >= self._next_leak_warning:
            say(f"warning: {leaked} records held bytes behind their path that are not zero: please report this")
            self._leaks_told = leaked
            self._next_leak_warning = time.monotonic() + _LEAK_SECONDS

    def _look_for_losses(self) -> None:
        """Say that events were lost, as soon as it is known."""
        counts = self._audit.counts()
        lost = counts.lost + counts.family_full + counts.skipped
        if lost > self._losses_told:
            said = [f"{counts.lost} events lost"]
            if counts.family_full:
                said.append(f"{counts.family_full} children not traced")
            if counts.skipped:
                said.append(f"{counts.skipped} runs skipped by the kernel")
            self.lossy = self._exit_on_loss
            say(f"warning: {' and '.join(said)} so far{'; ending (--on-loss exit)' * self.lossy}")
            self._losses_told = lost
        self._next_loss_check = 0.0 if self._exit_on_loss else time.monotonic() + _LOSS_SECONDS


def describe(counts: Counts) -> str:
    """The counts in a line; those that are rarely anything but 0 only when they are not."""
    line = (
        f"recorded {counts.recorded}, deduplicated {counts.deduplicated}, lost {counts.lost}, "
        f"untraced {counts.untraced}"
    )
    rare = {
        "filtered": counts.filtered,
        "ignored": counts.ignored,
        "unreadable": counts.unreadable,
        "children not traced": counts.family_full,
        "skipped by the kernel": counts.skipped,
        "records of other sources": counts.foreign,
        "malformed records": counts.malformed,
        "leaking records": counts.leaked,
    }
    return line + "".join(f", {name} {count}" for name, count in rare.items() if count)
