"""The journal of this host: ``journald:///run/systemd/journal/socket``, by its native protocol
(systemd.io/JOURNAL_NATIVE_PROTOCOL).

The fields of an event are fields of the entry: ``PYLSM_PATH``, ``PYLSM_DST_IP`` …; its line of JSON is ``MESSAGE``.
``journalctl SYSLOG_IDENTIFIER=pylsm PYLSM_EVENT=connect -o json`` finds them.

An event counts as delivered when journald has read it, and goes on for a moment.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios
import time
from collections.abc import Sequence
from errno import EMSGSIZE, ENOBUFS
from typing import ClassVar

from pylsm.ship.identity import Identity
from pylsm.ship.sinks import Address, Down, Option, Sink, duration, enrich, failure
from pylsm.ship.sinks.fields import fields_of, kind_of
from pylsm.ship.spool import LOST, Item

__all__ = ["SINK", "entry"]

_TIMEOUT_SECONDS = 10.0
_SOCKET = "/run/systemd/journal/socket"
_INFORMATIONAL, _WARNING = b"6", b"4"


def entry(identity: Identity, item: Item) -> bytes:
    """The fields of an entry, in the form that the native protocol and the export format have in common."""
    kind, time_ns = kind_of(item.line)
    parts = [
        _field(b"MESSAGE", enrich(identity, item)),
        _field(b"PRIORITY", _WARNING if kind == LOST else _INFORMATIONAL),
        _field(b"SYSLOG_IDENTIFIER", b"pylsm"),
        _field(b"SYSLOG_TIMESTAMP", str(time_ns // 1000).encode()),
        _field(b"PYLSM_ID", identity.event_id(item.first, item.last).encode()),
        _field(b"PYLSM_HOST", identity.host.encode()),
    ]
    for name, value in fields_of(item.line).items():
        key = b"PYLSM_" + name.upper().encode("ascii", "replace")
        if not key.replace(b"_", b"").isalnum() or value is None or len(key) > 64:
            continue
        for one in value if isinstance(value, list) else [value]:
            text = str(one).lower() if isinstance(one, bool) else str(one)
            parts.append(_field(key, text.encode("utf-8", "surrogateescape")))
    return b"".join(parts)


def _field(name: bytes, value: bytes) -> bytes:
    """Always with its length: a value may hold anything."""
    return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"


class Journald(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "settle": Option("how long journald must go on after it has read an event (default: 1s)", duration, 1.0)
    }
    batch = 500

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        if address.host:
            raise address.wrong("it names a host", "journal+http:// is for systemd-journal-remote elsewhere")
        self._path = address.path if address.path not in ("", "/") else _SOCKET
        self.settle = address.options["settle"]
        self._socket: socket.socket | None = None

    def connect(self, identity: Identity) -> None:
        """Connect to the socket."""
        self._identity = identity
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        try:
            self._socket.connect(self._path)
        except OSError as error:
            raise failure(self.address, error) from None

    def send(self, batch: Sequence[Item]) -> int:
        """An entry in a datagram each; wait until they are read."""
        assert self._socket is not None
        try:
            for item in batch:
                self._send(self._socket, entry(self._identity, item))
            deadline = time.monotonic() + _TIMEOUT_SECONDS
            while self._outstanding():
                if time.monotonic() > deadline:
                    raise Down(f"{self.address}: journald reads nothing")
                time.sleep(0.001)
        except OSError as error:
            raise failure(self.address, error) from None
        return 0

    @staticmethod
    def _send(connection: socket.socket, data: bytes) -> None:
        try:
            connection.send(data)
        except OSError as error:
            if error.errno not in (EMSGSIZE, ENOBUFS):
                raise
            # Too large for a datagram: it goes as a file in memory that nobody can change any more.
            memory = os.memfd_create("pylsm", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                os.write(memory, data)
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
                fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
                connection.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memory]))])
            finally:
                os.close(memory)

    def _outstanding(self) -> int:
        assert self._socket is not None
        return int(struct.unpack("=i", fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0])

    def alive(self) -> bool:
        """Whether the same journald still has the socket."""
        if self._socket is None:
            return False
        try:
            self._socket.getpeername()
            self._socket.send(b"")  # journald passes over what has no field; nobody there: refused
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close the socket."""
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()


SINK = Journald
