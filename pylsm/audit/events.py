"""What happened, as typed values: one class per kind of record, and the table of kinds.

An event keeps its record and decodes a field when it is asked for: most readers need few, and a busy family makes
hundreds of thousands a second.

A kind is its class here: its number and layout (from which `pylsm.audit.decode` makes events), its fields in the
output and the words of its line (from which `pylsm.output` makes text and JSON), and what docs/events.md says of it.
The program that records it is its row in `pylsm.audit.programs.table`.
"""

from __future__ import annotations

import _socket as socket  # without what socket adds to it, which costs a third of what starting Python does
import os
import struct
from collections.abc import Callable, Iterable
from operator import attrgetter

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
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.record import Record

if TYPE_CHECKING:
    from typing import Any, ClassVar, Final, NoReturn, TypeVar

    _E = TypeVar("_E", bound="Event")

__all__ = ["COMMON", "DEFAULT", "KINDS", "Connect", "Event", "Field", "FileOpen", "choose"]

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)
MODES = ("-", "r", "w", "rw")  # by FMODE_READ (1) and FMODE_WRITE (2)
MINOR_BITS = 20  # the kernel's own dev_t: major << 20 | minor (include/linux/kdev_t.h)
_U32 = (1 << 32) - 1


class Field(NamedTuple):
    """A field of an event in the output.

    Attributes:
        name: in JSON.
        meaning: for the documentation.
        of: its value for an event: an int, a bool, bytes that anybody may have chosen, a str that needs no escaping, or
            a tuple of bytes or of str.
    """

    name: str
    meaning: str
    of: Callable[[Any], Any]


def _field(name: str, meaning: str, of: Callable[[Any], Any] | None = None) -> Field:
    return Field(name, meaning, of or attrgetter(name))


def _reader(record: Record, field: str) -> Callable[[bytes], int]:
    """A function that takes an integer field out of a record's bytes."""
    offset, size = record.field(field)
    unpack = struct.Struct({2: "=H", 4: "=I", 8: "=Q"}[size]).unpack_from
    return lambda data: int(unpack(data, offset)[0])


# The header is the same in all.
_flags, _pid_tgid, _uid_gid, _time, _sequence, _cpu = (
    _reader(FILE_OPEN, name) for name in ("flags", "pid_tgid", "uid_gid", "time", "sequence", "cpu")
)
_inode, _device, _open_flags, _granted, _mnt_ns = (
    _reader(FILE_OPEN, name) for name in ("inode", "device", "open_flags", "granted", "mnt_ns")
)
_family = _reader(CONNECT, "family")
_COMM = slice(FILE_OPEN.field("comm")[0], sum(FILE_OPEN.field("comm")))
_PORT = slice(CONNECT.field("port")[0], sum(CONNECT.field("port")))
_ADDRESS = slice(CONNECT.field("address")[0], sum(CONNECT.field("address")))


class Event:
    """What every record begins with. Events are immutable, and equal when their bytes and their clock are.

    Args:
        record: its bytes, as they came out of the ring.
        clock_ns: Unix time less CLOCK_BOOTTIME when it was read, in nanoseconds.

    Class attributes, of each kind:
        name: of the kind, as in ``--events`` and in the output.
        kind: its number in a record.
        layout: of its record.
        programs: names of the programs that record it, each in some of the sources.
        default: it is recorded unless events are chosen.
        summary: what it is, for the documentation.
        fields: in JSON, behind those of all (`COMMON`).
        line: the words of its text line, behind pid and comm: (label, attribute). A value that is None or empty is left
            out, bytes are escaped, a tuple is joined by commas.
        flag_names: attributes that ``flags`` lists when they are true.
    """

    __slots__ = ("clock_ns", "record")

    record: bytes
    clock_ns: int

    name: ClassVar[str]
    kind: ClassVar[int]
    layout: ClassVar[Record]
    programs: ClassVar[tuple[str, ...]]
    default: ClassVar[bool] = False
    summary: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]] = ()
    line: ClassVar[tuple[tuple[str, str], ...]] = ()
    flag_names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, record: bytes, clock_ns: int) -> None:
        object.__setattr__(self, "record", record)
        object.__setattr__(self, "clock_ns", clock_ns)

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

    @property
    def cpu(self) -> int:
        """The processor it happened on."""
        return _cpu(self.record)

    @property
    def sequence(self) -> int:
        """Its number on that processor, counted from 0 since the programs were loaded. A gap is a record lost; of two
        processes, one of which interrupts the other, the later number can come first."""
        return _sequence(self.record)

    @property
    def flags(self) -> tuple[str, ...]:
        """What is unusual about it: those of ``flag_names`` that are true."""
        return tuple(name for name in self.flag_names if getattr(self, name))

    @classmethod
    def make(cls: type[_E], **fields: Any) -> _E:
        """An event from the fields of its record (``layout``), 0 where none is given; for tests and tools."""
        layout = cls.layout
        blank = layout.unpack(bytes(layout.size))
        values = {**blank, "source": SOURCE_LSM, "kind": cls.kind, **fields}
        for name in ("comm", "address"):
            if name in values:
                values[name] = values[name].ljust(layout.field(name)[1], b"\0")
        if layout.tail_name:
            values[layout.tail_name] += b"\0"
        return cls(layout.pack(values), 0)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event does not change: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an event does not change: {name!r} cannot be deleted")

    def __reduce__(self) -> tuple[type[Event], tuple[bytes, int]]:
        return type(self), (self.record, self.clock_ns)  # copy and pickle, past __setattr__

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.record == other.record and self.clock_ns == other.clock_ns

    def __hash__(self) -> int:
        return hash((self.record, self.clock_ns))

    def __repr__(self) -> str:
        shown = "".join(f", {name}={getattr(self, name)!r}" for _, name in self.line if name != "flags")
        return f"{type(self).__name__}(pid={self.pid}, comm={self.comm!r}{shown})"


class Connect(Event):
    """An attempt to connect a socket, whatever became of it."""

    __slots__ = ()

    name = "connect"
    kind = KIND_CONNECT
    layout = CONNECT
    programs = ("socket_connect", "sys_enter")
    default = True
    summary = "an attempt to connect a socket over IPv4 or IPv6, whatever becomes of it, with the address as given"
    flag_names = ("v4mapped",)
    line = (("dst", "dst"), ("flags", "flags"))
    fields = (
        _field("dst_ip", "destination"),
        _field("dport", "its port", attrgetter("port")),
        _field("family", '`"ipv4"` or `"ipv6"`, as the address said', attrgetter("family_name")),
        _field("v4mapped", "the address was `::ffff:a.b.c.d`; `dst_ip` is the IPv4 address"),
    )

    @property
    def family(self) -> int:
        """socket.AF_INET or socket.AF_INET6, as the address said (a mapped address: AF_INET6)."""
        return _family(self.record)

    @property
    def family_name(self) -> str:
        """ "ipv4" or "ipv6", as `family`."""
        return "ipv4" if self.family == socket.AF_INET else "ipv6"

    @property
    def port(self) -> int:
        """Destination port."""
        return int.from_bytes(self.record[_PORT], "big")

    @property
    def mapped(self) -> bool:
        """The address was an IPv4-mapped IPv6 address."""
        return self.family != socket.AF_INET and self.record[_ADDRESS].startswith(_MAPPED)

    v4mapped = mapped

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

    @property
    def dst(self) -> str:
        """Destination and port: "192.0.2.1:443", "[2001:db8::1]:443"."""
        host = self.dst_ip
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class FileOpen(Event):
    """A file opened: the kernel allowed it and handed out a file."""

    __slots__ = ()

    name = "open"
    kind = KIND_OPEN
    layout = FILE_OPEN
    programs = ("file_open", "sys_exit")
    default = True
    summary = "a file opened, once per process incarnation (start time and exec), device, inode and access mode"
    flag_names = ("basename", "truncated", "unlinked")
    line = (("mode", "mode"), ("flags", "flags"), ("path", "path"))
    fields = (
        _field("path", "as the process's root sees it"),
        _field("mode", '`"r"`, `"w"` or `"rw"`, as the kernel granted it; `"-"` for neither'),
        _field("open_flags", "`O_*` flags as a number"),
        _field("device", '`"major:minor"` of the filesystem', lambda event: "{}:{}".format(*event.device)),
        _field("inode", "inode number on it"),
        _field("mnt_ns", "the mount namespace in which `path` is meant: the inode of /proc/PID/ns/mnt"),
        _field("unlinked", "the file had no name any more (` (deleted)` at a path's end can also be part of a name)"),
        _field("basename", "`path` is only the last component: the directories above could not be read"),
        _field("truncated", "the front of `path` is missing"),
    )

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


#: The fields that every event has in JSON.
COMMON: Final = (
    _field("event", "the kind", attrgetter("name")),
    _field("time_ns", "Unix time in nanoseconds"),
    _field("pid", "process, in the initial pid namespace"),
    _field("tid", "thread, in the initial pid namespace"),
    _field("uid", "real uid, in the initial user namespace"),
    _field("gid", "real gid, in the initial user namespace"),
    _field("cpu", "the processor it happened on"),
    _field("sequence", "its number on that processor: a gap is events lost, or lines taken out (`pylsm verify-log`)"),
    _field("comm", "the thread's name"),
)

#: Every kind of event, in the order in which they are listed.
KINDS: Final[tuple[type[Event], ...]] = (Connect, FileOpen)

#: Names of those that are recorded unless events are chosen.
DEFAULT: Final = tuple(kind.name for kind in KINDS if kind.default)


def choose(names: Iterable[str]) -> tuple[str, ...]:
    """The kinds that these names stand for, in the order of `KINDS`.

    Args:
        names: of kinds; "default" stands for `DEFAULT`, "all" for all.

    Raises:
        PylsmError: there is no such kind, or none is named.
    """
    groups = {"default": DEFAULT, "all": tuple(kind.name for kind in KINDS)}
    known = {**{name: (name,) for name in groups["all"]}, **groups}
    chosen: set[str] = set()
    for name in names:
        if name not in known:
            from pylsm.btf.nearest import nearest_names

            near = nearest_names(name, known, 1)
            raise PylsmError(
                f"there is no kind of event {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint="there are: " + ", ".join(known),
            )
        chosen.update(known[name])
    if not chosen:
        raise PylsmError("no kind of event is named", hint="there are: " + ", ".join(known))
    return tuple(name for name in groups["all"] if name in chosen)
