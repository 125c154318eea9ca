"""The layouts of bpf_attr against a table that was written down from the kernel's header."""

from __future__ import annotations

import ctypes
import struct
import sys
import threading

import pytest

from pylsm.libc import Layout, Memory
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


@pytest.mark.parametrize("structure", OFFSETS, ids=lambda structure: structure.name)
def test_offsets_are_the_kernels(structure: Layout) -> None:
    assert {name: structure.places()[name][0] for name in OFFSETS[structure]} == OFFSETS[structure]


def _structures() -> list[Layout]:
    return [value for value in vars(attr).values() if isinstance(value, Layout)]


@pytest.mark.parametrize("structure", _structures(), ids=lambda structure: structure.name)
def test_no_hole_is_left_to_the_compiler(structure: Layout) -> None:
    """A hole that is not written out would lie elsewhere where 64-bit integers are aligned to 4 bytes."""
    numbers = [
        (name, offset, form) for name, (offset, form, _) in structure.places().items() if form.format[-1:] != "s"
    ]
    for name, offset, form in numbers:
        assert offset % form.size == 0, name
    if any(form.size == 8 for _, _, form in numbers):
        assert len(structure()) % 8 == 0


#: One of each form.
Sample = Layout(
    "Sample",
    """
        u8 small
        u8 bytes[3]
        s32 signed
        char text[8]
        u64 large
    """,
)


def test_fields_are_attributes_of_memory_that_the_kernel_writes() -> None:
    sample = Sample(small=255, text=b"abc", large=(1 << 64) - 1)
    assert (sample.small, sample.bytes, sample.signed, sample.text, sample.large) == (
        255,
        bytes(3),
        0,
        b"abc",
        2**64 - 1,
    )
    sample.signed, sample.bytes = -2, b"x\0y"
    assert (sample.signed, sample.bytes, sample.text) == (-2, b"x\0y", b"abc")
    assert bytes(sample.memory) == struct.pack("=B3si8sQ", 255, b"x\0y", -2, b"abc", 2**64 - 1)
    assert len(sample) == 24 and ctypes.string_at(sample.address, 24) == bytes(sample.memory)
    ctypes.memmove(sample.address, b"\7", 1)
    assert sample.small == 7


def test_a_field_that_is_none_is_refused() -> None:
    for wrong in (lambda: Sample(other=1), lambda: setattr(Sample(), "other", 1)):
        with pytest.raises((KeyError, AttributeError), match="other"):
            wrong()
    with pytest.raises(AttributeError, match="no field 'other'"):
        Sample().other  # noqa: B018
    with pytest.raises(struct.error):
        Sample(small=256)


def test_memory_stays_where_it_is() -> None:
    memory = Memory(b"abc\0d")
    assert ctypes.string_at(memory.address, 5) == bytes(memory) and memory.text() == b"abc"
    with pytest.raises(BufferError):
        memory.extend(b"more")
    assert Memory(0).address == 0 and Memory(3) == bytes(3)


def test_threads_that_make_the_first_structure_of_a_layout_at_once() -> None:
    fields = "\n".join(f"u64 f{number}" for number in range(40))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            layout, sizes = Layout("x", fields), []
            threads = [threading.Thread(target=lambda: sizes.append(len(layout(f39=1)))) for _ in range(4)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sizes == [320] * 4
    finally:
        sys.setswitchinterval(interval)
