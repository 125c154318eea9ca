"""A local store of events: one SQLite database, written by the sink ``sqlite``, searched by ``pylsm query``."""

from __future__ import annotations

import ipaddress
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from pylsm.errors import PylsmError
from pylsm.ship.identity import Identity
from pylsm.ship.sinks import enrich
from pylsm.ship.sinks.fields import fields_of, kind_of
from pylsm.ship.spool import Item

__all__ = ["Query", "Store", "StoreError", "packed", "search"]

_VERSION = 1
# An address is 16 bytes, IPv4 as ::ffff:a.b.c.d: networks are ranges of it.
_SCHEMA = f"""
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE sources (
    source INTEGER PRIMARY KEY, spool TEXT NOT NULL UNIQUE, host TEXT NOT NULL, host_name TEXT NOT NULL
);
CREATE TABLE events (
    row INTEGER PRIMARY KEY, source INTEGER NOT NULL, number INTEGER NOT NULL, last INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, event TEXT NOT NULL, pid INTEGER, uid INTEGER, comm TEXT, exe TEXT, path TEXT,
    ip BLOB, port INTEGER, line TEXT NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (source, number, last);
CREATE INDEX events_time ON events (time_ns);
CREATE INDEX events_path ON events (path) WHERE path IS NOT NULL;
CREATE INDEX events_ip ON events (ip) WHERE ip IS NOT NULL;
PRAGMA user_version = {_VERSION};
"""
_INSERT = f"INSERT OR IGNORE INTO events VALUES (NULL{', ?' * 13})"
#: Of what is over the bound, as much more is removed as makes this part of it, so that it is not done for each batch.
_SHRINK_TO = 0.95
_REMOVE_AT_A_TIME = 5000


class StoreError(PylsmError):
    """A store that cannot be opened or searched."""


class Store:
    """The database, to be written to.

    Args:
        path: of the file, made where there is none.
        identity: whose events are added.

    Raises:
        StoreError: the file is none of ours, or of a later version.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: str, identity: Identity) -> None:
        self._identity = identity
        self._database = sqlite3.connect(path, timeout=10, isolation_level=None)
        try:
            version = _version(self._database, path)
            if version is None:
                self._database.executescript(_SCHEMA)
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.execute(
                "INSERT INTO sources (spool, host, host_name) VALUES (?, ?, ?) "
                "ON CONFLICT (spool) DO UPDATE SET host_name = excluded.host_name",
                (identity.spool, identity.host, identity.name),
            )
            (self._source,) = self._database.execute(
                "SELECT source FROM sources WHERE spool = ?", (identity.spool,)
            ).fetchone()
        except BaseException:
            self._database.close()
            raise

    def add(self, items: Sequence[Item]) -> None:
        """Add events, on the disk when this returns; those that are there already are left as they are.

        Raises:
            sqlite3.Error: nothing of them was added.
        """
        rows = [self._row(item) for item in items]
        self._database.execute("BEGIN IMMEDIATE")
        try:
            self._database.executemany(_INSERT, rows)
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _row(self, item: Item) -> tuple[object, ...]:
        fields = fields_of(item.line)
        kind, time_ns = kind_of(item.line)
        number = {key: value for key in ("pid", "uid") if type(value := fields.get(key)) is int}
        text = {key: value for key in ("comm", "exe", "path") if isinstance(value := fields.get(key), str)}
        address, port = fields.get("dst_ip", fields.get("src_ip")), fields.get("dport", fields.get("sport"))
        return (
            *(self._source, item.first, item.last, time_ns, kind),
            *(number.get("pid"), number.get("uid"), text.get("comm"), text.get("exe"), text.get("path")),
            *(packed(address) if isinstance(address, str) else None, port if type(port) is int else None),
            enrich(self._identity, item).decode("ascii"),
        )

    def retain(self, max_bytes: int, max_age: float) -> int:
        """Remove what is too old, and the oldest of what is too much.

        Args:
            max_bytes: of the database; 0: any.
            max_age: in seconds; 0: any.

        Returns:
            How many events were removed.
        """
        removed = 0
        if max_age:
            before = time.time_ns() - int(max_age * 1e9)
            removed += self._database.execute("DELETE FROM events WHERE time_ns < ?", (before,)).rowcount
        if max_bytes and self._bytes() > max_bytes:
            while self._bytes() > max_bytes * _SHRINK_TO:
                gone = self._database.execute(
                    "DELETE FROM events WHERE row IN (SELECT row FROM events ORDER BY row LIMIT ?)",
                    (_REMOVE_AT_A_TIME,),
                ).rowcount
                if not gone:
                    break
                removed += gone
        if removed:
            # A script: it is stepped to its end, where a statement without columns is stepped once, and frees one page.
            self._database.executescript("PRAGMA incremental_vacuum")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return removed

    def _bytes(self) -> int:
        def pragma(name: str) -> int:
            return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

        return (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")

    def close(self) -> None:
        """Close the database."""
        self._database.close()


def _version(database: sqlite3.Connection, path: str) -> int | None:
    """The version of the store in a database; None for an empty one."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0 and not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return None
    if version != _VERSION:
        what = f"a store of version {version}" if version > _VERSION else "no store of pylsm's"
        raise StoreError(f"{path} is {what}; this pylsm knows version {_VERSION}", hint="name another file")
    return _VERSION


def packed(address: str) -> bytes | None:
    """An address as 16 bytes, IPv4 mapped; None: it is none."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    return parsed.packed if parsed.version == 6 else b"\0" * 10 + b"\xff\xff" + parsed.packed


class Query(NamedTuple):
    """What to search for; all that is given must be so. Globs are SQLite's: ``*`` matches ``/`` too.

    Attributes:
        events: kinds.
        pids: processes, one of them.
        uid: the user.
        comm: a glob for the thread's name.
        exe: a glob for the executable.
        path: a glob for the file.
        network: destinations (or sources) in it.
        port: that port.
        since: Unix time in nanoseconds, inclusive.
        until: Unix time in nanoseconds, exclusive.
        host: name or id of the host.
        limit: the newest so many; 0: all.
    """

    events: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    uid: int | None = None
    comm: str | None = None
    exe: str | None = None
    path: str | None = None
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    port: int | None = None
    since: int | None = None
    until: int | None = None
    host: str | None = None
    limit: int = 0


def search(path: str, query: Query) -> Iterator[str]:
    """Lines of the events that match, in the order in which they arrived, as JSON.

    Raises:
        StoreError: there is no store, or it is damaged.
    """
    where: list[str] = []
    values: list[object] = []

    def add(condition: str, *given: object) -> None:
        where.append(condition)
        values.extend(given)

    for column, several in (("event", query.events), ("pid", query.pids)):
        if several:
            add(f"{column} IN (?{', ?' * (len(several) - 1)})", *several)
    for column, glob in (("comm", query.comm), ("exe", query.exe), ("path", query.path)):
        if glob is not None:
            add(f"{column} GLOB ?", glob)
    for column, number in (("uid", query.uid), ("port", query.port)):
        if number is not None:
            add(f"{column} = ?", number)
    if query.network is not None:
        add("ip BETWEEN ? AND ?", packed(str(query.network[0])), packed(str(query.network[-1])))
    if query.since is not None:
        add("time_ns >= ?", query.since)
    if query.until is not None:
        add("time_ns < ?", query.until)
    if query.host is not None:
        add("source IN (SELECT source FROM sources WHERE host_name = ? OR host = ?)", query.host, query.host)
    chosen = f"SELECT row, line FROM events{' WHERE ' + ' AND '.join(where) if where else ''}"
    if query.limit:
        chosen = f"SELECT * FROM ({chosen} ORDER BY row DESC LIMIT {query.limit})"
    try:
        with closing(sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True, timeout=10)) as database:
            if _version(database, path) is None:
                raise StoreError(f"{path} is an empty database", hint="name the file that --sink sqlite:// writes to")
            for _, line in database.execute(f"{chosen} ORDER BY row", values):
                yield line
    except sqlite3.Error as error:
        raise StoreError(
            f"cannot search {path}: {error}", hint="name the file that --sink sqlite:// writes to, or its copy"
        ) from None


def _quoted(path: str) -> str:
    from urllib.parse import quote

    return quote(path)
