"""The layouts of bpf_attr against a table that was written down from the kernel's header."""

from __future__ import annotations

import ctypes

import pytest

from pylsm.loader import attr

#: Structure → {field: offset}, from include/uapi/linux/bpf.h.
OFFSETS = {
    attr.MapCreateAttr: {
        "map_type": 0, "key_size": 4, "value_size": 8, "max_entries": 12, "map_flags": 16, "inner_map_fd": 20,
        "map_name": 28, "btf_fd": 48, "btf_key_type_id": 52, "btf_value_type_id": 56, "map_extra": 64,
    },
    attr.MapElementAttr: {"map_fd": 0, "key": 8, "value": 16, "flags": 24},
    attr.BatchAttr: {
        "in_batch": 0, "out_batch": 8, "keys": 16, "values": 24, "count": 32, "map_fd": 36, "elem_flags": 40,
        "flags": 48,
    },
    attr.ProgLoadAttr: {
        "prog_type": 0, "insn_cnt": 4, "insns": 8, "license": 16, "log_level": 24, "log_size": 28, "log_buf": 32,
        "prog_flags": 44, "prog_name": 48, "expected_attach_type": 68, "prog_btf_fd": 72, "func_info_rec_size": 76,
        "func_info": 80, "func_info_cnt": 88, "line_info_rec_size": 92, "line_info": 96, "line_info_cnt": 104,
        "attach_btf_id": 108, "attach_obj_fd": 112, "fd_array": 120, "log_true_size": 140,
    },
    attr.RawTracepointAttr: {"name": 0, "prog_fd": 8, "cookie": 16},
    attr.LinkCreateAttr: {"prog_fd": 0, "target_fd": 4, "attach_type": 8, "flags": 12, "iter_info": 16, "cookie": 24},
    attr.PinAttr: {"pathname": 0, "bpf_fd": 8, "file_flags": 12, "path_fd": 16},
    attr.InfoAttr: {"bpf_fd": 0, "info_len": 4, "info": 8},
    attr.ProgInfoAttr: {
        "tag": 8, "map_ids": 56, "name": 64, "btf_id": 128, "run_time_ns": 192, "run_cnt": 200,
        "recursion_misses": 208, "verified_insns": 216,
    },
    attr.MapInfoAttr: {"name": 24, "btf_id": 64, "btf_key_type_id": 68, "btf_value_type_id": 72, "map_extra": 80},
    attr.BtfLoadAttr: {
        "btf": 0, "btf_log_buf": 8, "btf_size": 16, "btf_log_size": 20, "btf_log_level": 24, "btf_log_true_size": 28,
    },
    attr.TestRunAttr: {
        "prog_fd": 0, "retval": 4, "data_size_in": 8, "data_size_out": 12, "data_in": 16, "data_out": 24,
        "repeat": 32, "duration": 36, "ctx_size_in": 40, "ctx_size_out": 44, "ctx_in": 48, "ctx_out": 56, "flags": 64,
        "cpu": 68,
    },
    attr.EnableStatsAttr: {"type": 0},
    attr.IterCreateAttr: {"link_fd": 0, "flags": 4},
}  # fmt: skip


@pytest.mark.parametrize("structure", OFFSETS, ids=lambda structure: structure.__name__)
def test_offsets_are_the_kernels(structure: type[ctypes.Structure]) -> None:
    assert {name: getattr(structure, name).offset for name in OFFSETS[structure]} == OFFSETS[structure]


def _structures() -> list[type[ctypes.Structure]]:
    return [
        value
        for value in vars(attr).values()
        if isinstance(value, type) and issubclass(value, ctypes.Structure) and value is not ctypes.Structure
    ]


@pytest.mark.parametrize("structure", _structures(), ids=lambda structure: structure.__name__)
def test_no_hole_is_left_to_the_compiler(structure: type[ctypes.Structure]) -> None:
    """A hole that is not written out would lie elsewhere where 64-bit integers are aligned to 4 bytes."""
    end = 0
    for name, *_ in structure._fields_:
        field = getattr(structure, name)
        assert field.offset == end, name
        end += field.size
        if field.size == 8 and name not in ("tag",):
            assert field.offset % 8 == 0, name
    if any(getattr(structure, name).size == 8 for name, *_ in structure._fields_):
        assert end == ctypes.sizeof(structure)
