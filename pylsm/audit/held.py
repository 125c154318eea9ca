"""A command that is started and held before its first instruction, so that it can be traced from there."""

from __future__ import annotations

import os
import struct
from contextlib import suppress

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal as signal  # without its enums, which cost more than a start has to spare

__all__ = ["HeldProcess", "execute"]


class HeldProcess:
    """A child that waits for `release` and then executes a command. If this process ends first, so does the child.

    Args:
        command: the program, looked for in PATH, and its arguments.
        prepare: run in the child when it is released, just before the command; an OSError of its is the command's.
        environment: of the command; None: this process's.

    Attributes:
        pid: as this process sees it.
        pidfd: readable when the process has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        prepare: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._status: int | None = None
        self._released = False
        go_read, self._go = os.pipe()
        self._failure, failure_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _forget_handlers()
                os.close(self._go)
                if os.read(go_read, 1):  # nothing: the parent died
                    prepare()
                    execute(command, environment)
            except OSError as error:
                os.write(failure_write, struct.pack("=i", error.errno or 0))
            finally:
                os._exit(127)
        os.close(go_read)
        os.close(failure_write)
        self.pidfd = os.pidfd_open(self.pid)

    def release(self) -> int:
        """Let it execute the command; the errno if that failed, else 0."""
        self._released = True
        os.write(self._go, b"g")
        report = os.read(self._failure, 4)  # closed without a word by a successful exec
        if not report:
            return 0
        self.wait()
        return int(struct.unpack("=i", report)[0])

    def wait(self, flags: int = 0) -> int:
        """The command's exit status, 128+n for a signal; -1 when ``flags`` is WNOHANG and it still runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, flags)
            if not pid:
                return -1
            self._status = status
        code = os.waitstatus_to_exitcode(self._status)
        return code if code >= 0 else 128 - code

    @property
    def ended(self) -> bool:
        """It has ended, and `wait` has said so."""
        return self._status is not None

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        with suppress(ProcessLookupError):
            if not self.ended:
                os.kill(self.pid, number)

    def close(self, *, kill: bool = False) -> None:
        """Let go of it; one that was never released ends.

        Args:
            kill: end it first if it still runs.
        """
        os.close(self._go)
        os.close(self._failure)
        if self.wait(os.WNOHANG) < 0 and (kill or not self._released):
            self.send(signal.SIGKILL)
            self.wait()
        os.close(self.pidfd)


def _forget_handlers() -> None:
    """From now on signals are for the command, although it has yet to begin; what is ignored stays so."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def execute(command: Sequence[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Become a command.

    Args:
        command: the program, looked for in PATH, and its arguments.
        environment: None: this process's.

    Raises:
        OSError: it cannot be executed.
    """
    # What Python ignores; what is caught gets its default by exec, and what the caller ignored stays ignored.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(command[0], list(command), os.environ if environment is None else environment)
