"""One JSON object per line for programs.

Bytes that are no UTF-8 come as U+FFFD in ``comm`` or ``path``; the exact bytes are then in ``comm_hex`` or
``path_hex``. All else is ASCII: whatever a name holds, a terminal that shows the line is not controlled by it.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from pylsm.audit.events import Connect, Event

__all__ = ["render", "to_dict"]


def to_dict(event: Event) -> dict[str, Any]:
    """The event's fields under their names in the output."""
    out: dict[str, Any] = {
        "event": "connect" if isinstance(event, Connect) else "open",
        "time_ns": event.time_ns,
        "pid": event.pid,
        "tid": event.tid,
        "uid": event.uid,
        "gid": event.gid,
    }
    _bytes(out, "comm", event.comm)
    if isinstance(event, Connect):
        out["dst_ip"] = event.dst_ip
        out["dport"] = event.port
        out["family"] = "ipv4" if event.family == socket.AF_INET else "ipv6"
        out["v4mapped"] = event.mapped
    else:
        _bytes(out, "path", event.path)
        out["mode"] = event.mode
        out["open_flags"] = event.open_flags
        out["device"] = "{}:{}".format(*event.device)
        out["inode"] = event.inode
        out["basename"] = event.basename
        out["truncated"] = event.truncated
    return out


def render(event: Event) -> str:
    """An event as one line of JSON."""
    # json leaves DEL alone; a terminal should not see it.
    return json.dumps(to_dict(event), separators=(",", ":")).replace("\x7f", "\\u007f")


def _bytes(out: dict[str, Any], name: str, raw: bytes) -> None:
    try:
        out[name] = raw.decode()
    except UnicodeDecodeError:
        out[name] = raw.decode("utf-8", "replace")
        out[name + "_hex"] = raw.hex()
