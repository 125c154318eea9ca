"""Where lines go: standard output or a file, whole lines at once, failures named.

Who reads a pipe, a socket or a terminal can be slower than what is written: `Sink.write` need not wait for that.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from pylsm.confine.files import open_output
from pylsm.errors import PylsmError

__all__ = ["Sink", "SinkError"]


class SinkError(PylsmError):
    """Output that cannot be written."""


class Sink:
    """Writes lines to a file, or to standard output.

    Args:
        path: the file, made anew (mode 0600) or emptied; None for standard output.

    Raises:
        UntrustedPath: the file, or a link on the way to it, is somebody else's.
        SinkError: the file cannot be opened.
    """

    def __init__(self, path: str | None) -> None:
        self.lines = 0
        self.failed = False
        self._rest = memoryview(b"")  # what is not yet written
        self._rest_lines = 0
        self._name = path or "standard output"
        if path is None:
            self.fd = 1
            import fcntl

            # The command writes to the same file, through the same file offset: without this, a write of its can land
            # on lines of ours. (make does so for its jobs, for the same reason.)
            self._flags = fcntl.fcntl(1, fcntl.F_GETFL)
            fcntl.fcntl(1, fcntl.F_SETFL, self._flags | os.O_APPEND)
        else:
            try:
                self.fd = open_output(path)
            except OSError as error:
                raise SinkError(
                    f"cannot write to {path}: {error.strerror}",
                    hint="give -o a file in a directory you can write to (anybody's: CAP_DAC_OVERRIDE)",
                ) from None
        mode = os.fstat(self.fd).st_mode
        #: The descriptor to poll for a reader that goes away, or None when it has no reader.
        self.watched = self.fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None
        self._out = self.fd
        if stat.S_ISFIFO(mode) or os.isatty(self.fd):
            # Opened anew, since whether writes wait is a matter of all who share what the descriptor refers to.
            with suppress(OSError):
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                self._out = os.open(f"/proc/self/fd/{self.fd}", flags)

    @property
    def waiting(self) -> bool:
        """Whether something is left for `flush` to write."""
        return bool(self._rest)

    def write(self, lines: list[str], *, wait: bool = True) -> None:
        """Write lines, each with a newline.

        Args:
            lines: their texts.
            wait: until all is written; otherwise what its reader has no room for is kept for `flush`.

        Raises:
            SinkError: the reader is gone, the disk is full, …; says how many lines were written before.
        """
        text = ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")
        self._rest = memoryview(b"".join((self._rest, text)) if self._rest else text)
        self._rest_lines += len(lines)
        self.flush(wait)

    def flush(self, wait: bool = True) -> None:
        """Write what is left; for the arguments, see `write`.

        Raises:
            SinkError: as `write`.
        """
        try:
            self._flush(wait)
        except SinkError:
            self.failed = True
            raise
        if not self._rest:
            self.lines += self._rest_lines
            self._rest_lines = 0

    def _flush(self, wait: bool) -> None:
        while self._rest:
            try:
                self._rest = self._rest[os.write(self._out, self._rest) :]
            except BlockingIOError:
                if not wait:
                    return
                import select

                select.select([], [self._out], [])
            except BrokenPipeError:
                raise self.gone() from None
            except OSError as error:
                raise SinkError(
                    f"cannot write to {self._name}: {error.strerror}; {self.lines} lines were written before",
                    hint="make room or give -o another file, and start again",
                ) from None

    def gone(self) -> SinkError:
        """The error for a reader that closed its end."""
        self.failed = True
        return SinkError(
            f"whoever read {self._name} closed it; {self.lines} lines were written before",
            hint="write to a file with -o, or keep the reader running",
        )

    def close(self) -> None:
        """Close the file; standard output stays open, as it was."""
        if self._out != self.fd:
            os.close(self._out)
        if self.fd != 1:
            os.close(self.fd)
        else:
            import fcntl

            fcntl.fcntl(1, fcntl.F_SETFL, self._flags)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
