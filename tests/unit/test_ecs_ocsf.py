"""ECS and OCSF: against their published definitions, and against what must not be said."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from cases.published import ECS, check_ecs
from jsonschema import ValidationError

from pylsm.audit.events import KINDS
from pylsm.output import ecs, jsonl, ocsf

#: Of each kind that pylsm has or may have, and of one that it has not, with every field of context.
COMMON = {
    "version": 1,
    "time_ns": 1_700_000_000_123_456_789,
    "pid": 7001,
    "tid": 7002,
    "uid": 7003,
    "gid": 7004,
    "cpu": 7005,
    "sequence": 7006,
    "comm": "curl",
}
CONTEXT = {
    "ppid": 7007,
    "exe": "/usr/bin/curl",
    "user": "root",
    "cgroup_id": 7008,
    "container": "c0ffee",
    "net_ns": 4026531840,
}
KIND_FIELDS: dict[str, dict[str, Any]] = {
    "connect": {"dst_ip": "2001:db8::1", "dport": 443, "family": "ipv6", "v4mapped": False, "scope": "public",
                "src_ip": "2001:db8::2", "interface": "eth0"},
    "sendto": {"dst_ip": "192.0.2.1", "dport": 53, "family": "ipv4", "protocol": "udp", "fastopen": False},
    "bind": {"src_ip": "0.0.0.0", "sport": 80, "family": "ipv4"},
    "listen": {"src_ip": "0.0.0.0", "sport": 80, "backlog": 5},
    "open": {"path": "/etc/passwd", "mode": "r", "open_flags": 0, "device": "8:1", "inode": 1 << 40, "mnt_ns": 7,
             "unlinked": False, "basename": False, "truncated": False, "already_open": True},
    "unlink": {"path": "/x"},
    "rename": {"path": "/x", "new_path": "/y"},
    "mkdir": {"path": "/d"},
    "chmod": {"path": "/x", "permissions": "0644"},
    "mmap": {"path": "/lib/x.so", "protection": "rx"},
    "exec": {"path": "/usr/bin/curl", "argv": ["curl", "-s"], "interpreter": "", "ppid": 6},
    "exit": {"status": 3, "signal": 0, "duration_ns": 5},
    "fork": {"child_pid": 10},
    "ptrace": {"target_pid": 10},
    "kill": {"target_pid": 10, "signal_number": 9},
    "mount": {"source": "/dev/sda", "path": "/mnt", "fstype": "ext4", "mount_flags": 0},
    "module": {"name": "loop"},
    "bpf": {"command": "PROG_LOAD"},
    "sneeze": {"loud": True, "path": "/dev/nose"},
}  # fmt: skip
LINES = [
    {**COMMON, "event": name, **fields, **context} for name, fields in KIND_FIELDS.items() for context in ({}, CONTEXT)
]
#: What this pylsm makes itself, whichever kinds it has.
OURS = [
    json.loads(jsonl.render(kind.make(**({kind.layout.tail_name: b"/\xff"} if kind.layout.tail_name else {}))))
    for kind in KINDS
]
BARE = [{"version": 1, "event": name, "time_ns": 0} for name in KIND_FIELDS]


def named(line: dict[str, Any]) -> str:
    return line["event"] + ("+context" if "container" in line else "")


# --- ECS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [*LINES, *OURS, *BARE], ids=named)
def test_ecs_holds_its_definitions(line: dict[str, Any]) -> None:
    document = ecs.from_dict(line)
    assert document["ecs"]["version"] == ECS["version"] == ecs.VERSION
    check_ecs(document)
    assert "outcome" not in document["event"]


def test_ecs_of_a_connect() -> None:
    line = next(line for line in LINES if line["event"] == "connect")
    document = ecs.from_dict(line)
    assert document["event"]["category"] == ["network"]
    assert document["event"]["type"] == ["connection", "start"]
    assert document["destination"] == {"ip": "2001:db8::1", "port": 443}
    assert document["network"] == {"type": "ipv6", "direction": "egress"}
    assert document["@timestamp"] == "2023-11-14T22:13:20.123456789Z"


def test_what_ecs_has_not_is_refused_by_this_test() -> None:
    document = ecs.from_dict(LINES[0])
    for change in ({"event": {**document["event"], "category": ["weather"]}}, {"process": {"pid": "7"}},
                   {"process": {"colour": "red"}}, {"destination": {"ip": "nowhere"}}):  # fmt: skip
        with pytest.raises((AssertionError, ValueError)):
            check_ecs({**document, **change})


# --- OCSF -----------------------------------------------------------------------------------------------------------

if sys.version_info >= (3, 10):  # as ocsf-json-schema needs
    from cases.published import RELEASES, get_ocsf_schema, ocsf_validator

    @pytest.mark.parametrize("line", [*LINES, *OURS, *BARE], ids=named)
    def test_ocsf_holds_its_definitions(line: dict[str, Any]) -> None:
        event = ocsf.from_dict(line)
        assert event["metadata"]["version"] == ocsf.VERSION == "1.5.0"
        ocsf_validator(event, "1.5.0").validate(event)
        release = RELEASES["1.5.0"]
        assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
        classes = get_ocsf_schema(version="1.5.0")["classes"]
        name = release.lookup_class_name_from_uid(class_uid=event["class_uid"])
        assert event["class_name"] == classes[name]["caption"]
        assert event["category_uid"] == classes[name].get("category_uid", 0)
        activity = classes[name]["attributes"]["activity_id"]["enum"][str(event["activity_id"])]["caption"]
        assert activity in ("Other", event["activity_name"])

    def test_later_releases_take_it_too() -> None:
        for line in LINES:
            event = ocsf.from_dict(line)
            ocsf_validator(event, "1.8.0").validate(event)

    def test_what_ocsf_has_not_is_refused_by_this_test() -> None:
        event = ocsf.from_dict(LINES[0])
        for change in ({"colour": "red"}, {"activity_id": 98}, {"time": "now"}, {"dst_endpoint": {"port": "x"}}):
            with pytest.raises(ValidationError):
                ocsf_validator(event, "1.5.0").validate({**event, **change})


def test_an_attempt_is_not_a_success() -> None:
    """No status anywhere; what the hook sees before its result has no activity but Other."""
    happened = {"open", "exec", "fork", "exit"}
    for line in LINES:
        event = ocsf.from_dict(line)
        assert not {"status", "status_id", "disposition_id", "action_id"} & event.keys()
        if line["event"] not in happened:
            assert event["activity_id"] == 99
            assert event["activity_name"].endswith("attempt") or event["class_uid"] == 0
    connect = ocsf.from_dict(LINES[0])
    assert (connect["class_uid"], connect["type_uid"]) == (4001, 400199)
    opened = ocsf.from_dict(next(line for line in LINES if line["event"] == "open"))
    assert (opened["class_uid"], opened["type_uid"]) == (1001, 100114)


@pytest.mark.parametrize("render", [ecs.from_dict, ocsf.from_dict])
def test_nothing_is_lost(render: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    for line in LINES:
        shown = json.dumps(render(line))
        for name, value in line.items():
            if name in ("version", "family", "protocol"):
                continue  # by their numbers in OCSF
            for item in value if isinstance(value, list) else [value]:
                assert str(item) in shown or json.dumps(item) in shown, (named(line), name)


def test_lines_are_ascii_json() -> None:
    for kind in KINDS:
        tail = {kind.layout.tail_name: b"/\xff\x1b\xe2\x80\xae"} if kind.layout.tail_name else {}
        for render in (ecs.render, ocsf.render):
            line = render(kind.make(comm=b"\x1b]0;", **tail))
            assert re.fullmatch(r"[\x20-\x7e]+", line)
            json.loads(line)
