"""An audit as one thing to iterate over: ``with pylsm.audit(pids=[4321]) as events: …``, ``async for`` too."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress

from pylsm.audit.events import Event
from pylsm.audit.held import HeldProcess
from pylsm.audit.pidns import to_initial
from pylsm.audit.session import Audit, Counts
from pylsm.audit.targets import resolve
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Events", "watch"]

#: How often the family is looked at once its first processes have ended, in seconds.
_FAMILY_SECONDS = 0.2


def watch(*, pids: Iterable[int] = (), command: Sequence[str] | None = None, **options: Any) -> Events:
    """Trace processes, or a command from its first instruction, and hand out what they do.

    ``pylsm.audit(…)`` is this function.

    Args:
        pids: running processes, as /proc shows them here; their descendants are traced with them.
        command: a program and its arguments, started here as this user.
        **options: of `Audit`: ``source``, ``ring_bytes``, …

    Returns:
        `Events`, to be used in a ``with`` or closed. They end when all that was named has ended; with nobody named,
        when they are closed.

    Raises:
        PylsmError: nothing can be traced here, a pid that is nobody's, a command that cannot be executed; with a
            ``hint`` that says what to do.
    """
    named = [resolve(pid).pid for pid in pids]
    if os.getpid() in named:
        raise PylsmError(f"process {os.getpid()} is this program itself", hint="trace another process, or a command")
    with ExitStack() as stack:
        audit = stack.enter_context(Audit(**options))
        events = stack.enter_context(Events(audit))
        events.trace(named)
        if command is not None:
            events.start(command)
        stack.pop_all()
    return events


class Events:
    """What a family does, as it comes: an iterator, of ``for`` and of ``async for``.

    One thread, or one task, iterates. `close` can be called by any: it ends the iteration.

    Args:
        audit: a running audit, closed with these events.

    Attributes:
        audit: the same, for what is not here.
    """

    def __init__(self, audit: Audit) -> None:
        self.audit = audit
        self._ready: deque[Event] = deque()
        self._named = False
        self._ended = False
        self._closing = False
        self._closed = False
        self._turn = threading.RLock()  # held by whoever uses the audit
        self._gate = threading.Lock()  # held while descriptors are closed, and while `_wake` is written to
        self._held: HeldProcess | None = None
        with ExitStack() as stack:
            stack.callback(audit.close)
            self._poll = select.epoll()
            stack.callback(self._poll.close)
            wake, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            stack.callback(os.close, wake)
            stack.callback(os.close, self._wake)
            self._watched: set[int] = set()
            self._poll_fd = self._poll.fileno()
            self._poll.register(audit.fileno(), select.EPOLLIN)
            self._poll.register(wake, select.EPOLLIN)
            self._stack = stack.pop_all()

    # ---- who -----------------------------------------------------------------------------------------------------

    def trace(self, pids: Iterable[int]) -> None:
        """Trace more processes and their descendants; see `Audit.trace_families`."""
        named = list(pids)
        with self._turn:
            self._require_open()
            self.audit.trace_families(named)
            self._named |= bool(named)
            for pid in named:
                with suppress(OSError):  # ended already, or too many: the family itself is looked at
                    self._watch(os.pidfd_open(pid))

    def start(self, command: Sequence[str]) -> int:
        """Start a command, traced from its first instruction, and return its pid; one for each `Events`.

        Raises:
            PylsmError: it cannot be executed, or one was started before.
        """
        if not command:
            raise PylsmError("a command is missing", hint="give a program and its arguments")
        with self._turn:
            self._require_open()
            if self._held is not None:
                raise PylsmError(
                    f"process {self._held.pid} was started before", hint="trace() its pid, or begin others"
                )
            held = HeldProcess(command)
            self._stack.callback(held.close)
            self.audit.trace(to_initial([held.pid]))
            self._named = True
            number = held.release()
            if number:
                raise PylsmError(
                    f"{command[0]}: cannot be executed: {os.strerror(number)}",
                    hint="give the path of an executable file, or a command of $PATH",
                )
            self._watch(os.dup(held.pidfd))
            self._held = held
        return held.pid

    def wait(self) -> int:
        """The exit status of the command that was started, 128+n for a signal; waits for its end.

        Raises:
            PylsmError: none was started.
        """
        if self._held is None:
            raise PylsmError("no command was started", hint="give audit(command=[…])")
        return self._held.wait()

    def _watch(self, pidfd: int) -> None:
        self._watched.add(pidfd)
        self._poll.register(pidfd, select.EPOLLIN)
        self._stack.callback(os.close, pidfd)

    # ---- what ----------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """What became of every run of the hooks so far; when the events have ended, in all."""
        with self._turn:
            return self._last if self._ended else self.audit.counts()

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        while not self._ready:
            if not self._more(wait=True):
                raise StopIteration
        return self._ready.popleft()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        loop = asyncio.get_running_loop()
        while not self._ready:
            if not self._more(wait=False):
                raise StopAsyncIteration
            if self._ready:
                break
            woken = asyncio.Event()
            try:
                loop.add_reader(self._poll_fd, woken.set)
            except OSError:
                continue  # closed just now
            try:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(woken.wait(), self._patience())
            finally:
                loop.remove_reader(self._poll_fd)
        return self._ready.popleft()

    def _more(self, *, wait: bool) -> bool:
        """Get what is there, and wait for something to happen if nothing is; False when nothing will come any more."""
        with self._turn:
            if self._ended:
                return False
            self._ready.extend(self.audit.read())
            if not self._ready and (self._closing or self._all_ended()):
                self._finish()
                return bool(self._ready)
            if not self._ready and wait:
                self._look(self._patience())
            elif not self._ready:
                self._look(0)
            return True

    def _look(self, seconds: float | None) -> None:
        for fd, _ in self._poll.poll(seconds):
            if fd in self._watched:  # a process has ended, and its descriptor stays readable
                self._watched.discard(fd)
                self._poll.unregister(fd)

    def _patience(self) -> float | None:
        return _FAMILY_SECONDS if self._named and not self._watched else None

    def _all_ended(self) -> bool:
        return self._named and not self._watched and not self.audit.family()

    def _finish(self) -> None:
        self._ready.extend(self.audit.stop())
        self._last = self.audit.counts()
        self._ended = True

    # ---- the end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the audit, and the iteration; may be called by any thread, and more than once.

        What the family does goes on, a command that was started too.
        """
        self._closing = True
        with self._gate, suppress(BlockingIOError):
            if not self._closed:
                os.write(self._wake, b"x")
        with self._turn:
            if not self._ended:
                self._finish()
                self._ready.clear()
            with self._gate:
                self._closed = True
                self._stack.close()

    def _require_open(self) -> None:
        if self._ended or self._closing:
            raise PylsmError("these events have ended", hint="begin others with pylsm.audit(…)")

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def __aenter__(self) -> Events:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()
