"""Damaged object files: an error that names section and offset, in bounded time and memory, whatever the damage."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pylsm.loader.elf import ElfError, ObjectFile

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "elf"
OBJECTS = {path.name: path.read_bytes() for path in sorted(FIXTURES.glob("*.bpf.o"))}
GOOD = OBJECTS["raw_tp.bpf.o"]


def sections(data: bytes) -> dict[str, tuple[int, int, int]]:
    """Name → (offset of its header, offset, size); written for the tests, from the System V ABI."""
    (start,) = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    (table,) = struct.unpack_from("<Q", data, start + names * 64 + 24)
    found = {}
    for number in range(count):
        header = start + number * 64
        (name,) = struct.unpack_from("<I", data, header)
        offset, size = struct.unpack_from("<QQ", data, header + 24)
        end = data.index(b"\0", table + name)
        found[data[table + name : end].decode()] = (header, offset, size)
    return found


PLACES = sections(GOOD)


def changed(at: int, value: int, size: int, data: bytes = GOOD) -> bytes:
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]


def refused(data: bytes, match: str) -> ElfError:
    with pytest.raises(ElfError, match=match) as caught:
        everything(data)
    assert caught.value.section and caught.value.section in str(caught.value)
    return caught.value


def everything(data: bytes) -> None:
    """Read all of an object, and answer its questions from its own types."""
    file = ObjectFile(data, "test")
    for name in file.programs:
        file.program(name, file.btf)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_undamaged_objects_are_read(name: str) -> None:
    everything(OBJECTS[name])


def test_opening_imports_no_library() -> None:
    """Which would take longer than all of the reading."""
    path = str(FIXTURES / "raw_tp.bpf.o")
    code = f"from pylsm.loader.elf import ObjectFile; ObjectFile.read({path!r}); import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"elftools", "construct", "pyroute2"} & set(run.stdout.split())


@pytest.mark.parametrize("name", OBJECTS)
def test_truncated_at_every_byte(name: str) -> None:
    data = OBJECTS[name]
    began = time.process_time()
    for length in range(len(data)):
        with pytest.raises(ElfError) as caught:
            ObjectFile(data[:length])
        assert caught.value.section and caught.value.offset is not None
    assert time.process_time() - began < 60


@pytest.mark.parametrize("name", [name for name in PLACES if name and PLACES[name][2]])
def test_each_section_cut_short(name: str) -> None:
    """A section that ends early is refused, or says less; never anything else."""
    header, _, size = PLACES[name]
    for length in range(0, size, max(size // 60, 1)):
        data = changed(header + 32, length, 8)
        try:
            everything(data)
        except ElfError as error:
            assert error.section


def test_not_an_object_for_here() -> None:
    assert refused(changed(18, 62, 2), "machine 62, not BPF").offset == 18
    assert "little-endian" in str(refused(changed(5, 2, 1), "the object is big-endian"))
    refused(changed(4, 1, 1), "64-bit")
    refused(changed(16, 2, 2), "file type 2")
    refused(b"\x7fELF", "ends after 4 bytes")
    refused(b"", "begins with nothing")
    refused(b"#!/bin/sh\n" * 20, "no ELF file")


def test_headers_that_lead_outside() -> None:
    assert refused(changed(40, 1 << 63, 8), "section headers end").section == "ELF header"
    refused(changed(60, 0, 2), "0 sections")
    refused(changed(60, 0xFFFF, 2), "65535 sections")
    refused(changed(58, 32, 2), "headers of 32 bytes")
    refused(changed(62, 200, 2), "names of sections")


@pytest.mark.parametrize("size", [1 << 32, (1 << 32) - 1, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("name", ["raw_tp/sys_enter", ".BTF", ".BTF.ext", ".symtab", ".rodata", ".bss", ".maps"])
def test_sizes_of_4_gib_cost_nothing(name: str, size: int) -> None:
    header, _, _ = PLACES[name]
    tracemalloc.start()
    began = time.process_time()
    try:
        error = refused(changed(header + 32, size, 8), "ends at|size of|bytes of data")
        assert time.process_time() - began < 1
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert error.offset is not None


def test_overlapping_sections_cost_nothing() -> None:
    data = bytearray(GOOD)
    for header, _, _ in PLACES.values():
        data[header + 24 : header + 40] = struct.pack("<QQ", 0, len(GOOD))
    refused(bytes(data), "overlap|no ELF|.")


def test_no_types() -> None:
    names = PLACES[".shstrtab"] if ".shstrtab" in PLACES else PLACES[".strtab"]
    at = GOOD.index(b".BTF\0", names[1])
    # ".rel.BTF" ends in the same string: both lose their name.
    error = refused(changed(at + 1, ord("X"), 1), "no .BTF")
    assert error.section == ".maps" and "-g" in error.hint


def relocation(section: str, number: int) -> int:
    return PLACES[section][1] + 16 * number


def test_unknown_relocations() -> None:
    at = relocation(".relraw_tp/sys_enter", 0)
    for kind in (0, 2, 3, 4, 99):
        error = refused(changed(at + 8, kind, 4), f"relocation type {kind} for raw_tp/sys_enter")
        assert error.section == ".relraw_tp/sys_enter" and error.offset == 0
    refused(changed(at + 12, 10_000, 4), "symbol 10000 does not exist")
    refused(changed(at, 1 << 40, 8), "is outside of raw_tp/sys_enter")


def core_records() -> list[int]:
    """Offsets of the CO-RE records in the file."""
    _, offset, _ = PLACES[".BTF.ext"]
    (length,) = struct.unpack_from("<I", GOOD, offset + 4)
    start, _ = struct.unpack_from("<II", GOOD, offset + 24)
    at = offset + length + start
    _, _, count = struct.unpack_from("<III", GOOD, at)
    return [at + 12 + 16 * number for number in range(count)]


def test_unknown_core_relocations() -> None:
    first = core_records()[0]
    for kind in (13, 99, 0xFFFFFFFF):
        error = refused(changed(first + 12, kind, 4), f"CO-RE relocation kind {kind} is not known")
        assert error.section == ".BTF.ext" and error.offset == first - PLACES[".BTF.ext"][1]
        assert "raw_tp.bpf.c" in str(error)
    refused(changed(first + 4, 0xFFFFFF, 4), "no type with id")
    refused(changed(first + 8, 0xFFFFFF, 4), "name at 0xffffff")
    refused(changed(first, 4, 4), "where no instruction is")
    refused(changed(first, 1 << 20, 4), "where no instruction is")


def test_an_instruction_that_is_not_what_the_record_says() -> None:
    first = core_records()[0]
    (offset,) = struct.unpack_from("<I", GOOD, first)
    at = PLACES["raw_tp/sys_enter"][1] + offset
    refused(changed(at + 4, 77, 4), "the instruction holds 77, by its own types it should be")


def circular() -> bytes:
    """The object with every type that refers to a type referring to itself."""
    data = bytearray(GOOD)
    _, offset, _ = PLACES[".BTF"]
    head, start, size = struct.unpack_from("<III", data, offset + 4)
    at, end, number = offset + head + start, offset + head + start + size, 1
    extra = {1: 4, 3: 12, 14: 4, 17: 4}
    each = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}
    while at < end:
        info, _ = struct.unpack_from("<II", data, at + 4)
        kind, vlen = info >> 24 & 31, info & 0xFFFF
        if kind in (2, 8, 9, 10, 11, 18):
            struct.pack_into("<I", data, at + 8, number)
        at += 12 + extra.get(kind, 0) + each.get(kind, 0) * vlen
        number += 1
    return bytes(data)


def test_circular_types() -> None:
    began = time.process_time()
    with pytest.raises(ElfError):
        everything(circular())
    assert time.process_time() - began < 2


def test_type_ids_out_of_range() -> None:
    _, offset, _ = PLACES[".BTF"]
    head, start, size = struct.unpack_from("<III", GOOD, offset + 4)
    for at in range(offset + head + start + 8, offset + head + start + size - 4, 24):
        try:
            everything(changed(at, 0x7FFFFFFF, 4))
        except ElfError as error:
            assert error.section


@settings(max_examples=400, deadline=2000, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(sorted(OBJECTS)),
    changes=st.lists(
        st.tuples(
            st.integers(0, max(len(data) for data in OBJECTS.values())),
            st.sampled_from((1, 2, 4, 8)),
            st.one_of(
                st.sampled_from((0, 1, 0x7F, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 64) - 1)),
                st.integers(0, (1 << 64) - 1),
            ),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_any_damage(name: str, changes: list[tuple[int, int, int]]) -> None:
    data = bytearray(OBJECTS[name])
    for at, size, value in changes:
        at %= len(data) - 8
        data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
    try:
        everything(bytes(data))
    except ElfError as error:
        assert error.section, str(error)


def test_program_arrays_with_damaged_entries() -> None:
    """Every byte of the relocations that fill a program array, with every bit of it turned."""
    from pylsm.asm import R0, Asm, MapSpec, MapType
    from pylsm.loader.elf.writer import write_object

    array = MapSpec("jumps", MapType.PROG_ARRAY, key=4, value=4, max_entries=2)
    programs = []
    for name in ("first", "second"):
        a = Asm("raw_tp/sys_enter", name=name)
        a.call("tail_call", None, array, 0)
        a.mov(R0, 0)
        a.exit_()
        programs.append(a.build())
    data = write_object(programs, slots={"jumps": ["first", "second"]})
    opened = ObjectFile(data)
    assert opened._slots == {"jumps": {0: "first", 1: "second"}}
    section = opened._image.section(".rel.maps")
    assert section is not None and section.size == 32
    refused = 0
    for at in range(section.offset, section.offset + section.size):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            try:
                slots = ObjectFile(bytes(damaged))._slots
            except ElfError as error:
                assert ".rel.maps" in str(error) or ".maps" in str(error)
                refused += 1
            else:
                # A relocation's type, or one program or place for another: nothing that does not exist.
                assert all(n in (0, 1) and p in ("first", "second") for n, p in slots["jumps"].items())
    assert refused > 100
