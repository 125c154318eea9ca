"""CO-RE questions: fields, existence, sizes and enum values of one kernel."""

from __future__ import annotations

import pytest

from pylsm.btf import Btf, BtfError, BtfNotFound, Kind, declare
from pylsm.btf.relocate import enum_value, exists, resolve_field, type_exists, type_size
from pylsm.btf.writer import BtfWriter


@pytest.fixture(scope="module")
def kernel() -> Btf:
    shapes = {
        "task_struct": {"pid": "int", "__state": "unsigned int", "parent": "struct task_struct *"},
        "new_name": {"there": "u64"},
        "union either": {"a": "u64"},
    }
    return declare(shapes, name="kernel 6.0")


def test_resolve_field(kernel: Btf) -> None:
    assert resolve_field(kernel, "task_struct", "pid").offset == 0
    # renamed in 5.14
    assert resolve_field(kernel, "task_struct", "state", ["__state"]).offset == 4
    # the first that exists is taken
    assert resolve_field(kernel, "struct task_struct", "__state", ["pid"]).offset == 4
    assert resolve_field(kernel, "old_name", "here", ["x", ("new_name", "here"), ("new_name", "there")]).size == 8


def test_resolve_field_says_what_is_missing_and_where(kernel: Btf) -> None:
    with pytest.raises(BtfNotFound) as caught:
        resolve_field(kernel, "task_struct", "_state")
    assert str(caught.value) == "no member '_state' in struct task_struct of kernel 6.0; nearest: __state"
    with pytest.raises(BtfNotFound) as caught:
        resolve_field(kernel, "task_struct", "stat", ["tate", ("gone", "x")])
    message = str(caught.value)
    assert "no field 'task_struct.stat'" in message
    assert "kernel 6.0" in message
    assert "nor task_struct.tate, gone.x" in message
    assert caught.value.nearest == ["__state"]
    with pytest.raises(BtfNotFound, match=r"no struct 'tusk_struct' in kernel 6\.0; nearest: task_struct"):
        resolve_field(kernel, "tusk_struct", "pid")
    with pytest.raises(BtfError, match="parent is a pointer") as crossed:
        resolve_field(kernel, "task_struct", "parent.pid", ["pid"])
    assert not isinstance(crossed.value, BtfNotFound)


def test_exists(kernel: Btf) -> None:
    assert exists(kernel, "task_struct", "pid")
    assert not exists(kernel, "task_struct", "tgid")
    assert not exists(kernel, "cask_struct", "pid")
    with pytest.raises(BtfError, match="parent is a pointer"):
        exists(kernel, "task_struct", "parent.pid")


def test_types(kernel: Btf) -> None:
    assert type_exists(kernel, "task_struct")
    assert type_exists(kernel, "struct task_struct")
    assert type_exists(kernel, "union either")
    assert not type_exists(kernel, "union task_struct")
    assert not type_exists(kernel, "enum task_struct")
    assert not type_exists(kernel, "task_struc")
    assert type_size(kernel, "task_struct") == 16
    with pytest.raises(BtfNotFound, match=r"no enum 'either' in kernel 6\.0"):
        type_size(kernel, "enum either")


def test_enum_value() -> None:
    writer = BtfWriter()
    writer.enum("pid_type", [("PIDTYPE_PID", 0), ("PIDTYPE_TGID", 1)])
    writer.enum64("flags", [("FAR", 1 << 40)])
    kernel = Btf(writer.encode(), name="k")
    assert enum_value(kernel, "pid_type", "PIDTYPE_TGID") == 1
    assert enum_value(kernel, "flags", "NEAR", ["FAR"]) == 1 << 40
    assert type_exists(kernel, "enum flags") and kernel.type(kernel.find_c("enum flags")).kind is Kind.ENUM64
    with pytest.raises(BtfNotFound, match="no enumerator 'PIDTYPE_SID' in enum pid_type of k; nearest: PIDTYPE_PID"):
        enum_value(kernel, "pid_type", "PIDTYPE_SID", ["PIDTYPE_MAX"])
