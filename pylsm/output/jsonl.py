"""One JSON object per line for programs.

Bytes that are no UTF-8 come as U+FFFD in ``comm`` or ``path``; the exact bytes are then in ``comm_hex`` or
``path_hex``. All else is ASCII: whatever a name holds, a terminal that shows the line is not controlled by it.

Every line has ``"version":1`` (`VERSION`). It is raised when a field goes or changes its meaning; new fields and new
kinds of events come without, so a reader takes those it does not know. `pylsm.output.schema` has it as JSON Schema.
"""

from __future__ import annotations

from _socket import AF_INET  # see events
from struct import Struct, calcsize

from pylsm.audit.events import COMMON, CONTEXT, MINOR_BITS, MODES, WHERE, Connect, Context, Event, Exec, FileOpen
from pylsm.audit.records import CONNECT, FILE_OPEN, FLAG_BASENAME, FLAG_TRUNCATED, FLAG_UNLINKED
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, Final


try:
    from _json import encode_basestring_ascii as _quote  # json itself imports re and enum
except ImportError:
    from json.encoder import encode_basestring_ascii as _quote

__all__ = ["VERSION", "render", "render_by_table", "render_with_context", "to_dict"]

VERSION: Final = 1

_unpack_connect = CONNECT.unpacker.unpack_from


def _taking(record: Any, *names: str) -> Struct:
    """Takes integer fields out of a record, in their order, and passes over all others."""
    form = "="
    for name in names:
        offset, size = record.field(name)
        form += f"{offset - calcsize(form)}x{_CODES[size]}"
    return Struct(form)


_CODES = {2: "H", 4: "I", 8: "Q"}
_unpack_open = _taking(
    FILE_OPEN, "flags", "time", "sequence", "cpu", "device", "inode", "open_flags", "granted", "mnt_ns"
).unpack_from
_unpack_ids = Struct("=QQ").unpack
_IDS = slice(FILE_OPEN.field("pid_tgid")[0], FILE_OPEN.field("time")[0])
_NAME = slice(FILE_OPEN.field("comm")[0], sum(FILE_OPEN.field("comm")))
_PATH = FILE_OPEN.size
#: So many texts of a sort are kept.
_MOST_KEPT = 4096
_MINOR_MASK = (1 << MINOR_BITS) - 1
_U32 = (1 << 32) - 1
_NUL = b"\0"
_START = f'{{"version":{VERSION},"event":'
#: What has been made of contexts, which are the same for most events of a process.
_CONTEXTS: dict[Context, str] = {}
_MAX_CONTEXTS = 4096
_BOOL = ("false", "true")


def render(event: Event) -> str:
    """An event as one line of JSON: the fields of all events, then those of its kind (`Event.fields`)."""
    return _BY_HAND.get(type(event), render_by_table)(event)


def render_by_table(event: Event) -> str:
    """What `render` gives, put together from the table alone."""
    shown = ",".join(_value(field.name, field.of(event)) for field in event.fields)
    comma = "," if shown else ""
    return (
        f'{_START}"{event.name}","time_ns":{event.time_ns},"pid":{event.pid},"tid":{event.tid}'
        f',"uid":{event.uid},"gid":{event.gid},"cpu":{event.cpu},"sequence":{event.sequence}'
        f",{_text('comm', event.comm)}{comma}{shown}}}"
    )


def render_with_context(event: Event) -> str:
    """What `render` gives, with what is known of the process behind it (`Event.context`)."""
    context = event.context
    if context is None:
        return render(event)
    shown = None if type(event) is Exec else _CONTEXTS.get(context)  # an exec has some of it itself
    if shown is None:
        own = {field.name for field in event.fields}
        shown = ",".join(_value(field.name, field.of(context)) for field in CONTEXT if field.name not in own)
        if type(event) is not Exec:
            if len(_CONTEXTS) >= _MAX_CONTEXTS:
                _CONTEXTS.clear()
            _CONTEXTS[context] = shown
    where = event.where
    if where is not None:
        own = {field.name for field in event.fields}
        pairs = zip(WHERE, where)
        shown += "".join("," + _value(field.name, value) for field, value in pairs if field.name not in own)
    return f"{render(event)[:-1]},{shown}}}"


# The two kinds that make up most of a recording are put together by hand, the whole record unpacked at once: by the
# table costs two to four times as much.


def _connect(event: Any) -> str:
    _, _, _, pid_tgid, uid_gid, time, sequence, comm, cpu, _, _, _ = _unpack_connect(event.record)
    return (
        f'{_START}"connect","time_ns":{time + event.clock_ns},"pid":{pid_tgid >> 32},"tid":{pid_tgid & _U32}'
        f',"uid":{uid_gid & _U32},"gid":{uid_gid >> 32},"cpu":{cpu},"sequence":{sequence}'
        f",{_text('comm', comm.partition(_NUL)[0])}"
        f',"dst_ip":"{event.dst_ip}","dport":{event.port}'
        f',"family":"{"ipv4" if event.family == AF_INET else "ipv6"}","v4mapped":{_BOOL[event.mapped]}}}'
    )


def _open(event: Any) -> str:
    record = event.record
    flags, time, sequence, cpu, device, inode, open_flags, granted, mnt_ns = _unpack_open(record)
    return (
        f'{_START}"open","time_ns":{time + event.clock_ns}{_WHO[record[_IDS]]},"cpu":{cpu},"sequence":{sequence}'
        f",{_COMM[record[_NAME]]},{_text('path', record[_PATH:].partition(_NUL)[0])}"
        f',"mode":"{MODES[granted & 3]}","open_flags":{open_flags},"device":"{_DEVICE[device]}","inode":{inode}'
        f',"mnt_ns":{mnt_ns},{_FLAGS[flags]}}}'
    )


# What many events have in common is put together once.


class _Kept(dict):  # type: ignore[type-arg]
    """Text by what it is made from."""

    def __init__(self, make: Callable[[Any], str]) -> None:
        self._make = make

    def __missing__(self, key: Any) -> str:
        if len(self) >= _MOST_KEPT:
            self.clear()
        self[key] = made = self._make(key)
        return made


def _who(ids: bytes) -> str:
    pid_tgid, uid_gid = _unpack_ids(ids)
    return f',"pid":{pid_tgid >> 32},"tid":{pid_tgid & _U32},"uid":{uid_gid & _U32},"gid":{uid_gid >> 32}'


def _what(flags: int) -> str:
    unlinked, basename, truncated = (_BOOL[flags & bit != 0] for bit in (FLAG_UNLINKED, FLAG_BASENAME, FLAG_TRUNCATED))
    return f'"unlinked":{unlinked},"basename":{basename},"truncated":{truncated}'


_WHO = _Kept(_who)
_COMM = _Kept(lambda name: _text("comm", name.partition(_NUL)[0]))
_DEVICE = _Kept(lambda device: f"{device >> MINOR_BITS}:{device & _MINOR_MASK}")
_FLAGS = _Kept(_what)
_BY_HAND: dict[type[Event], Callable[[Any], str]] = {Connect: _connect, FileOpen: _open}


def to_dict(event: Event) -> dict[str, Any]:
    """What `render` gives, as values: the event's fields under their names in the output."""
    fields: dict[str, Any] = {"version": VERSION}
    for name, value in _values(event):
        if isinstance(value, bytes):
            fields[name] = shown = value.decode("utf-8", "replace")
            if shown.encode() != value:
                fields[name + "_hex"] = value.hex()
        elif isinstance(value, tuple):
            raw = [item if isinstance(item, bytes) else item.encode() for item in value]
            fields[name] = shown_items = [item.decode("utf-8", "replace") for item in raw]
            if [item.encode() for item in shown_items] != raw:
                fields[name + "_hex"] = [item.hex() for item in raw]
        else:
            fields[name] = value
    return fields


def _values(event: Event) -> Iterator[tuple[str, Any]]:
    """Names and values of an event's fields, and of those of its context that it has not itself."""
    for field in (*COMMON, *event.fields):
        yield field.name, field.of(event)
    context, where = event.context, event.where
    own = {field.name for field in event.fields}
    if context is not None:
        yield from ((field.name, field.of(context)) for field in CONTEXT if field.name not in own)
    if where is not None:
        yield from ((field.name, value) for field, value in zip(WHERE, where) if field.name not in own)


def _value(name: str, value: object) -> str:
    if isinstance(value, bytes):
        return _text(name, value)
    if isinstance(value, bool):
        return f'"{name}":{_BOOL[value]}'
    if isinstance(value, tuple):
        return _texts(name, value)
    return f'"{name}":{_string(value) if isinstance(value, str) else "null" if value is None else value}'


def _text(name: str, raw: bytes) -> str:
    try:
        return f'"{name}":{_string(raw.decode())}'
    except UnicodeDecodeError:
        return f'"{name}":{_string(raw.decode("utf-8", "replace"))},"{name}_hex":"{raw.hex()}"'


def _texts(name: str, items: tuple[bytes | str, ...]) -> str:
    raw = [item if isinstance(item, bytes) else item.encode() for item in items]
    shown = f'"{name}":[{",".join(_string(item.decode("utf-8", "replace")) for item in raw)}]'
    try:
        b"\0".join(raw).decode()
    except UnicodeDecodeError:
        shown += f',"{name}_hex":[{",".join(chr(34) + item.hex() + chr(34) for item in raw)}]'
    return shown


def _string(text: str) -> str:
    # json leaves DEL alone; a terminal should not see it.
    return _quote(text).replace("\x7f", "\\u007f")
