"""A local store: ``sqlite:///PATH``, one file, searched by ``pylsm query``."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from pylsm.errors import PylsmError
from pylsm.ship.identity import Identity
from pylsm.ship.sinks import Address, DeliveryError, Option, Sink, duration, size
from pylsm.ship.spool import Item
from pylsm.ship.store import Store

__all__ = ["SINK"]

_RETAIN_SECONDS = 10.0


class Sqlite(Sink):
    """See the module."""

    OPTIONS: ClassVar[dict[str, Option]] = {
        "max_size": Option(
            "remove the oldest events when the file is larger, for example 2G (default: 1G)", size, 1 << 30
        ),
        "max_age": Option("remove events that are older, for example 30d (default: kept)", duration, 0.0),
    }
    batch = 2000

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        address.need_path()
        self._directory = os.path.dirname(address.path)
        self.writable = (self._directory,)
        self._store: Store | None = None
        self._retained = 0.0

    def prepare(self, group: int) -> None:
        """Make the directory: SQLite makes further files beside the database."""
        try:
            os.mkdir(self._directory, 0o750)
        except FileExistsError:
            return
        except OSError as error:
            raise self.address.wrong(
                f"{self._directory} cannot be made: {error.strerror}", "name a file in a directory that exists"
            ) from None
        if group >= 0:
            os.chown(self._directory, -1, group)
            os.chmod(self._directory, 0o2770)

    def connect(self, identity: Identity) -> None:
        """Open the database."""
        if not os.access(self._directory, os.W_OK):
            raise DeliveryError(
                f"{self.address}: {self._directory} is not writable for uid {os.geteuid()}, who delivers",
                hint="name a file in a directory that does not exist yet, which is then made for it, or chgrp that one",
            )
        try:
            self._store = Store(self.address.path, identity)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        except PylsmError as error:
            raise DeliveryError(f"{self.address}: {error}", hint=error.hint) from None

    def send(self, batch: Sequence[Item]) -> int:
        """Add them in one transaction."""
        assert self._store is not None
        try:
            self._store.add(batch)
            if time.monotonic() - self._retained >= _RETAIN_SECONDS:
                self._retain(self._store)
        except sqlite3.Error as error:
            raise self._failed(error) from None
        return 0

    def _retain(self, store: Store) -> None:
        self._retained = time.monotonic()
        store.retain(self.address.options["max_size"], self.address.options["max_age"])

    def _failed(self, error: sqlite3.Error) -> DeliveryError:
        return DeliveryError(
            f"{self.address}: {error}", hint="is there room on its disk? Events wait in the spool meanwhile"
        )

    def close(self) -> None:
        """Close the database."""
        store, self._store = self._store, None
        if store is None:
            return
        with suppress(sqlite3.Error):
            self._retain(store)
        store.close()


SINK = Sqlite
