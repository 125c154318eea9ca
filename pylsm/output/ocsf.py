"""The Open Cybersecurity Schema Framework, one event a line (https://schema.ocsf.io).

Files are class 1001 (File System Activity), connections 4001 (Network Activity), programs 1007 (Process Activity);
what none of the classes has is a Base Event. What a class has a field for goes there, all else into ``unmapped``, under
its own name.

An attempt is never reported as a success: there is no ``status``, and where the hook runs before the result is known,
the activity is 99 (Other), with the attempt for its name. Only what has happened has an activity of its own: a file
opened, a program launched or ended.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pylsm
from pylsm.audit.events import Event
from pylsm.output.jsonl import to_dict

__all__ = ["VERSION", "from_dict", "render"]

#: The release of OCSF whose classes these are.
VERSION: Final = "1.5.0"

_BASE, _FILE, _DRIVER, _PROCESS, _NETWORK = 0, 1001, 1002, 1007, 4001
_OTHER: Final = 99
_REGULAR_FILE, _DIRECTORY, _UNKNOWN = 1, 2, 0  # File type_id
_NAMES: Final = {
    _BASE: ("Base Event", 0, "Uncategorized"),
    _FILE: ("File System Activity", 1, "System Activity"),
    _DRIVER: ("Kernel Extension Activity", 1, "System Activity"),
    _PROCESS: ("Process Activity", 1, "System Activity"),
    _NETWORK: ("Network Activity", 4, "Network Activity"),
}

_HOST: Final = os.uname().nodename


class _Kind(NamedTuple):
    """The class of a kind of event, and its activity there."""

    uid: int
    activity: int
    activity_name: str


_KINDS: Final = {
    "connect": _Kind(_NETWORK, _OTHER, "Connect attempt"),
    "sendto": _Kind(_NETWORK, _OTHER, "Send attempt"),
    "bind": _Kind(_NETWORK, _OTHER, "Bind attempt"),
    "listen": _Kind(_NETWORK, _OTHER, "Listen attempt"),
    "open": _Kind(_FILE, 14, "Open"),
    "unlink": _Kind(_FILE, _OTHER, "Delete attempt"),
    "rename": _Kind(_FILE, _OTHER, "Rename attempt"),
    "mkdir": _Kind(_FILE, _OTHER, "Create attempt"),
    "chmod": _Kind(_FILE, _OTHER, "Set permissions attempt"),
    "mmap": _Kind(_FILE, _OTHER, "Map attempt"),
    "exec": _Kind(_PROCESS, 1, "Launch"),
    "fork": _Kind(_PROCESS, 1, "Launch"),
    "exit": _Kind(_PROCESS, 2, "Terminate"),
    "ptrace": _Kind(_PROCESS, _OTHER, "Trace attempt"),
    "kill": _Kind(_PROCESS, _OTHER, "Signal attempt"),
    "module": _Kind(_DRIVER, _OTHER, "Load attempt"),
}
#: Without one of these fields an event is none of its class.
_SUBJECTS: Final = {_FILE: {"path"}, _DRIVER: {"name"}, _PROCESS: {"pid"}, _NETWORK: {"dst_ip", "src_ip"}}
_PROTOCOLS: Final = {"icmp": 1, "tcp": 6, "udp": 17}


def render(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps(from_dict(to_dict(event)), separators=(",", ":"))


def from_dict(values: Mapping[str, Any]) -> dict[str, Any]:
    """An OCSF event of the fields of ``--format json``.

    Args:
        values: a line of it, of any kind: one that is not known is a Base Event.
    """
    name = str(values["event"])
    kind = _KINDS.get(name, _Kind(_BASE, _OTHER, name))
    rest = {key: value for key, value in values.items() if key not in ("time_ns", "version") and value is not None}
    if not rest.keys() & _SUBJECTS.get(kind.uid, rest.keys()):
        kind = _Kind(_BASE, _OTHER, kind.activity_name)
    class_name, category, category_name = _NAMES[kind.uid]
    metadata: dict[str, Any] = {
        "version": VERSION,
        "product": {"name": "pylsm", "vendor_name": "pylsm", "version": pylsm.__version__},
    }
    if "sequence" in rest:
        metadata["sequence"] = rest.pop("sequence")
    event: dict[str, Any] = {
        "class_uid": kind.uid,
        "class_name": class_name,
        "category_uid": category,
        "category_name": category_name,
        "activity_id": kind.activity,
        "activity_name": kind.activity_name,
        "type_uid": kind.uid * 100 + kind.activity,
        "type_name": f"{class_name}: {kind.activity_name if kind.activity != _OTHER else 'Other'}",
        "severity_id": 1,
        "severity": "Informational",
        "time": values["time_ns"] // 1_000_000,
        "metadata": metadata,
    }
    process = _process(rest) if kind.uid != _BASE else {}
    host = {"hostname": _HOST, "type_id": 0}
    if kind.uid == _NETWORK:
        # The class itself has no place for who did it; the profile "host" has.
        metadata["profiles"] = ["host"]
        event.update(_network(name, rest))
    elif kind.uid == _FILE:
        event.update(_file(name, rest))
    elif kind.uid == _DRIVER:
        event["driver"] = {"file": {"name": rest.pop("name"), "type_id": _UNKNOWN}}
    elif kind.uid == _PROCESS:
        event.update(_activity(name, rest, process))
    if kind.uid != _BASE:
        event["actor"] = {"process": process}
        event["device"] = host
        if "container" in rest:
            # The profile "container" would have a place for it on the class; the process has one without.
            process["container"] = {"uid": rest.pop("container")}
            metadata.setdefault("profiles", []).append("container")
    event["unmapped"] = {"time_ns": values["time_ns"], **rest}
    return event


def _process(rest: dict[str, Any]) -> dict[str, Any]:
    """Who did it."""
    process: dict[str, Any] = {}
    for ours, theirs in (("pid", "pid"), ("tid", "tid"), ("comm", "name")):
        if ours in rest:
            process[theirs] = rest.pop(ours)
    if "exe" in rest:
        process["file"] = _named(rest.pop("exe"), _REGULAR_FILE)
    if "ppid" in rest:
        process["parent_process"] = {"pid": rest.pop("ppid")}
    user: dict[str, Any] = {}
    if "uid" in rest:
        user["uid"] = str(rest.pop("uid"))
    if "user" in rest:
        user["name"] = rest.pop("user")
    if "gid" in rest and user:
        user["groups"] = [{"uid": str(rest.pop("gid"))}]
    if user:
        process["user"] = user
    return process


def _network(name: str, rest: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for endpoint, ip, port in (("dst_endpoint", "dst_ip", "dport"), ("src_endpoint", "src_ip", "sport")):
        if ip in rest:
            shown[endpoint] = {"ip": rest.pop(ip)}
            if port in rest:
                shown[endpoint]["port"] = rest.pop(port)
    if "interface" in rest and "src_endpoint" in shown:
        shown["src_endpoint"]["interface_name"] = rest.pop("interface")
    outbound = name in ("connect", "sendto")
    connection: dict[str, Any] = {
        "direction_id": 2 if outbound else 1,
        "direction": "Outbound" if outbound else "Inbound",
    }
    version = {"ipv4": 4, "ipv6": 6}.get(rest.get("family", ""))
    if version is not None:
        rest.pop("family")
        connection["protocol_ver_id"] = version
    protocol = rest.get("protocol")
    if protocol in _PROTOCOLS:
        connection["protocol_name"] = rest.pop("protocol")
        connection["protocol_num"] = _PROTOCOLS[protocol]
    shown["connection_info"] = connection
    return shown


def _file(name: str, rest: dict[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"file": _named(rest.pop("path"), _DIRECTORY if name == "mkdir" else _UNKNOWN)}
    if "inode" in rest:
        shown["file"]["uid"] = str(rest.pop("inode"))
    if name == "rename" and "new_path" in rest:
        shown["file_result"] = _named(rest.pop("new_path"), _UNKNOWN)
    return shown


def _activity(name: str, rest: dict[str, Any], actor: Mapping[str, Any]) -> dict[str, Any]:
    if name == "exec":
        process = dict(actor)
        if "path" in rest:
            process["file"] = _named(rest.pop("path"), _REGULAR_FILE)
        if "argv" in rest:
            process["cmd_line"] = " ".join(rest.pop("argv"))
        return {"process": process}
    if name == "fork":
        return {"process": {"pid": rest.pop("child_pid", 0)}}
    if name == "exit":
        return {"process": dict(actor), **({"exit_code": rest.pop("status")} if "status" in rest else {})}
    return {"process": {"pid": rest.pop("target_pid", 0)}}


def _named(path: str, type_id: int) -> dict[str, Any]:
    return {"name": path.rpartition("/")[2] or path, "path": path, "type_id": type_id}
