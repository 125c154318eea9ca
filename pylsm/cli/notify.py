"""Telling a service manager how it goes (sd_notify(3)): ready once the audit sees its own events, and then alive."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

__all__ = ["Notifier", "notifier"]


def notifier() -> Notifier | None:
    """The service manager that waits to be told, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    return Notifier(path) if path[:1] in ("/", "@") else None


class Notifier:
    """A connected socket: it goes on working when no other can be opened any more.

    Args:
        path: of NOTIFY_SOCKET; "@" begins the name of an abstract socket.

    Attributes:
        period: seconds between two signs of life, half of what the manager waits; 0: it does not wait for any.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        with suppress(OSError):
            self._socket.connect("\0" + path[1:] if path[0] == "@" else path)
        microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self.period = int(microseconds) / 2e6 if mine and microseconds.isdecimal() else 0.0

    def tell(self, state: str) -> None:
        """Say a state such as "READY=1"; a manager that does not listen is passed over."""
        with suppress(OSError):
            os.write(self._socket.fileno(), state.encode())  # sendto(2) may be forbidden by now

    def alive(self) -> None:
        """A sign of life."""
        self.tell("WATCHDOG=1")
