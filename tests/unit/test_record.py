"""Record: offsets, decoder and BTF against construct, which stays the definition."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from construct import Array, Bytes, Float32l, GreedyBytes, Int8un, Int16sn, Int16ub, Int32un, Int64sn, PascalString
from hypothesis import given, settings
from hypothesis import strategies as st

from pylsm.audit.records import CONNECT, COUNTERS, FILE_OPEN, SCRATCH, SETTINGS, TGID
from pylsm.btf import Btf, BtfWriter
from pylsm.record import LayoutError, Record

MIXED = Record(
    "mixed",
    "a" / Int8un,
    "b" / Array(3, Int8un),
    "c" / Int16sn,
    "d" / Int16ub,
    "e" / Int64sn,
    "f" / Array(2, Int32un),
    "name" / Bytes(5),
    "pad" / Bytes(3),
    "rest" / GreedyBytes,
)
ALL = (CONNECT, FILE_OPEN, SETTINGS, COUNTERS, TGID, SCRATCH, MIXED)


def by_name(record: Record) -> str:
    return record.name


@pytest.mark.parametrize("record", ALL, ids=by_name)
def test_each_offset_is_where_construct_writes_the_field(record: Record) -> None:
    for name in record.fields:
        zeros = record.construct.parse(bytes(record.size))
        ones = record.construct.parse(b"\xff" * record.size)
        data = record.pack({**zeros, name: ones[name]})
        offset, size = record.field(name)
        assert data == bytes(offset) + b"\xff" * size + bytes(record.size - offset - size)


@pytest.mark.parametrize("record", ALL, ids=by_name)
@settings(deadline=None)  # construct is imported in the first
@given(data=st.data())
def test_the_decoder_reads_what_construct_reads(record: Record, data: Any) -> None:
    tail = data.draw(st.binary(max_size=40)) if record.tail_name else b""
    # A short pattern, since the scratch buffer is larger than what hypothesis likes to draw.
    pattern = data.draw(st.binary(min_size=1, max_size=64))
    raw = (pattern * (record.size // len(pattern) + 1))[: record.size] + tail
    parsed = dict(record.construct.parse(raw))
    del parsed["_io"]
    assert record.unpack(raw) == parsed
    assert record.unpack(memoryview(raw)) == parsed
    assert record.pack(parsed) == raw


@pytest.mark.parametrize("record", ALL, ids=by_name)
def test_too_short_is_an_error_that_says_so(record: Record) -> None:
    with pytest.raises(LayoutError, match=f"{record.size - 1} bytes are shorter than the {record.size}"):
        record.unpack(bytes(record.size - 1))


def test_the_variable_part_lies_behind_the_rest() -> None:
    assert FILE_OPEN.field("path") == (FILE_OPEN.size, 0)
    assert "path" not in FILE_OPEN.fields
    with pytest.raises(KeyError, match="it has source, kind"):
        FILE_OPEN.field("pathname")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (("x" / Float32l,), "no C type"),
        (("x" / PascalString(Int8un, "utf8"),), "no C type"),
        (("x" / Int8un, "y" / Int32un), "y at byte 1 is not aligned"),
        (("x" / GreedyBytes, "y" / Int8un), "after the variable part x"),
    ],
)
def test_what_c_cannot_express_is_refused(fields: Any, why: str) -> None:
    with pytest.raises(LayoutError, match=why):
        Record("r", *fields)


@pytest.mark.parametrize("record", ALL, ids=by_name)
def test_btf_has_the_same_layout(record: Record, tmp_path: Path) -> None:
    """Read back by our reader and, independently, by bpftool."""
    writer = BtfWriter()
    number = record.btf(writer)
    blob = writer.encode()
    btf = Btf(blob, name="made here")
    for name in record.fields:
        member = btf.member(number, name)
        assert (member.offset, member.size) == record.field(name)
    assert btf.type(number).size == record.size

    path = tmp_path / "record.btf"
    path.write_bytes(blob)
    dump = subprocess.run(["bpftool", "btf", "dump", "file", path], capture_output=True, text=True, check=True).stdout
    block = dump[dump.index(f"STRUCT '{record.name}' size={record.size} ") :].splitlines()[1:]
    offsets = dict(re.findall(r"'(\w+)' type_id=\d+ bits_offset=(\d+)", "\n".join(block)))
    wanted = {name: str(record.field(name)[0] * 8) for name in (*record.fields, record.tail_name) if name}
    assert offsets == wanted


def test_the_records_of_the_ring_keep_their_shape() -> None:
    """Other tools read the ring too: a change here is a change of its format."""
    assert (CONNECT.size, FILE_OPEN.size) == (80, 84)
    for record in (CONNECT, FILE_OPEN):
        assert record.field("source") == (0, 4)
        assert record.field("kind") == (4, 2)
        assert record.field("pid_tgid") == (8, 8)
    assert CONNECT.pack(
        {
            "source": 8,
            "kind": 1,
            "flags": 0,
            "pid_tgid": 7 << 32 | 9,
            "uid_gid": 0,
            "time": 1,
            "sequence": 3,
            "comm": b"x".ljust(16, b"\0"),
            "cpu": 2,
            "family": 2,
            "port": 443,
            "address": bytes(16),
        }
    ) == struct.pack("=IHHQQQQ16sIH", 8, 1, 0, 7 << 32 | 9, 0, 1, 3, b"x", 2, 2) + struct.pack(">H", 443) + bytes(16)


def test_a_map_key_has_no_padding_that_could_differ() -> None:
    """The kernel compares keys by their bytes."""
    assert SETTINGS.size == sum(SETTINGS.field(name)[1] for name in SETTINGS.fields)
