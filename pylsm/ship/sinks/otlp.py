"""An event as an OpenTelemetry log record (logs data model 1.x, semantic conventions for processes, files, networks).

Requests are made of the official protobuf definitions (opentelemetry-proto). The SDK's exporters are not used: their
API for logs is private still, they answer success or failure only, and a collector that throws part of a batch away
(``partial_success``) is success to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pylsm.ship.identity import Identity
from pylsm.ship.sinks.fields import fields_of, kind_of
from pylsm.ship.spool import LOST, Item

__all__ = ["request"]

#: Our field → the attribute of the semantic conventions. What has none is ``pylsm.NAME``.
_ATTRIBUTES = {
    "pid": "process.pid",
    "ppid": "process.parent_pid",
    "exe": "process.executable.path",
    "argv": "process.command_args",
    "tid": "thread.id",
    "comm": "thread.name",
    "uid": "process.real_user.id",
    "path": "file.path",
    "inode": "file.inode",
    "dst_ip": "destination.address",
    "dport": "destination.port",
    "src_ip": "source.address",
    "sport": "source.port",
    "family": "network.type",
    "container": "container.id",
}
_TEXT = {"file.inode", "process.real_user.id"}
_FIRST = ("event", "time_ns", "version")


def request(identity: Identity, batch: Sequence[Item], version: str) -> Any:
    """An ExportLogsServiceRequest of these events, in their order.

    Args:
        identity: whose events they are.
        batch: the events.
        version: of pylsm.
    """
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.logs.v1 import logs_pb2

    made = ExportLogsServiceRequest()
    resource = made.resource_logs.add()
    for name, value in (
        ("service.name", "pylsm"),
        ("service.version", version),
        ("service.instance.id", identity.spool),
        ("host.id", identity.host),
        ("host.name", identity.name),
    ):
        _attribute(resource.resource.attributes, name, value)
    scope = resource.scope_logs.add()
    scope.scope.name = "pylsm"
    scope.scope.version = version
    for item in batch:
        kind, time_ns = kind_of(item.line)
        record = scope.log_records.add()
        record.time_unix_nano = record.observed_time_unix_nano = time_ns
        lost = kind == LOST
        record.severity_number = logs_pb2.SEVERITY_NUMBER_WARN if lost else logs_pb2.SEVERITY_NUMBER_INFO
        record.severity_text = "WARN" if lost else "INFO"
        record.event_name = f"pylsm.{kind}"
        record.body.string_value = item.line.decode("ascii")
        _attribute(record.attributes, "log.record.uid", identity.event_id(item.first, item.last))
        for name, value in fields_of(item.line).items():
            if name not in _FIRST and value is not None:
                _attribute(record.attributes, _ATTRIBUTES.get(name, f"pylsm.{name}"), value)
    return made


def _attribute(attributes: Any, name: str, value: object) -> None:
    added = attributes.add()
    added.key = name
    _value(added.value, str(value) if name in _TEXT else value)


def _value(into: Any, value: object) -> None:
    if isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        into.int_value = value
    elif isinstance(value, float):
        into.double_value = value
    elif isinstance(value, list):
        into.array_value.SetInParent()
        for item in value:
            _value(into.array_value.values.add(), item)
    else:
        into.string_value = str(value).encode("utf-8", "replace").decode()
