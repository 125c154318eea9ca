"""What a family holds when it is attached: sockets by inet_diag, files by /proc/PID/fd, as events of the same kinds."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from pylsm.audit.events import (
    Connect,
    Event,
    FileOpen,
    HeldConnect,
    HeldListen,
    HeldOpen,
    Listen,
)
from pylsm.audit.network import Held, held_sockets, inside, listed_sockets, namespace_of
from pylsm.audit.records import CONNECT, FILE_OPEN, FLAG_UNLINKED, LISTEN, SOURCE_LSM
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.record import Record

if TYPE_CHECKING:
    from typing import Any

__all__ = ["already_open"]

_ACCESS = {os.O_RDONLY: 1, os.O_WRONLY: 2, os.O_RDWR: 3}  # O_ACCMODE → FMODE_READ | FMODE_WRITE
_UNLINKED = b" (deleted)"


def already_open(pids: Iterable[int], kinds: Sequence[str]) -> list[Event]:
    """Events for what processes hold: "connect" and "listen" for sockets, "open" for files.

    Args:
        pids: as /proc shows them, in the initial pid namespace.
        kinds: names of kinds of events; others are left out.

    Pipes, sockets of other families and files that were never opened by a name are none of these. Connections that a
    listening socket of the namespace has accepted are left out.
    """
    found: list[Event] = []
    sockets: dict[int, dict[int, Held]] = {}
    for pid in sorted(pids):
        directory = f"/proc/{pid}"
        try:
            head = _head(pid)
            net_ns = namespace_of(directory, "net")
            mnt_ns = namespace_of(directory, "mnt")
            numbers = sorted(map(int, os.listdir(f"{directory}/fd")))
        except (OSError, ValueError):
            continue  # it has ended
        if {"connect", "listen"} & set(kinds) and net_ns not in sockets:
            held: list[Held] = []
            try:
                held = inside(net_ns, f"{directory}/ns/net", held_sockets)
            except PylsmError:
                with suppress(OSError):
                    held = listed_sockets(directory)
            sockets[net_ns] = {each.inode: each for each in held}
        for number in numbers:
            try:
                target = os.readlink(os.fsencode(f"{directory}/fd/{number}"))
                if target.startswith(b"socket:["):
                    inode = int(target[len(b"socket:[") : -1])
                    event = _socket(head, sockets.get(net_ns, {}).get(inode), kinds)
                elif target.startswith(b"/") and "open" in kinds:
                    event = _file(head, f"{directory}", number, target, mnt_ns)
                else:
                    continue
            except (OSError, ValueError):
                continue  # closed meanwhile
            if event is not None:
                found.append(event)
    return found


def _head(pid: int) -> dict[str, Any]:
    """What every record begins with, of a process as it is now."""
    with open(f"/proc/{pid}/status", "rb") as file:
        fields = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    with open(f"/proc/{pid}/comm", "rb") as file:
        comm = file.read().rstrip(b"\n")
    uid, gid = (int(fields[name].split()[0]) for name in (b"Uid", b"Gid"))
    return {
        "source": SOURCE_LSM,
        "flags": 0,
        "pid_tgid": pid << 32 | pid,
        "uid_gid": gid << 32 | uid,
        "time": time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        "sequence": 0,
        "comm": comm[:15],
        "cpu": 0,
    }


def _event(kind: type[Event], layout: Record, values: dict[str, Any], tail: bytes = b"") -> Event:
    packed = layout.unpacker.pack(*(values[name] for name in layout.fields))
    return kind(packed + tail, time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def _socket(head: dict[str, Any], held: Held | None, kinds: Sequence[str]) -> Event | None:
    if held is None or (Listen.name if held.listens else Connect.name) not in kinds:
        return None
    text, port = (held.source, held.source_port) if held.listens else (held.destination, held.destination_port)
    address = socket.inet_pton(held.family, text).ljust(16, b"\0")
    values = {**head, "family": held.family, "address": address, "port": socket.htons(port)}
    if held.listens:
        values.update(kind=Listen.kind, port=port, backlog=0)
        return _event(HeldListen, LISTEN, values)
    return _event(HeldConnect, CONNECT, {**values, "kind": Connect.kind})


def _file(head: dict[str, Any], directory: str, number: int, target: bytes, mnt_ns: int) -> Event | None:
    with open(f"{directory}/fdinfo/{number}", "rb") as file:
        info = dict(line.split(b":", 1) for line in file.read().splitlines() if b":" in line)
    flags = int(info[b"flags"], 8)
    there = os.stat(f"{directory}/fd/{number}")
    if flags & os.O_PATH or stat.S_ISSOCK(there.st_mode) or target.startswith(b"/memfd:"):
        return None
    unlinked = not there.st_nlink or target.endswith(_UNLINKED)
    values = {
        **head,
        "kind": FileOpen.kind,
        "flags": FLAG_UNLINKED if unlinked else 0,
        "device": os.major(there.st_dev) << 20 | os.minor(there.st_dev),
        "inode": there.st_ino,
        "open_flags": flags & 0xFFFFFFFF,
        "granted": _ACCESS.get(flags & os.O_ACCMODE, 0),
        "mnt_ns": mnt_ns,
    }
    return _event(HeldOpen, FILE_OPEN, values, target + b"\0")
