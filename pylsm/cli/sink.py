"""Where lines go: standard output or a file, whole lines at once, failures named."""

from __future__ import annotations

import fcntl
import os
import select
import stat

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
        self._name = path or "standard output"
        if path is None:
            self.fd = 1
            # The command writes to the same file, through the same file offset: without this, a write of its can land
            # on lines of ours. (make does so for its jobs, for the same reason.)
            self._flags = fcntl.fcntl(1, fcntl.F_GETFL)
            fcntl.fcntl(1, fcntl.F_SETFL, self._flags | os.O_APPEND)
            return
        try:
            self.fd = open_output(path)
        except OSError as error:
            raise SinkError(
                f"cannot write to {path}: {error.strerror}", hint="give -o a file in a directory you can write to"
            ) from None

    @property
    def watched(self) -> int | None:
        """The descriptor to poll for a reader that goes away, or None when it has no reader."""
        mode = os.fstat(self.fd).st_mode
        return self.fd if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) else None

    def write(self, lines: list[str]) -> None:
        """Write lines, each with a newline.

        Raises:
            SinkError: the reader is gone, the disk is full, …; says how many lines were written before.
        """
        try:
            self._write(lines)
        except SinkError:
            self.failed = True
            raise

    def _write(self, lines: list[str]) -> None:
        data = memoryview(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:
                select.select([], [self.fd], [])
            except BrokenPipeError:
                raise self.gone() from None
            except OSError as error:
                raise SinkError(
                    f"cannot write to {self._name}: {error.strerror}; {self.lines} lines were written before",
                    hint="make room or give -o another file, and start again",
                ) from None
        self.lines += len(lines)

    def gone(self) -> SinkError:
        """The error for a reader that closed its end."""
        self.failed = True
        return SinkError(
            f"whoever read {self._name} closed it; {self.lines} lines were written before",
            hint="write to a file with -o, or keep the reader running",
        )

    def close(self) -> None:
        """Close the file; standard output stays open, as it was."""
        if self.fd != 1:
            os.close(self.fd)
        else:
            fcntl.fcntl(1, fcntl.F_SETFL, self._flags)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
