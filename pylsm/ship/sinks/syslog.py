"""Syslog (RFC 5424): ``syslog+tcp://HOST``, ``syslog+tls://HOST`` (RFC 5425), ``syslog+unix:///dev/log``.

Over TCP and TLS messages are counted (RFC 6587, RFC 5425). The message is the event's line of JSON, its kind is MSGID,
its number and id are structured data.

The protocol has no acknowledgements. An event counts as delivered when the other side's kernel has acknowledged its
bytes and the connection has stood for some seconds more (``settle``), in which the server reads what its kernel has; if
it breaks before, all behind the last that counts is sent again.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
import time
from collections.abc import Sequence
from errno import EPROTOTYPE
from typing import ClassVar

from pylsm.ship.identity import Identity
from pylsm.ship.sinks import TLS, Address, Down, Option, Sink, duration, enrich, failure, tls_context
from pylsm.ship.sinks.fields import kind_of, utc
from pylsm.ship.spool import LOST, Item

__all__ = ["SINK"]

_FACILITIES = {
    **dict(
        zip(("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv"), range(11))
    ),
    "audit": 13,
    **{f"local{n}": 16 + n for n in range(8)},
}
_INFORMATIONAL, _WARNING = 6, 4
#: RFC 5612: the enterprise number for examples, since this project has none of its own.
_STRUCTURE = "pylsm@32473"
_TIMEOUT_SECONDS = 10.0
_SEQUENCE_MASK = (1 << 31) - 1  # RFC 5424, 7.3.1


def _facility(text: str) -> int:
    if text not in _FACILITIES:
        raise ValueError(f"not one of {', '.join(_FACILITIES)}")
    return _FACILITIES[text]


class Syslog(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        **TLS,
        "facility": Option("facility of the messages (default: local0)", _facility, _FACILITIES["local0"]),
        "settle": Option("how long a connection must stand until what was sent counts as delivered", duration, 5.0),
    }

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._unix = address.scheme == "syslog+unix"
        self.settle = address.options["settle"]
        if self._unix:
            address.need_path()
            self.readable = (address.path,)
        elif address.scheme == "syslog+tls":
            address.need_host(6514)
            self._context = tls_context(address)
        else:
            address.need_host(514)
        self._facility = address.options["facility"] * 8

    def connect(self, identity: Identity) -> None:
        """Open the connection."""
        self._identity = identity
        try:
            self._socket, self._datagrams = self._open()
            self._socket.settimeout(_TIMEOUT_SECONDS)
        except OSError as error:
            raise failure(self.address, error) from None

    def _open(self) -> tuple[socket.socket, bool]:
        address = self.address
        if self._unix:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                local = socket.socket(socket.AF_UNIX, kind)
                try:
                    local.connect(address.path)
                except OSError as error:
                    local.close()
                    if error.errno == EPROTOTYPE and kind == socket.SOCK_DGRAM:
                        continue
                    raise
                return local, kind == socket.SOCK_DGRAM
        plain = socket.create_connection((address.host, address.port), timeout=_TIMEOUT_SECONDS)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._context is None:
            return plain, False
        try:
            return self._context.wrap_socket(plain, server_hostname=address.host), False
        except BaseException:
            plain.close()
            raise

    def send(self, batch: Sequence[Item]) -> int:
        """Send, and wait until the other side's kernel has it all."""
        assert self._socket is not None
        messages = [self._message(item) for item in batch]
        try:
            if self._datagrams:
                for message in messages:
                    self._socket.send(message)
            elif self._unix:
                self._socket.sendall(b"".join(message + b"\n" for message in messages))
            else:
                self._socket.sendall(b"".join(b"%d %s" % (len(message), message) for message in messages))
            deadline = time.monotonic() + _TIMEOUT_SECONDS
            pause = 0.0005
            while self._outstanding():
                if not self._stands():
                    raise Down(f"{self.address}: it closed the connection")
                if time.monotonic() > deadline:
                    raise Down(f"{self.address}: it takes nothing", hint="is the server stuck, or its own queue full?")
                time.sleep(pause)
                pause = min(2 * pause, 0.02)
        except OSError as error:
            raise failure(self.address, error) from None
        return 0

    def _message(self, item: Item) -> bytes:
        kind, time_ns = kind_of(item.line)
        priority = self._facility + (_WARNING if kind == LOST else _INFORMATIONAL)
        head = (
            f"<{priority}>1 {utc(time_ns)} {self._identity.name[:255] or '-'} pylsm - {kind[:32]} "
            f'[meta sequenceId="{item.first & _SEQUENCE_MASK or 1}"]'
            f'[{_STRUCTURE} id="{self._identity.event_id(item.first, item.last)}"] '
        )
        return head.encode("ascii", "replace") + enrich(self._identity, item)

    def _outstanding(self) -> int:
        """Bytes that the other side's kernel (a unix socket's: its reader) has not taken."""
        assert self._socket is not None
        answer = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4))
        return int(struct.unpack("=i", answer)[0])

    def _stands(self) -> bool:
        """Whether the connection has not been closed by the other side."""
        assert self._socket is not None
        if self._datagrams:
            return True
        self._socket.setblocking(False)
        try:
            return self._socket.recv(1024) != b""
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            self._socket.settimeout(_TIMEOUT_SECONDS)

    def alive(self) -> bool:
        """Whether it stands and nothing is on its way."""
        try:
            return self._socket is not None and self._stands() and not self._outstanding()
        except OSError:
            return False

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


SINK = Syslog
