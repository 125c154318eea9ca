"""Signals as something to poll for, and as they were before once it is over."""

from __future__ import annotations

import os
from contextlib import suppress

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from types import FrameType
    from typing import Any
else:
    import _signal as signal  # without its enums, which cost more than a start has to spare

__all__ = ["Signals"]


_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Signals:
    """Catches signals for a ``with`` block: `fileno` is readable when one came, `take` says which.

    Those that end a process stay ignored if they were ignored before, as under nohup.

    Args:
        *numbers: the signals.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = [n for n in numbers if n not in _ENDING or signal.getsignal(n) != signal.SIG_IGN]
        self._before: list[tuple[signal.Signals, Any]] = []
        self._caught: list[int] = []

    def __enter__(self) -> Signals:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = [(number, signal.signal(number, self._note)) for number in self._numbers]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._caught.append(number)

    def fileno(self) -> int:
        """Readable when a signal was caught."""
        return self._read

    def take(self) -> list[int]:
        """The signals caught since the last call, in order."""
        with suppress(BlockingIOError):
            os.read(self._read, 4096)
        caught, self._caught = self._caught, []
        return caught
