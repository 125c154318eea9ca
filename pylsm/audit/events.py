"""What happened, as typed values: one frozen class per kind of record."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Union

__all__ = ["Connect", "Event", "FileOpen"]

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)
_FMODE_READ, _FMODE_WRITE = 1, 2


@dataclass(frozen=True)
class Connect:
    """An attempt to connect a socket, whatever became of it.

    Attributes:
        pid, tid: process and thread, in the initial pid namespace.
        uid, gid: real ids in the initial user namespace.
        comm: the thread's name, at most 15 bytes, any bytes but NUL.
        time_ns: Unix time in nanoseconds.
        family: socket.AF_INET or socket.AF_INET6, as the address said (a mapped address: AF_INET6).
        address: 4 or 16 bytes in network order; 4 for an IPv4-mapped IPv6 address.
        port: destination port.
        mapped: the address was an IPv4-mapped IPv6 address.
    """

    __slots__ = ("address", "comm", "family", "gid", "mapped", "pid", "port", "tid", "time_ns", "uid")

    pid: int
    tid: int
    uid: int
    gid: int
    comm: bytes
    time_ns: int
    family: int
    address: bytes
    port: int
    mapped: bool

    @property
    def dst_ip(self) -> str:
        """The destination as text, without brackets or port."""
        return socket.inet_ntop(socket.AF_INET if len(self.address) == 4 else socket.AF_INET6, self.address)


@dataclass(frozen=True)
class FileOpen:
    """A file opened: the kernel allowed it and handed out a file.

    Attributes:
        pid, tid, uid, gid, comm, time_ns: as in `Connect`.
        path: as the process's root sees it, any bytes but NUL.
        open_flags: O_* flags of the file.
        granted: FMODE_* bits, as the kernel granted them.
        device: (major, minor) of the filesystem.
        inode: inode number on that filesystem.
        basename: ``path`` is only the last component, since the full path could not be had.
        truncated: the front of ``path`` is missing.
    """

    __slots__ = (
        "basename",
        "comm",
        "device",
        "gid",
        "granted",
        "inode",
        "open_flags",
        "path",
        "pid",
        "tid",
        "time_ns",
        "truncated",
        "uid",
    )

    pid: int
    tid: int
    uid: int
    gid: int
    comm: bytes
    time_ns: int
    path: bytes
    open_flags: int
    granted: int
    device: tuple[int, int]
    inode: int
    basename: bool
    truncated: bool

    @property
    def mode(self) -> str:
        """ "r", "w" or "rw"; "-" for a file opened for neither (open flags 3: ioctl only)."""
        read, write = self.granted & _FMODE_READ, self.granted & _FMODE_WRITE
        return ("r" if read else "") + ("w" if write else "") or "-"

    @property
    def st_dev(self) -> int:
        """The device as ``os.stat`` gives it on a plain filesystem."""
        return os.makedev(*self.device)


Event = Union[Connect, FileOpen]


def destination(address: bytes, family: int) -> tuple[bytes, bool]:
    """The 16 bytes of a record → (the address, whether it was IPv4-mapped)."""
    if family == socket.AF_INET:
        return address[:4], False
    if address.startswith(_MAPPED):
        return address[12:], True
    return address, False
