"""Whose events they are: a name for this host and one for the spool, so that every event has an id of its own."""

from __future__ import annotations

import hmac
import json
import os
import socket
from typing import NamedTuple

from pylsm.ship.spool import SpoolError

__all__ = ["Identity", "identify"]

_FILE = "identity"
#: What the machine's id is hashed with, as machine-id(5) asks for: that id itself is not to be shown to others.
_APPLICATION = bytes.fromhex("9a1d6c3ae1c84f2b8f6f3b5d70796c73")


class Identity(NamedTuple):
    """Who delivers.

    Attributes:
        host: of this installation of the system, 32 hexadecimal digits; the same after a restart.
        name: the host's name now.
        spool: of the spool, 16 hexadecimal digits; another for each spool that is made.
    """

    host: str
    name: str
    spool: str

    def event_id(self, first: int, last: int) -> str:
        """The id of an event, the same however often it is delivered and never another's.

        Args:
            first: its number in the spool.
            last: the same, or of a loss the number of the last record that is missing.
        """
        return f"{self.spool}-{first}" if first == last else f"{self.spool}-{first}-{last}"


def identify(directory: str) -> Identity:
    """The identity that a spool was made with; a new spool gets one.

    Raises:
        SpoolError: the file that has it is damaged.
    """
    path = os.path.join(directory, _FILE)
    try:
        with open(path, "rb") as file:
            data = file.read(4096)
    except FileNotFoundError:
        data = json.dumps({"version": 1, "host": _host(), "spool": os.urandom(8).hex()}).encode() + b"\n"
        fresh = f"{path}.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(fresh, path)
    try:
        found = json.loads(data)
        host, spool = str(found["host"]), str(found["spool"])
        bytes.fromhex(host + spool)
    except (ValueError, KeyError, TypeError):
        raise SpoolError(
            f"{path} is damaged: {data[:40]!r}",
            hint="remove that file: the events get ids of a new spool, and may come twice once",
        ) from None
    return Identity(host, socket.gethostname(), spool)


def _host() -> str:
    """The machine's id, hashed; where there is none, a random one, kept with the spool."""
    try:
        with open("/etc/machine-id", "rb") as file:
            machine = bytes.fromhex(file.read().strip().decode("ascii"))
    except (OSError, ValueError):
        machine = b""
    if len(machine) != 16 or not any(machine):
        return os.urandom(16).hex()
    return hmac.new(machine, _APPLICATION, "sha256").digest()[:16].hex()
