"""A file of JSON lines: ``file:///PATH``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from pylsm.confine.files import open_output
from pylsm.ship.identity import Identity
from pylsm.ship.sinks import Address, DeliveryError, Sink, enrich
from pylsm.ship.spool import Item

__all__ = ["SINK"]

_TAIL_BYTES = 2 << 20


class FileSink(Sink):
    """Appends to a file that is opened while there is privilege to, each event once."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_path()
        self._fd = -1
        self._last: tuple[str, int] = ("", 0)

    def prepare(self, group: int) -> None:
        """Open it."""
        path = self.address.path
        try:
            os.close(open_output(path, append=True))
            self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise self.address.wrong(
                f"cannot write there: {error.strerror}", "name a file in a directory that exists"
            ) from None

    def connect(self, identity: Identity) -> None:
        """Look what is in it: a torn line at its end is cut off, and what is there is not written again."""
        self._identity = identity
        self._end = os.fstat(self._fd).st_size
        start = max(0, self._end - _TAIL_BYTES)
        tail = os.pread(self._fd, self._end - start, start)
        whole = tail.rfind(b"\n") + 1
        if start + whole < self._end:
            self._end = start + whole
            os.ftruncate(self._fd, self._end)
        self._last = ("", 0)
        try:
            spool, number, *_ = json.loads(tail[:whole].splitlines()[-1])["id"].split("-")
            self._last = (spool, int(number))
        except (IndexError, KeyError, ValueError, TypeError, AttributeError):
            pass  # nothing there, or somebody else's

    def send(self, batch: Sequence[Item]) -> int:
        """Append and wait for the disk."""
        spool, number = self._last
        fresh = [item for item in batch if spool != self._identity.spool or item.first > number]
        data = b"".join(enrich(self._identity, item) + b"\n" for item in fresh)
        try:
            done = 0
            while done < len(data):
                done += os.write(self._fd, data[done:])
            os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self._end)
            raise DeliveryError(
                f"{self.address}: {error.strerror}", hint="make room: events wait in the spool meanwhile"
            ) from None
        self._end += len(data)
        return 0


SINK = FileSink
