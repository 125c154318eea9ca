"""The process that delivers: without privileges, started again when it dies.

Two processes. The first makes the sinks while it may read keys and make files, takes the lock, becomes an unprivileged
user, and from then on only waits for the second, which confines itself, imports the sinks' libraries and delivers. What
an audit has to say comes through a pipe: how far it is, its counts for metrics, and, when it closes, that it ended.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from pylsm.confine.capabilities import keep_only
from pylsm.confine.kernel import PR_SET_NO_NEW_PRIVS, prctl
from pylsm.confine.restrict import Needs, restrict
from pylsm.ship.identity import Identity, identify
from pylsm.ship.place import Courier
from pylsm.ship.shipper import Shipper
from pylsm.ship.sinks import Sink
from pylsm.ship.spool import SpoolError, lock

if TYPE_CHECKING:
    from pylsm.ship.metrics import Metrics

__all__ = ["Job", "deliver"]

#: A worker that died is started again after so many seconds, longer each time it dies soon.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_LIVED_LONG = 30.0
#: How often it is started again when the audit has ended.
_LAST_TRIES = 3
#: The spool, once it is the working directory.
_HERE = "."
_PR_SET_PDEATHSIG = 1
_TICK_SECONDS = 0.25
#: What name resolution and TLS read.
_READABLE = (
    *("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services"),
    *("/run/systemd/resolve", "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates"),
    *("/usr/local/share/ca-certificates", "/etc/machine-id", "/etc/passwd", "/sys/devices/system/cpu", "/dev/urandom"),
)


class Job(NamedTuple):
    """What to deliver, and how.

    Attributes:
        directory: of the spool.
        sinks: made, not prepared.
        who: delivers.
        drain: at the end, how many seconds to go on until all is delivered.
        confine: give up what is not needed.
        audit: a pipe from an audit, whose end ends this; -1: none, it goes on until it gets a signal.
        until_empty: end when all is delivered.
        say: told of what an operator should know.
        metrics: where to serve metrics, or None.
    """

    directory: str
    sinks: Sequence[Sink]
    who: Courier
    drain: float
    confine: bool
    audit: int
    until_empty: bool
    say: Callable[[str], None]
    metrics: tuple[str, int] | None = None


def deliver(job: Job, ready: Callable[[], None]) -> int:
    """Deliver until the audit ends or a signal comes; started again when it dies.

    Args:
        job: what to deliver.
        ready: called when nothing stands in the way any more.

    Returns:
        An exit status: 0, or 1 when something is left in the spool.

    Raises:
        SpoolError: the spool is damaged, or another process delivers from it.
        SinkURLError: a file of a sink cannot be made.
    """
    listening = _listen(job.metrics) if job.metrics is not None else None
    identity = identify(job.directory)
    for sink in job.sinks:
        sink.prepare(job.who.gid)
    held = lock(job.directory, "shipper.lock", "pylsm that delivers from it")
    os.chdir(job.directory)  # the directories above it need not let that user through
    if job.who.uid >= 0:
        modules = _open_directories(sys.path)
        os.fchown(held, -1, job.who.gid)
        _hand_over(job.directory, job.who)
        os.setgroups([])
        os.setresgid(job.who.gid, job.who.gid, job.who.gid)
        os.setresuid(job.who.uid, job.who.uid, job.who.uid)
        _import_through(modules)
    keep_only(())
    os.umask(0o027)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    ready()
    return _supervise(lambda: _Worker(job, identity, listening).run(), job)


def _listen(where: tuple[str, int]) -> socket.socket:
    from importlib.util import find_spec

    from pylsm.ship.metrics import listen

    if find_spec("prometheus_client") is None:
        raise SpoolError(
            "--metrics: the Python module 'prometheus_client' is not installed", hint="pip install 'pylsm[metrics]'"
        )
    try:
        return listen(where)
    except OSError as error:
        raise SpoolError(
            f"--metrics {where[0]}:{where[1]}: {error.strerror}", hint="name another port, or an address of this host"
        ) from None


def _hand_over(directory: str, who: Courier) -> None:
    """Cursors belong to the one who moves them."""
    for name in os.listdir(directory):
        if name.startswith("cursor-"):
            os.chown(os.path.join(directory, name), who.uid, who.gid, follow_symlinks=False)


def _open_directories(paths: Sequence[str]) -> dict[str, int]:
    """Descriptors of those that are directories."""
    found = {}
    for path in paths:
        with suppress(OSError):
            found[path] = os.open(path or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return found


def _import_through(directories: dict[str, int]) -> None:
    """Import further modules through open directories where this user cannot get there by their paths.

    Python lies in somebody's home more often than not, where nobody else may go.
    """
    moved = {}
    for path, fd in directories.items():
        if os.access(path, os.R_OK | os.X_OK):
            os.close(fd)
        else:
            moved[path] = f"/proc/self/fd/{fd}"
    if not moved:
        return

    def through(path: str) -> str:
        above = [known for known in moved if path == known or path.startswith(known + "/")]
        longest = max(above, key=len, default="")
        return moved[longest] + path[len(longest) :] if above else path

    sys.path[:] = [through(path) for path in sys.path]
    sys.path_importer_cache.clear()
    for module in list(sys.modules.values()):
        if isinstance(paths := getattr(module, "__path__", None), list):
            paths[:] = [through(path) for path in paths]


def _supervise(work: Callable[[], int], job: Job) -> int:
    """Do the work in a child, again and again until it ends by itself, or until nobody waits for it and it only dies.

    Returns:
        What the work returned.
    """
    pause = _FIRST_PAUSE
    say = job.say
    deaths = 0
    asked: list[int] = []
    child = 0

    def pass_on(number: int, frame: object) -> None:
        asked.append(number)
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    signal.signal(signal.SIGHUP, pass_on)
    parent = os.getpid()
    while True:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            status = 125
            try:
                prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
                if os.getppid() == parent:
                    status = work()
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                say(f"error: what delivers failed: {type(error).__name__}: {error}")
            finally:
                with suppress(OSError):
                    sys.stderr.flush()
                os._exit(status)
        while True:
            try:
                _, status = os.waitpid(child, 0)
                break
            except InterruptedError:
                continue
        code = os.waitstatus_to_exitcode(status)
        if code in (0, 1):
            return code
        deaths += 1
        if asked or (deaths >= _LAST_TRIES and _closed(job.audit)):
            return 1
        say(f"warning: what delivers died ({f'signal {-code}' if code < 0 else f'status {code}'}): it is started again")
        if time.monotonic() - began > _LIVED_LONG:
            pause, deaths = _FIRST_PAUSE, 0
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _closed(pipe: int) -> bool:
    """Whether nobody has the other end of a pipe."""
    if pipe < 0:
        return False
    poll = select.poll()
    poll.register(pipe, 0)  # POLLHUP comes unasked
    return bool(poll.poll(0))


class _Worker:
    """The second process: delivers, and listens to the audit."""

    def __init__(self, job: Job, identity: Identity, listening: socket.socket | None) -> None:
        self._job = job
        self._stop = False
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if job.confine:
            writable = (_HERE, *(path for sink in job.sinks for path in sink.writable))
            readable = (*_READABLE, *(path for sink in job.sinks for path in sink.readable))
            restrict(Needs(network=True, writable=writable, readable=readable))
        self._shipper = Shipper(_HERE, identity, job.sinks, job.say)
        self._metrics: Metrics | None = None
        if listening is not None:
            from pylsm.ship.metrics import Metrics

            self._metrics = Metrics(listening, self._shipper)
        self._partial = b""
        self._end: int | None = None  # the number behind the last event of the audit

    def _terminate(self, number: int, frame: object) -> None:
        self._stop = True

    def run(self) -> int:
        """Deliver until there is no more to do; 0, or 1 when something is left."""
        job = self._job
        self._shipper.start()
        audit = job.audit
        deadline: float | None = None
        while not self._stop:
            if audit >= 0:
                if select.select([audit], [], [], _TICK_SECONDS)[0]:
                    data = os.read(audit, 1 << 16)
                    self._listen(data)
                    if not data and self._end is not None:
                        break  # nobody waits any longer
                    if not data:
                        audit = -1
                    if deadline is None and (not data or self._end is not None):
                        deadline = time.monotonic() + job.drain
            else:
                time.sleep(0.02 if deadline is not None or job.until_empty else _TICK_SECONDS)
            self._shipper.tidy()
            if (deadline is not None or job.until_empty) and self._shipper.idle and not self._left():
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
        self._shipper.stop()
        self._shipper.tidy()
        return self._last_words()

    def _listen(self, data: bytes) -> None:
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._shipper.wake()
        for line in lines:
            if not line:
                continue
            try:
                message: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # the first half went to a worker that died
            if "audit" in message and self._metrics is not None:
                self._metrics.hear(message["audit"])
            if "end" in message:
                self._end = int(message["end"])

    def _left(self) -> dict[str, int]:
        """What is not delivered, by sink; of a spool that nobody says the end of, it is looked for."""
        end = self._end if self._end is not None else self._shipper.end()
        return self._shipper.undelivered(end)

    def _last_words(self) -> int:
        left = self._left()
        for name, count in left.items():
            self._job.say(
                f"warning: {count} events are not delivered to {name} yet; they stay in {self._job.directory}: the "
                "next audit with it delivers them, or `pylsm ship --until-empty` with the same --spool and --sink"
            )
        return 1 if left else 0
