"""One JSON object per line for programs.

Bytes that are no UTF-8 come as U+FFFD in ``comm`` or ``path``; the exact bytes are then in ``comm_hex`` or
``path_hex``. All else is ASCII: whatever a name holds, a terminal that shows the line is not controlled by it.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as _quote
from socket import AF_INET
from typing import Any

from pylsm.audit.events import MINOR_BITS, MODES, Connect, Event
from pylsm.audit.records import CONNECT, FILE_OPEN, FLAG_BASENAME, FLAG_TRUNCATED, FLAG_UNLINKED

__all__ = ["render", "to_dict"]

_unpack_connect = CONNECT.unpacker.unpack_from
_unpack_open = FILE_OPEN.unpacker.unpack_from
_MINOR_MASK = (1 << MINOR_BITS) - 1
_U32 = (1 << 32) - 1
_NUL = b"\0"
_BOOL = ("false", "true")


def render(event: Event) -> str:
    """An event as one line of JSON."""
    # The whole record is unpacked at once and the line put together by hand: asking the event for each field and
    # json.dumps for the line costs four times as much.
    if isinstance(event, Connect):
        _, _, _, pid_tgid, uid_gid, time, comm, _, _, _, _ = _unpack_connect(event.record)
        rest = (
            f'"dst_ip":"{event.dst_ip}","dport":{event.port}'
            f',"family":"{"ipv4" if event.family == AF_INET else "ipv6"}","v4mapped":{_BOOL[event.mapped]}'
        )
        name = "connect"
    else:
        (_, _, flags, pid_tgid, uid_gid, time, comm, inode, device, open_flags, granted, mnt_ns) = _unpack_open(
            event.record
        )
        rest = (
            f'{_text("path", event.path)},"mode":"{MODES[granted & 3]}","open_flags":{open_flags}'
            f',"device":"{device >> MINOR_BITS}:{device & _MINOR_MASK}","inode":{inode}'
            f',"mnt_ns":{mnt_ns},"unlinked":{_BOOL[flags & FLAG_UNLINKED != 0]}'
            f',"basename":{_BOOL[flags & FLAG_BASENAME != 0]},"truncated":{_BOOL[flags & FLAG_TRUNCATED != 0]}'
        )
        name = "open"
    return (
        f'{{"event":"{name}","time_ns":{time + event.clock_ns},"pid":{pid_tgid >> 32},"tid":{pid_tgid & _U32}'
        f',"uid":{uid_gid & _U32},"gid":{uid_gid >> 32},{_text("comm", comm.partition(_NUL)[0])},{rest}}}'
    )


def to_dict(event: Event) -> dict[str, Any]:
    """The event's fields under their names in the output."""
    fields: dict[str, Any] = json.loads(render(event))
    return fields


def _text(name: str, raw: bytes) -> str:
    try:
        return f'"{name}":{_string(raw.decode())}'
    except UnicodeDecodeError:
        return f'"{name}":{_string(raw.decode("utf-8", "replace"))},"{name}_hex":"{raw.hex()}"'


def _string(text: str) -> str:
    # json leaves DEL alone; a terminal should not see it.
    return _quote(text).replace("\x7f", "\\u007f")
