"""The Elastic Common Schema, one document a line (https://www.elastic.co/docs/reference/ecs).

What ECS has a field for goes there; all else of an event is below ``pylsm``, under its own name, so that nothing is
lost. There is no ``event.outcome``: the hooks run before the result is known, so an attempt is not said to have
succeeded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from pylsm.audit.events import Event
from pylsm.output.jsonl import to_dict
from pylsm.output.text import stamp

__all__ = ["VERSION", "from_dict", "render"]

#: The release of ECS whose fields these are.
VERSION: Final = "9.4.0"

_HOST: Final = os.uname().nodename


class _Kind(NamedTuple):
    """How ECS sorts a kind of event: ``event.category``, ``event.type``, ``event.action``."""

    category: str
    type: tuple[str, ...]
    action: str


_KINDS: Final = {
    "connect": _Kind("network", ("connection", "start"), "connect-attempted"),
    "sendto": _Kind("network", ("connection",), "send-attempted"),
    "bind": _Kind("network", ("info",), "bind-attempted"),
    "listen": _Kind("network", ("info",), "listen-attempted"),
    "open": _Kind("file", ("access",), "file-opened"),
    "unlink": _Kind("file", ("deletion",), "file-deletion-attempted"),
    "rename": _Kind("file", ("change",), "file-rename-attempted"),
    "mkdir": _Kind("file", ("creation",), "directory-creation-attempted"),
    "chmod": _Kind("file", ("change",), "file-permissions-change-attempted"),
    "mmap": _Kind("file", ("access",), "file-map-attempted"),
    "exec": _Kind("process", ("start",), "process-executed"),
    "fork": _Kind("process", ("start",), "process-forked"),
    "exit": _Kind("process", ("end",), "process-exited"),
    "ptrace": _Kind("process", ("access",), "ptrace-attempted"),
    "kill": _Kind("process", ("change",), "signal-attempted"),
    "mount": _Kind("configuration", ("change",), "mount-attempted"),
    "module": _Kind("driver", ("start",), "module-load-attempted"),
    "bpf": _Kind("configuration", ("change",), "bpf-attempted"),
}

# Our field → ECS field, and what makes its value of ours where the two differ in type.
_FIELDS: Final[dict[str, tuple[str, Any]]] = {
    "sequence": ("event.sequence", lambda number: number & (1 << 63) - 1),  # a long has a sign
    "pid": ("process.pid", None),
    "tid": ("process.thread.id", None),
    "comm": ("process.name", None),
    "exe": ("process.executable", None),
    "ppid": ("process.parent.pid", None),
    "uid": ("user.id", str),
    "gid": ("group.id", str),
    "user": ("user.name", None),
    "container": ("container.id", None),
    "dst_ip": ("destination.ip", None),
    "dport": ("destination.port", None),
    "src_ip": ("source.ip", None),
    "sport": ("source.port", None),
    "family": ("network.type", None),
    "inode": ("file.inode", str),
    "argv": ("process.args", None),
    "duration_ns": ("event.duration", None),
}
_NETWORK_DIRECTION: Final = {"connect": "egress", "sendto": "egress", "bind": "ingress", "listen": "ingress"}


def render(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps(from_dict(to_dict(event)), separators=(",", ":"))


def from_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """A document of the fields of ``--format json``.

    Args:
        values: a line of it, of any kind: one that is not known is a process's, with its fields below ``pylsm``.
    """
    name = str(values["event"])
    kind = _KINDS.get(name, _Kind("process", ("info",), name))
    document: dict[str, Any] = {
        "@timestamp": stamp(values["time_ns"]),
        "ecs": {"version": VERSION},
        "event": {
            "kind": "event",
            "module": "pylsm",
            "dataset": "pylsm.events",
            "category": [kind.category],
            "type": list(kind.type),
            "action": kind.action,
        },
        "host": {"hostname": _HOST},
    }
    rest = {key: value for key, value in values.items() if key not in ("time_ns", "version") and value is not None}
    for ours, (theirs, convert) in _FIELDS.items():
        if ours in rest:
            value = rest.pop(ours)
            _put(document, theirs, value if convert is None else convert(value))
    _subject(document, name, rest)
    if name in _NETWORK_DIRECTION:
        _put(document, "network.direction", _NETWORK_DIRECTION[name])
    document["pylsm"] = {"time_ns": values["time_ns"], **rest}
    return document


def _subject(document: dict[str, Any], name: str, rest: dict[str, Any]) -> None:
    """What is a file to one kind is the program to another."""
    if name == "exec":
        if "path" in rest:
            _put(document, "process.executable", rest.pop("path"))
        arguments = document.get("process", {}).get("args")
        if arguments:
            _put(document, "process.args_count", len(arguments))
            _put(document, "process.command_line", " ".join(arguments))
    elif name == "exit":
        if "status" in rest:
            _put(document, "process.exit_code", rest.pop("status"))
    elif "path" in rest:
        path = rest.pop("path")
        directory, _, base = path.rpartition("/")
        _put(document, "file.path", path)
        _put(document, "file.name", base)
        if directory:
            _put(document, "file.directory", directory)
        if "new_path" in rest:
            _put(document, "file.target_path", rest.pop("new_path"))
    if rest.get("protocol") in ("tcp", "udp", "icmp"):
        _put(document, "network.transport", rest.pop("protocol"))


def _put(document: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        document = document.setdefault(parent, {})
    document[last] = value
