"""systemd-journal-remote, by the journal export format over HTTP: ``journal+http://HOST[:19532]``, ``journal+https://HOST``.

The entries are those of `pylsm.ship.sinks.journald`; the server answers when it has written them.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from typing import ClassVar

from pylsm.ship.identity import Identity
from pylsm.ship.sinks import TLS, Address, Denied, Down, Option, Rejected, Sink, failure, tls_context
from pylsm.ship.sinks.fields import kind_of
from pylsm.ship.sinks.journald import entry
from pylsm.ship.spool import Item

__all__ = ["SINK"]

_TIMEOUT_SECONDS = 10.0


class JournalRemote(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {**TLS}

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_host(19532)
        self._context = tls_context(address) if address.scheme == "journal+https" else None
        self._path = address.path if address.path not in ("", "/") else "/upload"
        self._connection: http.client.HTTPConnection | None = None

    def connect(self, identity: Identity) -> None:
        """Connect to the server."""
        self._identity = identity
        # systemd-journal-remote wants a boot of each entry; the spool's name is as good as one.
        self._boot = (identity.spool * 2).encode()
        where = (self.address.host, self.address.port)
        if self._context is None:
            self._connection = http.client.HTTPConnection(*where, timeout=_TIMEOUT_SECONDS)
        else:
            self._connection = http.client.HTTPSConnection(*where, timeout=_TIMEOUT_SECONDS, context=self._context)
        try:
            self._connection.connect()
        except OSError as error:
            raise failure(self.address, error) from None

    def send(self, batch: Sequence[Item]) -> int:
        """Upload them."""
        assert self._connection is not None
        body = b"".join(self._exported(item) for item in batch)
        try:
            self._connection.request(
                "POST", self._path, body, {"Content-Type": "application/vnd.fdo.journal"}, encode_chunked=False
            )
            answer = self._connection.getresponse()
            text = answer.read(200).decode("ascii", "replace").strip()
        except (OSError, http.client.HTTPException) as error:
            raise failure(self.address, error) from None
        if answer.status in (401, 403):
            raise Denied(f"{self.address}: it does not accept our certificate ({answer.status})", hint="?cert=&key=")
        if answer.status in (408, 429) or answer.status >= 500:
            raise Down(f"{self.address}: it answers {answer.status} {text}")
        if answer.status >= 300:
            raise Rejected(f"{self.address}: it answers {answer.status} {text}")
        return 0

    def _exported(self, item: Item) -> bytes:
        _, time_ns = kind_of(item.line)
        head = b"__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=%s\n_HOSTNAME=%s\n" % (
            time_ns // 1000,
            time.monotonic_ns() // 1000,
            self._boot,
            self._identity.name.encode("ascii", "replace"),
        )
        return head + entry(self._identity, item) + b"\n"

    def close(self) -> None:
        """Disconnect."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


SINK = JournalRemote
