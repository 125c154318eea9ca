"""An audit's side of delivery: its events go to the spool, from which another process delivers (`pylsm ship`).

That process is started before the audit is confined, which can start none afterwards, and told by a pipe when there is
something new. Nothing here waits for it: a pipe that is full is left alone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from contextlib import suppress

import pylsm
from pylsm.cli.sink import SinkError
from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.output.jsonl import render_with_context
from pylsm.ship.identity import identify
from pylsm.ship.place import courier, default_directory, make_directory
from pylsm.ship.sinks import make
from pylsm.ship.spool import SpoolWriter

if TYPE_CHECKING:
    import argparse

    from pylsm.audit.events import Event
    from pylsm.audit.session import Audit
    from pylsm.loader.bpf import Handle

__all__ = ["Shipping", "ourselves"]

_START_SECONDS = 30.0
#: Beyond the time to deliver the rest: until what delivers has ended.
_END_SECONDS = 10.0


class Shipping:
    """The spool of an audit, and the process that delivers from it, for a ``with`` block.

    Args:
        options: with ``sink``, ``spool``, ``spool_size``, ``spool_policy``, ``spool_sync``, ``sink_user``, ``drain``,
            ``no_confine``.

    Attributes:
        directory: of the spool.
        metrics: `report` is to be called every second.

    Raises:
        PylsmError: a sink's URL is wrong, its library missing, the spool not to be had.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        urls = list(dict.fromkeys(options.sink))
        for url in urls:
            make(url)
        who = courier(options.sink_user)
        self._urls = urls
        self._drain = options.drain
        self.directory = make_directory(options.spool or default_directory(), who)
        identify(self.directory)
        self._writer = SpoolWriter(
            self.directory, options.spool_size, options.spool_policy, sync=options.spool_sync == "always"
        )
        self._told = 0
        self.metrics = options.metrics is not None
        self._statistics = _statistics() if self.metrics else None
        self._pipe = self._pid = self._watch = -1
        if urls or self.metrics:
            try:
                self._start(options)
            except BaseException:
                self._writer.close()
                raise

    def _start(self, options: argparse.Namespace) -> None:
        theirs, self._pipe = os.pipe2(os.O_CLOEXEC)
        self._ready, status = os.pipe2(os.O_CLOEXEC)
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [sys.executable, *ourselves(), "ship", "--for-audit"],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs, 0),
                    (os.POSIX_SPAWN_DUP2, status, 1),
                    # Standard error stays: what an operator should know is said there.
                ],
                setsid=True,  # Ctrl-C ends the audit, which then ends this
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
            )
        finally:
            os.close(theirs)
            os.close(status)
        self._watch = os.pidfd_open(self._pid)
        job = {
            "sink": self._urls,
            "spool": self.directory,
            "sink_user": options.sink_user,
            "drain": options.drain,
            "metrics": options.metrics,
            "no_confine": options.no_confine,
        }
        os.write(self._pipe, json.dumps(job).encode() + b"\n")
        os.set_blocking(self._pipe, False)

    def started(self) -> None:
        """Wait until what delivers is ready.

        Raises:
            PylsmError: it did not start; it has said why.
        """
        if self._pid < 0:
            return
        answer = b""
        if select.select([self._ready], [], [], _START_SECONDS)[0]:
            answer = os.read(self._ready, 64)
        os.close(self._ready)
        if answer != b"ready\n":
            raise PylsmError("what delivers to the sinks did not start", hint="it has said why above")

    @property
    def writable(self) -> tuple[str, ...]:
        """Directories that the audit goes on to write to."""
        return (self.directory,)

    @property
    def synchronous(self) -> bool:
        """What is written is on the disk before more is read."""
        return self._writer.synchronous

    @property
    def room(self) -> bool:
        """Whether events may be read."""
        return self._writer.room()

    def write(self, lines: list[str]) -> None:
        """Put events into the spool, and tell who delivers.

        Args:
            lines: JSON, in ASCII.
        """
        try:
            self._writer.append([line.encode("ascii") for line in lines])
        except OSError as error:
            raise SinkError(
                f"cannot write to the spool {self.directory}: {error.strerror}", hint="is its disk sound and writable?"
            ) from None
        self._tell(b"\n")
        dropped = self._writer.dropped
        if dropped and not self._told:
            say(f"warning: the spool {self.directory} is full: events are dropped, and counted")
        self._told = dropped

    def write_events(self, events: list[Event]) -> None:
        """Put events into the spool."""
        self.write([render_with_context(event) for event in events])

    def report(self, audit: Audit) -> None:
        """Say how the audit stands, for metrics."""
        said = {
            "counts": audit.counts()._asdict(),
            "ring": audit.ring_fill,
            "programs": audit.run_times() if self._statistics is not None else {},
            "dropped": self._writer.dropped,
            "next": self._writer.next,
        }
        self._tell(json.dumps({"audit": said}).encode() + b"\n")

    def _tell(self, message: bytes) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, message)
        except BlockingIOError:
            pass  # it has enough to read
        except OSError:
            os.close(self._pipe)
            self._pipe = -1
            say(f"warning: what delivers has ended; events stay in {self.directory}")

    def close(self) -> None:
        """End the spool, and wait until all is delivered, but not for ever."""
        self._writer.close()
        if self._writer.dropped:
            say(f"warning: {self._writer.dropped} events found no room in the spool; its readers are told")
        if self._pid < 0:
            return
        try:
            if self._pipe >= 0:
                select.select([], [self._pipe], [], 1.0)
                self._tell(json.dumps({"end": self._writer.next}).encode() + b"\n")
            self._ended(self._drain + _END_SECONDS)
        finally:
            # It listens to nothing but the pipe: this process may not be allowed to send signals any more.
            if self._pipe >= 0:
                os.close(self._pipe)
            self._ended(_END_SECONDS)
            with suppress(ChildProcessError):
                os.waitpid(self._pid, os.WNOHANG)
            os.close(self._watch)
            self._pid = self._pipe = -1

    def _ended(self, seconds: float) -> None:
        """Wait until what delivers has ended, at most so long."""
        select.select([self._watch], [], [], seconds)

    def __enter__(self) -> Shipping:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _statistics() -> Handle | None:
    """Statistics of programs, for as long as it is kept; None where this process may not turn them on."""
    from pylsm.loader.errors import BpfError
    from pylsm.loader.program import enable_run_time_stats

    try:
        return enable_run_time_stats()
    except BpfError as error:
        say(f"warning: no run times of programs in the metrics: {error}")
        return None


def ourselves() -> list[str]:
    """What makes an interpreter run pylsm: the module, or the archive that this process runs from."""
    archive = getattr(getattr(pylsm, "__loader__", None), "archive", None)
    return ["-m", "pylsm"] if archive is None else [archive]
