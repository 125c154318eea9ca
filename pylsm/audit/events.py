"""What happened, as typed values: one frozen class per kind of record.

An event keeps its record and decodes a field when it is asked for: most readers need few, and a busy family makes
hundreds of thousands a second.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable

from pylsm.audit.records import (
    CONNECT,
    FILE_OPEN,
    FLAG_BASENAME,
    FLAG_TRUNCATED,
    FLAG_UNLINKED,
    KIND_CONNECT,
    KIND_OPEN,
    SOURCE_LSM,
)
from pylsm.light import TYPE_CHECKING
from pylsm.record import Record

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from typing_extensions import TypeAlias

__all__ = ["Connect", "Event", "FileOpen"]

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)
MODES = ("-", "r", "w", "rw")  # by FMODE_READ (1) and FMODE_WRITE (2)
MINOR_BITS = 20  # the kernel's own dev_t: major << 20 | minor (include/linux/kdev_t.h)
_U32 = (1 << 32) - 1


def _reader(record: Record, field: str) -> Callable[[bytes], int]:
    """A function that takes an integer field out of a record's bytes."""
    offset, size = record.field(field)
    unpack = struct.Struct({2: "=H", 4: "=I", 8: "=Q"}[size]).unpack_from
    return lambda data: int(unpack(data, offset)[0])


# The header is the same in both.
_flags, _pid_tgid, _uid_gid, _time = (_reader(FILE_OPEN, name) for name in ("flags", "pid_tgid", "uid_gid", "time"))
_inode, _device, _open_flags, _granted, _mnt_ns = (
    _reader(FILE_OPEN, name) for name in ("inode", "device", "open_flags", "granted", "mnt_ns")
)
_family = _reader(CONNECT, "family")
_COMM = slice(FILE_OPEN.field("comm")[0], sum(FILE_OPEN.field("comm")))
_PORT = slice(CONNECT.field("port")[0], sum(CONNECT.field("port")))
_ADDRESS = slice(CONNECT.field("address")[0], sum(CONNECT.field("address")))


class _Recorded:
    """What every record begins with.

    Attributes:
        record: its bytes, as they came out of the ring.
        clock_ns: Unix time less CLOCK_MONOTONIC when it was read, in nanoseconds.
    """

    __slots__ = ("clock_ns", "record")

    record: bytes
    clock_ns: int

    def __init__(self, record: bytes, clock_ns: int) -> None:
        _set_record(self, record)
        _set_clock(self, clock_ns)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event does not change: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an event does not change: {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return (self.record, self.clock_ns) == (other.record, other.clock_ns)

    def __hash__(self) -> int:
        return hash((self.record, self.clock_ns))

    def __reduce__(self) -> tuple[type[_Recorded], tuple[bytes, int]]:
        return type(self), (self.record, self.clock_ns)

    @property
    def pid(self) -> int:
        """The process, in the initial pid namespace."""
        return _pid_tgid(self.record) >> 32

    @property
    def tid(self) -> int:
        """The thread, in the initial pid namespace."""
        return _pid_tgid(self.record) & _U32

    @property
    def uid(self) -> int:
        """The real uid, in the initial user namespace."""
        return _uid_gid(self.record) & _U32

    @property
    def gid(self) -> int:
        """The real gid, in the initial user namespace."""
        return _uid_gid(self.record) >> 32

    @property
    def comm(self) -> bytes:
        """The thread's name: at most 15 bytes, any but NUL."""
        return self.record[_COMM].partition(b"\0")[0]

    @property
    def time_ns(self) -> int:
        """Unix time in nanoseconds."""
        return _time(self.record) + self.clock_ns


# A slot is set by its descriptor, since the class's own __setattr__ refuses.
_set_record: Callable[[_Recorded, bytes], None] = _Recorded.record.__set__  # type: ignore[attr-defined,misc]
_set_clock: Callable[[_Recorded, int], None] = _Recorded.clock_ns.__set__  # type: ignore[attr-defined,misc]


class Connect(_Recorded):
    """An attempt to connect a socket, whatever became of it."""

    __slots__ = ()

    @property
    def family(self) -> int:
        """socket.AF_INET or socket.AF_INET6, as the address said (a mapped address: AF_INET6)."""
        return _family(self.record)

    @property
    def port(self) -> int:
        """Destination port."""
        return int.from_bytes(self.record[_PORT], "big")

    @property
    def mapped(self) -> bool:
        """The address was an IPv4-mapped IPv6 address."""
        return self.family != socket.AF_INET and self.record[_ADDRESS].startswith(_MAPPED)

    @property
    def address(self) -> bytes:
        """4 or 16 bytes in network order; 4 for an IPv4-mapped IPv6 address."""
        raw = self.record[_ADDRESS]
        if self.family == socket.AF_INET:
            return raw[:4]
        return raw[len(_MAPPED) :] if raw.startswith(_MAPPED) else raw

    @property
    def dst_ip(self) -> str:
        """The destination as text, without brackets or port."""
        address = self.address
        return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)

    @classmethod
    def make(cls, **fields: Any) -> Connect:
        """An event from the fields of its record (`records.CONNECT`), 0 where none is given; for tests and tools."""
        return cls(_record(CONNECT, KIND_CONNECT, fields), 0)

    def __repr__(self) -> str:
        return f"Connect(pid={self.pid}, comm={self.comm!r}, dst_ip={self.dst_ip!r}, port={self.port})"


class FileOpen(_Recorded):
    """A file opened: the kernel allowed it and handed out a file."""

    __slots__ = ()

    @property
    def path(self) -> bytes:
        """The path as the process's root sees it; any bytes but NUL."""
        return self.record[FILE_OPEN.size :].partition(b"\0")[0]

    @property
    def open_flags(self) -> int:
        """O_* flags of the file."""
        return _open_flags(self.record)

    @property
    def granted(self) -> int:
        """FMODE_* bits, as the kernel granted them."""
        return _granted(self.record)

    @property
    def mode(self) -> str:
        """ "r", "w" or "rw"; "-" for a file opened for neither (open flags 3: ioctl only)."""
        return MODES[_granted(self.record) & 3]

    @property
    def device(self) -> tuple[int, int]:
        """(major, minor) of the filesystem."""
        device = _device(self.record)
        return device >> MINOR_BITS, device & (1 << MINOR_BITS) - 1

    @property
    def st_dev(self) -> int:
        """The device as ``os.stat`` gives it on a plain filesystem."""
        return os.makedev(*self.device)

    @property
    def inode(self) -> int:
        """Inode number on that filesystem."""
        return _inode(self.record)

    @property
    def basename(self) -> bool:
        """``path`` is only the last component, since the directories above could not be read."""
        return bool(_flags(self.record) & FLAG_BASENAME)

    @property
    def truncated(self) -> bool:
        """The front of ``path`` is missing."""
        return bool(_flags(self.record) & FLAG_TRUNCATED)

    @property
    def unlinked(self) -> bool:
        """The file has no name any more; ``path`` then ends in " (deleted)", which a name can do as well."""
        return bool(_flags(self.record) & FLAG_UNLINKED)

    @property
    def mnt_ns(self) -> int:
        """The process's mount namespace, in which ``path`` is meant: the inode of /proc/PID/ns/mnt."""
        return _mnt_ns(self.record)

    @classmethod
    def make(cls, **fields: Any) -> FileOpen:
        """An event from the fields of its record (`records.FILE_OPEN`), 0 where none is given; for tests and tools."""
        return cls(_record(FILE_OPEN, KIND_OPEN, {"path": b"", **fields}), 0)

    def __repr__(self) -> str:
        return f"FileOpen(pid={self.pid}, comm={self.comm!r}, mode={self.mode!r}, path={self.path!r})"


Event: TypeAlias = "Connect | FileOpen"


def _record(layout: Record, kind: int, fields: dict[str, Any]) -> bytes:
    blank = layout.unpack(bytes(layout.size))
    values = {**blank, "source": SOURCE_LSM, "kind": kind, **fields}
    for name in ("comm", "address"):
        if name in values:
            values[name] = values[name].ljust(layout.field(name)[1], b"\0")
    if layout.tail_name:
        values[layout.tail_name] += b"\0"
    return layout.pack(values)
