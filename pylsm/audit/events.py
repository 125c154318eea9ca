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
from operator import attrgetter

from pylsm.audit.names import CONTEXT_EVENTS, DEFAULT, EVENTS, SOURCE_LSM, choose
from pylsm.audit.records import (
    ACT,
    CONNECT,
    EXEC,
    EXIT,
    FILE_OPEN,
    FLAG_ARGUMENTS,
    FLAG_BASENAME,
    FLAG_DIRECTORY,
    FLAG_FASTOPEN,
    FLAG_REQUESTED,
    FLAG_TRUNCATED,
    FLAG_UNLINKED,
    FORK,
    LISTEN,
    PLACE,
    SENDTO,
)
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Final, NoReturn, TypeVar

    _E = TypeVar("_E", bound="Event")

__all__ = [
    "COMMON",
    "CONTEXT",
    "CONTEXT_EVENTS",
    "DEFAULT",
    "KINDS",
    "WHERE",
    "Bind",
    "Bpf",
    "Chmod",
    "Connect",
    "Context",
    "Destination",
    "Event",
    "Exec",
    "Exit",
    "Field",
    "FileOpen",
    "Fork",
    "HeldConnect",
    "HeldListen",
    "HeldOpen",
    "Kill",
    "Listen",
    "Mkdir",
    "Mmap",
    "Module",
    "Mount",
    "Ptrace",
    "Rename",
    "Sendto",
    "Unlink",
    "choose",
    "set_context",
]

_ROWS = {row.name: row for row in EVENTS}
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)
MODES = ("-", "r", "w", "rw")  # by FMODE_READ (1) and FMODE_WRITE (2)
#: include/uapi/linux/in.h
PROTOCOLS = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    33: "dccp",
    58: "icmpv6",
    132: "sctp",
    136: "udplite",
    255: "raw",
    262: "mptcp",
}
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
_protocol = _reader(SENDTO, "protocol")
_exec_ppid, _exec_euid, _exec_cgroup, _exec_mnt_ns, _exec_net_ns = (
    _reader(EXEC, name) for name in ("ppid", "euid", "cgroup", "mnt_ns", "net_ns")
)
_exec_sizes = tuple(_reader(EXEC, name) for name in ("path_size", "name_size", "interpreter_size"))
_exit_code, _exit_began = _reader(EXIT, "code"), _reader(EXIT, "began")
_fork_child, _fork_parent = _reader(FORK, "child"), _reader(FORK, "parent")
_listen_port, _listen_backlog = _reader(LISTEN, "port"), _reader(LISTEN, "backlog")
_act_target, _act_number = _reader(ACT, "target"), _reader(ACT, "number")
_place_value = _reader(PLACE, "value")
_place_sizes = tuple(_reader(PLACE, name) for name in ("path_size", "second_size", "third_size"))
_COMM = slice(FILE_OPEN.field("comm")[0], sum(FILE_OPEN.field("comm")))
_PORT = slice(CONNECT.field("port")[0], sum(CONNECT.field("port")))
_ADDRESS = slice(CONNECT.field("address")[0], sum(CONNECT.field("address")))


class Context(NamedTuple):
    """What is known of a process besides its numbers; None for what is not.

    Attributes:
        ppid: its parent.
        exe: the file that it runs.
        user: name of its real uid.
        cgroup_id: id of its cgroup (v2).
        container: the container that its cgroup is of: its id, or the name where its runtime has none.
        net_ns: its network namespace: the inode of /proc/PID/ns/net.
    """

    ppid: int | None
    exe: bytes | None
    user: str | None
    cgroup_id: int | None
    container: str | None
    net_ns: int | None


def _signed(number: int) -> int:
    return number - (1 << 32) if number >> 31 else number


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
        default: it is recorded unless events are chosen; this and the two before are of `pylsm.audit.names.EVENTS`.
        summary: what it is, for the documentation.
        fields: in JSON, behind those of all (`COMMON`).
        line: the words of its text line, behind pid and comm: (label, attribute). A value that is None or empty is left
            out, bytes are escaped, a tuple is joined by commas.
        flag_names: attributes that ``flags`` lists when they are true.
    """

    __slots__ = ("_context", "clock_ns", "record")

    record: bytes
    clock_ns: int
    _context: tuple[Context, tuple[str | None, str | None, str] | None]

    name: ClassVar[str]
    kind: ClassVar[int]
    layout: ClassVar[Record]
    programs: ClassVar[tuple[str, ...]]
    default: ClassVar[bool]
    summary: ClassVar[str]
    fields: ClassVar[tuple[Field, ...]] = ()
    line: ClassVar[tuple[tuple[str, str], ...]] = ()
    flag_names: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        row = _ROWS.get(cls.__dict__.get("name", ""))
        if row is not None:
            _, cls.kind, cls.programs, cls.default = row

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
    def context(self) -> Context | None:
        """What is known of the process besides, where an audit was asked for it."""
        try:
            return self._context[0]
        except AttributeError:
            return None

    @property
    def where(self) -> tuple[str | None, str | None, str] | None:
        """Of what goes to an address: source address, interface, and scope; where an audit was asked for it."""
        try:
            return self._context[1]
        except AttributeError:
            return None

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


class Destination(Event):
    """What goes to an address of the internet."""

    __slots__ = ()

    layout: ClassVar[Record] = CONNECT
    flag_names: ClassVar[tuple[str, ...]] = ("v4mapped",)
    line: ClassVar[tuple[tuple[str, str], ...]] = (("dst", "dst"), ("flags", "flags"))
    fields: ClassVar[tuple[Field, ...]] = (
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


class Connect(Destination):
    """An attempt to connect a socket, whatever became of it."""

    __slots__ = ()

    name = "connect"
    summary = "an attempt to connect a socket over IPv4 or IPv6, whatever becomes of it, with the address as given"


class FileOpen(Event):
    """A file opened: the kernel allowed it and handed out a file."""

    __slots__ = ()

    name = "open"
    layout = FILE_OPEN
    summary = "a file opened, once per process incarnation (start time and exec), device, inode and access mode"
    flag_names: ClassVar[tuple[str, ...]] = ("basename", "truncated", "unlinked")
    line = (("mode", "mode"), ("flags", "flags"), ("path", "path"))
    fields: ClassVar[tuple[Field, ...]] = (
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


class Sendto(Destination):
    """A message to a destination that its socket is not connected to."""

    __slots__ = ()

    name = "sendto"
    layout = SENDTO
    summary = (
        "a message to an address over a socket that need not be connected (UDP, raw, SCTP), each destination once per "
        "process incarnation; and each TCP Fast Open, which is a connect"
    )
    flag_names = ("v4mapped", "fastopen")
    line = (("dst", "dst"), ("protocol", "protocol_name"), ("flags", "flags"))
    fields = (
        *Destination.fields,
        _field("protocol", 'the socket\'s: `"udp"`, `"icmp"` …, or its number as text', attrgetter("protocol_name")),
        _field("fastopen", "the message opens a TCP connection (MSG_FASTOPEN)"),
    )

    @property
    def protocol(self) -> int:
        """IPPROTO_* of the socket."""
        return _protocol(self.record)

    @property
    def protocol_name(self) -> str:
        """`protocol` by name where it has one here."""
        return PROTOCOLS.get(self.protocol, str(self.protocol))

    @property
    def fastopen(self) -> bool:
        """The message opens a TCP connection."""
        return bool(_flags(self.record) & FLAG_FASTOPEN)


class Exec(Event):
    """A program executed, successfully."""

    __slots__ = ()

    name = "exec"
    layout = EXEC
    summary = "a program executed: the process runs it now"
    flag_names = ("truncated", "arguments_missing")
    line = (("ppid", "ppid"), ("argv", "argv"), ("interpreter", "interpreter"), ("flags", "flags"), ("path", "path"))
    fields = (
        _field("path", "the program, as the process's root sees it; of a script: as it was named to execve"),
        _field("argv", "its arguments, from 0 on"),
        _field("interpreter", "of a script, as its first line has it; null for other programs"),
        _field("exe", "what the process runs now, as /proc/PID/exe has it: `path`, or the interpreter of a script"),
        _field("ppid", "the parent process, in the initial pid namespace"),
        _field("euid", "effective uid: another than `uid` for a set-uid program"),
        _field("cgroup_id", "id of its cgroup (v2)"),
        _field("mnt_ns", "its mount namespace: the inode of /proc/PID/ns/mnt"),
        _field("net_ns", "its network namespace: the inode of /proc/PID/ns/net"),
        _field("truncated", "the front of `exe` is missing"),
        _field(
            "arguments_missing", "not all arguments are there: more than 4096 bytes of them, or they could not be read"
        ),
    )

    def _part(self, index: int) -> bytes:
        """A part of the tail: path, name of a script, its interpreter, arguments."""
        sizes = [size(self.record) for size in _exec_sizes]
        begin = EXEC.size + sum(sizes[:index])
        return self.record[begin : begin + sizes[index]] if index < len(sizes) else self.record[begin:]

    @property
    def exe(self) -> bytes:
        """The file that the process runs, any bytes but NUL."""
        return self._part(0).partition(b"\0")[0]

    @property
    def path(self) -> bytes:
        """The program; of a script: as it was named to execve."""
        return self._part(1).partition(b"\0")[0] or self.exe

    @property
    def interpreter(self) -> bytes | None:
        """Of a script, as its first line has it."""
        return self._part(2).partition(b"\0")[0] or None

    @property
    def argv(self) -> tuple[bytes, ...]:
        """Its arguments."""
        arguments = self._part(3)
        return tuple(arguments.removesuffix(b"\0").split(b"\0")) if arguments else ()

    @property
    def ppid(self) -> int:
        """The parent process, in the initial pid namespace."""
        return _exec_ppid(self.record)

    @property
    def euid(self) -> int:
        """The effective uid, in the initial user namespace."""
        return _exec_euid(self.record)

    @property
    def cgroup_id(self) -> int:
        """Id of its cgroup (v2)."""
        return _exec_cgroup(self.record)

    @property
    def mnt_ns(self) -> int:
        """Its mount namespace."""
        return _exec_mnt_ns(self.record)

    @property
    def net_ns(self) -> int:
        """Its network namespace."""
        return _exec_net_ns(self.record)

    @property
    def truncated(self) -> bool:
        """The front of ``exe`` is missing."""
        return bool(_flags(self.record) & (FLAG_TRUNCATED | FLAG_BASENAME))

    @property
    def arguments_missing(self) -> bool:
        """Not all arguments are there."""
        return bool(_flags(self.record) & FLAG_ARGUMENTS)


class Exit(Event):
    """The end of a process: of the last of its threads."""

    __slots__ = ()

    name = "exit"
    layout = EXIT
    summary = "the end of a process, of its last thread"
    flag_names = ("core_dumped",)
    line = (("status", "status"), ("signal", "signal"), ("duration_ns", "duration_ns"), ("flags", "flags"))
    fields = (
        _field("status", "its exit status; null when a signal ended it"),
        _field("signal", "number of the signal that ended it, or null"),
        _field("duration_ns", "from its beginning (fork) on, in nanoseconds"),
        _field("core_dumped", "a core was dumped"),
    )

    @property
    def status(self) -> int | None:
        """The exit status, None when a signal ended it."""
        code = _exit_code(self.record)
        return None if code & 0x7F else code >> 8 & 0xFF

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended it."""
        return _exit_code(self.record) & 0x7F or None

    @property
    def core_dumped(self) -> bool:
        """A core was dumped."""
        return bool(_exit_code(self.record) & 0x80)

    @property
    def duration_ns(self) -> int:
        """From its beginning on, in nanoseconds."""
        return _time(self.record) - _exit_began(self.record)


class Fork(Event):
    """A process made by another."""

    __slots__ = ()

    name = "fork"
    layout = FORK
    summary = "a process made by another (fork, vfork, clone), before it runs; threads are none"
    line = (("child_pid", "child_pid"), ("child_ppid", "other_parent"))
    fields = (
        _field("child_pid", "the new process, in the initial pid namespace"),
        _field("child_ppid", "its parent: `pid`, or the parent of that (CLONE_PARENT)"),
    )

    @property
    def child_pid(self) -> int:
        """The new process, in the initial pid namespace."""
        return _fork_child(self.record)

    @property
    def child_ppid(self) -> int:
        """Its parent."""
        return _fork_parent(self.record)

    @property
    def other_parent(self) -> int | None:
        """Its parent, where that is not `pid`."""
        return self.child_ppid if self.child_ppid != self.pid else None


class Bind(Destination):
    """An attempt to bind a socket to an address of its own."""

    __slots__ = ()

    name = "bind"
    summary = "an attempt to bind a socket to an address of its own over IPv4 or IPv6"
    line = (("src", "dst"), ("flags", "flags"))
    fields = (
        _field("src_ip", "the address", attrgetter("dst_ip")),
        _field("sport", "its port; 0: the kernel chooses one", attrgetter("port")),
        _field("family", '`"ipv4"` or `"ipv6"`, as the address said', attrgetter("family_name")),
        _field("v4mapped", "the address was `::ffff:a.b.c.d`; `src_ip` is the IPv4 address"),
    )


class Listen(Destination):
    """A socket that is to be connected to."""

    __slots__ = ()

    name = "listen"
    layout = LISTEN
    summary = "a socket of IPv4 or IPv6 that is to be connected to"
    line = (("src", "dst"), ("backlog", "backlog"), ("flags", "flags"))
    fields: ClassVar[tuple[Field, ...]] = (
        _field("src_ip", "the address that it is bound to; of all zeros: any", attrgetter("dst_ip")),
        _field("sport", "its port; 0: the kernel chooses one", attrgetter("port")),
        _field("family", '`"ipv4"` or `"ipv6"`: the socket\'s', attrgetter("family_name")),
        _field("backlog", "how many connections may wait"),
    )

    @property
    def port(self) -> int:
        """Its port."""
        return _listen_port(self.record)

    @property
    def backlog(self) -> int:
        """How many connections may wait."""
        return _signed(_listen_backlog(self.record))


class _Place(Event):
    """What is done to a place in the tree of files."""

    __slots__ = ()

    layout: ClassVar[Record] = PLACE

    def _part(self, index: int) -> bytes:
        sizes = [size(self.record) for size in _place_sizes[: index + 1]]
        begin = PLACE.size + sum(sizes[:index])
        return self.record[begin : begin + sizes[index]].partition(b"\0")[0]

    @property
    def path(self) -> bytes:
        """The path as the process's root sees it."""
        return self._part(0)

    @property
    def truncated(self) -> bool:
        """The front of a path is missing."""
        return bool(_flags(self.record) & (FLAG_TRUNCATED | FLAG_BASENAME))


_PATH = _field("path", "as the process's root sees it")
_TRUNCATED = _field("truncated", "the front of a path is missing")


class Unlink(_Place):
    """A name removed, or a directory."""

    __slots__ = ()

    name = "unlink"
    summary = "an attempt to remove a name of a file, or a directory"
    flag_names = ("truncated", "directory")
    line = (("flags", "flags"), ("path", "path"))
    fields = (
        _PATH,
        _field("directory", "it is a directory"),
        _TRUNCATED,
    )

    @property
    def directory(self) -> bool:
        """It is a directory."""
        return bool(_flags(self.record) & FLAG_DIRECTORY)


class Rename(_Place):
    """A name changed to another."""

    __slots__ = ()

    name = "rename"
    summary = "an attempt to rename or move a file"
    flag_names = ("truncated",)
    line = (("new_path", "new_path"), ("flags", "flags"), ("path", "path"))
    fields = (
        _PATH,
        _field("new_path", "its new name"),
        _TRUNCATED,
    )

    @property
    def new_path(self) -> bytes:
        """Its new name."""
        return self._part(1)


class Mkdir(_Place):
    """A directory made."""

    __slots__ = ()

    name = "mkdir"
    summary = "an attempt to make a directory"
    flag_names = ("truncated",)
    line = (("permissions", "permissions"), ("flags", "flags"), ("path", "path"))
    fields = (
        _PATH,
        _field("permissions", "as asked for less the umask, in octal, as text"),
        _TRUNCATED,
    )

    @property
    def permissions(self) -> str:
        """Its permissions in octal."""
        return f"{_place_value(self.record):04o}"


class Chmod(_Place):
    """Permissions changed."""

    __slots__ = ()

    name = "chmod"
    summary = "an attempt to change the permissions of a file"
    flag_names = ("truncated",)
    line = (("permissions", "permissions"), ("flags", "flags"), ("path", "path"))
    fields = (
        _PATH,
        _field("permissions", "the new ones, in octal, as text"),
        _TRUNCATED,
    )

    @property
    def permissions(self) -> str:
        """The new ones in octal."""
        return f"{_place_value(self.record):04o}"


class Mmap(_Place):
    """Memory mapped that can be executed."""

    __slots__ = ()

    name = "mmap"
    summary = "memory mapped that can be executed: of a file, or of none"
    flag_names = ("truncated",)
    line = (("protection", "protection"), ("flags", "flags"), ("path", "path"))
    fields = (
        _PATH,
        _field("protection", '`"r-x"` or `"rwx"` …'),
        _TRUNCATED,
    )

    @property
    def protection(self) -> str:
        """PROT_* as letters."""
        value = _place_value(self.record)
        return "".join(letter if value & bit else "-" for letter, bit in (("r", 1), ("w", 2), ("x", 4)))


class _Act(Event):
    """What is done to a process, or by a number."""

    __slots__ = ()

    layout: ClassVar[Record] = ACT

    @property
    def target_pid(self) -> int:
        """The process that it is done to, in the initial pid namespace."""
        return _act_target(self.record)


_TARGET = _field("target_pid", "the process that it is done to, in the initial pid namespace")


class Ptrace(_Act):
    """An attempt to look into another process."""

    __slots__ = ()

    name = "ptrace"
    summary = (
        "an attempt to attach to a process or to its memory (ptrace, /proc/PID/mem, process_vm_readv, pidfd_getfd); to "
        "read what else /proc has of it is none"
    )
    line = (("target_pid", "target_pid"),)
    fields = (_TARGET,)


class Kill(_Act):
    """A signal sent to a process."""

    __slots__ = ()

    name = "kill"
    summary = "an attempt to send a signal to a process, itself included; signal 0 asks whether it is there"
    line = (("target_pid", "target_pid"), ("signal", "signal_number"))
    fields = (_TARGET, _field("signal_number", "the signal"))

    @property
    def signal_number(self) -> int:
        """The signal."""
        return _act_number(self.record)


class Mount(_Place):
    """A filesystem mounted, or a mount changed or moved."""

    __slots__ = ()

    name = "mount"
    summary = "an attempt to mount a filesystem, or to change or move a mount (mount, move_mount)"
    flag_names = ("truncated",)
    line = (
        ("source", "source"),
        ("fstype", "fstype"),
        ("mount_flags", "mount_flags"),
        ("flags", "flags"),
        ("path", "path"),
    )
    fields = (
        _PATH,
        _field("source", "what is mounted, as it was named; empty where nothing was"),
        _field("fstype", "the filesystem's type; empty where none was named (remount, bind)"),
        _field("mount_flags", "MS_* flags as a number; 0 for move_mount"),
        _TRUNCATED,
    )

    @property
    def source(self) -> bytes:
        """What is mounted, as it was named."""
        return self._part(1)

    @property
    def fstype(self) -> bytes:
        """The filesystem's type."""
        return self._part(2)

    @property
    def mount_flags(self) -> int:
        """MS_* flags."""
        return _place_value(self.record)


class Module(_Place):
    """A kernel module loaded, or asked for."""

    __slots__ = ()

    name = "module"
    summary = "a kernel module loaded by the process, or asked for by the kernel on its behalf"
    flag_names = ("requested",)
    line = (("name", "module_name"), ("flags", "flags"))
    fields = (
        _field("name", "the module, or the alias that is asked for", attrgetter("module_name")),
        _field("requested", "it is asked for by the kernel; otherwise the process has loaded it"),
    )

    @property
    def module_name(self) -> bytes:
        """The module, or the alias that is asked for."""
        return self._part(0)

    @property
    def requested(self) -> bool:
        """It is asked for by the kernel."""
        return bool(_flags(self.record) & FLAG_REQUESTED)


class Bpf(_Act):
    """bpf(2) called."""

    __slots__ = ()

    name = "bpf"
    summary = "a call of bpf(2)"
    line = (("command", "command"),)
    fields = (_field("command", '`"prog_load"` …, or its number as text'),)

    @property
    def command(self) -> str:
        """The command, by name where it has one here."""
        from pylsm.loader.attr import Cmd

        number = _act_number(self.record)
        try:
            return Cmd(number).name.lower()
        except ValueError:
            return str(number)


class _Held(Event):
    """What was there when its process was attached: of no processor, without a number."""

    __slots__ = ()

    already_open = True

    @property
    def cpu(self) -> int:
        """-1."""
        return -1

    @property
    def sequence(self) -> int:
        """-1."""
        return -1


_ALREADY = _field("already_open", "it was there when the process was attached")


class HeldConnect(_Held, Connect):
    """A socket that was connected when its process was attached."""

    __slots__ = ()

    flag_names: ClassVar[tuple[str, ...]] = (*Connect.flag_names, "already_open")
    fields: ClassVar[tuple[Field, ...]] = (*Connect.fields, _ALREADY)


class HeldListen(_Held, Listen):
    """A socket that listened when its process was attached."""

    __slots__ = ()

    flag_names: ClassVar[tuple[str, ...]] = (*Listen.flag_names, "already_open")
    fields: ClassVar[tuple[Field, ...]] = (*Listen.fields, _ALREADY)


class HeldOpen(_Held, FileOpen):
    """A file that was open when its process was attached."""

    __slots__ = ()

    flag_names: ClassVar[tuple[str, ...]] = (*FileOpen.flag_names, "already_open")
    fields: ClassVar[tuple[Field, ...]] = (*FileOpen.fields, _ALREADY)


#: Gives an event its context; nobody but `pylsm.audit.context` does.
set_context: Final[Callable[[Event, object], None]] = Event._context.__set__  # type: ignore[attr-defined,misc]

#: What an audit with ``context`` adds to each event in JSON, and to those that go to an address.
CONTEXT: Final = (
    _field("ppid", "the parent process"),
    _field("exe", "the file that the process runs"),
    _field("user", "name of `uid`"),
    _field("cgroup_id", "id of its cgroup (v2)"),
    _field("container", "the container that its cgroup is of: its id, or a name"),
    _field("net_ns", "its network namespace: the inode of /proc/PID/ns/net"),
)
WHERE: Final = (
    _field("src_ip", "the source address by the routes at the attach"),
    _field("interface", "the interface by the routes at the attach"),
    _field("scope", '`"loopback"`, `"private"`, `"link-local"`, `"multicast"` or `"public"`'),
)

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
KINDS: Final[tuple[type[Event], ...]] = (
    Connect,
    FileOpen,
    Sendto,
    Exec,
    Exit,
    Fork,
    Bind,
    Listen,
    Unlink,
    Rename,
    Mkdir,
    Chmod,
    Mmap,
    Ptrace,
    Kill,
    Mount,
    Module,
    Bpf,
)
