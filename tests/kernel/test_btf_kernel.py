"""The kernel's own check of what the writer makes: BPF_BTF_LOAD."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from typing import Any

import pytest
from cases.lab import EMULATED
from hypothesis import given, settings
from hypothesis import strategies as st

from pylsm.btf import Btf, BtfWriter, Kind, declare

BPF_OBJ_GET_INFO_BY_FD, BPF_BTF_LOAD = 15, 18
SYSCALL = {"x86_64": 321, "aarch64": 280}.get(platform.machine())

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not sys.platform.startswith("linux") or SYSCALL is None, reason="no number for bpf(2)"),
    pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() != 0, reason="BPF_BTF_LOAD needs root"),
]

libc = ctypes.CDLL(None, use_errno=True)


def bpf(command: int, attr: bytes) -> int:
    buffer = ctypes.create_string_buffer(attr, 128)
    result: int = libc.syscall(SYSCALL, command, buffer, len(attr))
    return result if result >= 0 else -ctypes.get_errno()


def load(data: bytes) -> tuple[int, str]:
    """(file descriptor or -errno, the kernel's log)."""
    btf = ctypes.create_string_buffer(data, len(data))
    log = ctypes.create_string_buffer(1 << 20)
    attr = struct.pack("=QQIII", ctypes.addressof(btf), ctypes.addressof(log), len(data), len(log), 1)
    return bpf(BPF_BTF_LOAD, attr), log.value.decode(errors="replace")


def accepted(data: bytes) -> Btf:
    """Load, ask the kernel for the bytes it keeps, and read those."""
    fd, log = load(data)
    if fd == -errno.EPERM:
        pytest.skip("this kernel refuses BPF_BTF_LOAD (EPERM)")
    assert fd >= 0, f"{errno.errorcode.get(-fd)}: {log[-2000:]}"
    try:
        kept = ctypes.create_string_buffer(len(data))
        info = ctypes.create_string_buffer(struct.pack("=QII", ctypes.addressof(kept), len(data), 0), 64)
        result = bpf(BPF_OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", fd, 16, ctypes.addressof(info)))
        assert result == 0
    finally:
        os.close(fd)
    assert kept.raw == data
    return Btf(kept.raw, name="kernel's copy")


def _alone(kind: Kind) -> bytes:
    """BTF with a type of that kind, and what it needs."""
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    if kind is Kind.FLOAT:
        writer.float_("double", 8)
    elif kind is Kind.DECL_TAG:
        writer.decl_tag("tag", writer.struct("s", [("m", integer, None)]))
    elif kind is Kind.TYPE_TAG:
        writer.ptr(writer.type_tag("tag", integer))
    else:
        writer.enum64("wide", [("FAR", 1 << 63)])
    return writer.encode()


def _lacking() -> frozenset[Kind]:
    """What this kernel is too old for: kinds that came behind one another, in 5.13, 5.16, 5.17 and 6.0."""
    later = (Kind.FLOAT, Kind.DECL_TAG, Kind.TYPE_TAG, Kind.ENUM64)
    lacking = frozenset(kind for kind in later if not _taken(_alone(kind)))
    assert lacking == frozenset(later[len(later) - len(lacking) :]), "one without those before it"
    return lacking


def _taken(data: bytes) -> bool:
    fd, _ = load(data)
    if fd >= 0:
        os.close(fd)
    return fd != -errno.EINVAL


LACKING = _lacking()


def test_every_kind() -> None:
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    char = writer.int_("char", 1, encoding=1)
    flag = writer.int_("_Bool", 1, encoding=4)
    wide = writer.int_("__int128", 16, True)
    node = writer.reserve()
    pointer = writer.ptr(node)
    later = writer.fwd("later", union=True)
    inner = writer.union("", [("as_int", integer, None), ("as_chars", writer.array(char, 4), None)])
    writer.struct(
        "node",
        [
            ("next", pointer, None),
            ("", inner, None),
            ("low", integer, None, 3),
            ("high", integer, None, 29),
            ("flag", flag, None),
            ("wide", wide, None),
            ("later", writer.ptr(later), None),
            ("tail", writer.array(char, 0), None),
        ],
        id=node,
    )
    alias = writer.typedef("node_t", writer.const(writer.volatile(node)))
    writer.restrict(pointer)
    if Kind.ENUM64 in LACKING:  # nor do such kernels take enumerations that say that they are signed
        writer.enum("colour", [("RED", 1), ("GREEN", 0x7FFFFFFF)])
    else:
        writer.enum("colour", [("RED", -1), ("GREEN", 0x7FFFFFFF)])
        writer.enum64("wide_one", [("FAR", 1 << 63)])
        writer.enum64("wide_signed", [("FAR_BELOW", -(1 << 63))])
    writer.enum("unsigned_one", [("MOST", 0xFFFFFFFF)], 8)
    if Kind.FLOAT not in LACKING:
        writer.float_("double", 8)
    proto = writer.func_proto(integer, [("self", writer.ptr(alias)), ("", 0)])
    func = writer.func("walk", proto, 0)
    writer.func("walk_all", proto, 1)
    head = writer.var("head", alias, 1)
    hidden = writer.var("hidden", integer, 0)
    size = 64
    writer.datasec(".data", [(head, 0, size), (hidden, size, 4)])
    if Kind.DECL_TAG not in LACKING:
        writer.decl_tag("checked", func, 0)
        writer.decl_tag("whole", node)
    if Kind.TYPE_TAG not in LACKING:
        writer.ptr(writer.type_tag("user", char))
    btf = accepted(writer.encode())
    assert {btf.type(id).kind for id in btf.types()} == {*Kind} - {Kind.VOID} - LACKING
    assert btf.size_of(node) == size


def test_what_declare_makes() -> None:
    shapes = {
        "file": {"f_inode": "struct inode *", "f_path": "struct path", "f_flags": "unsigned int", "ok": "bool"},
        "path": {"mnt": "struct vfsmount *", "dentry": "struct dentry *"},
        "thing": {"name": "char[16]", "inner": "struct path[2]", "grid": "u16[2][3]", "kind": "enum x"},
        "union either": {"small": "s8", "big": "u64", "self": "union either *"},
    }
    declared = declare(shapes)
    writer_bytes = declared_bytes(declared)
    assert accepted(writer_bytes).member("thing", "inner[1].dentry").offset == 40


def declared_bytes(declared: Btf) -> bytes:
    """The bytes that a Btf was made from (24 bytes of header, then types, then strings)."""
    types = declared._words.tobytes()
    strings = bytes(declared._strings[declared._strings_start : declared._strings_end])
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def test_longest_names_and_many_members() -> None:
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    writer.struct("s" * 127, [(f"m{number}", integer, None) for number in range(5000)])
    writer.enum("e" * 127, [(f"E{number}", number) for number in range(5000)])
    assert accepted(writer.encode()).member("s" * 127, "m4999").offset == 4 * 4999


@st.composite
def sound(draw: st.DrawFn) -> bytes:
    """BTF as a program has it: sized members, resolvable references, named parameters."""
    writer = BtfWriter()
    sized = [writer.int_("int", 4, True), writer.int_("char", 1, encoding=1), writer.int_("u64", 8)]
    pointers = [0, *sized]
    structs: list[int] = []
    functions: list[int] = []
    variables: list[tuple[int, int]] = []
    for number in range(draw(st.integers(1, 30))):
        pick = st.sampled_from(sized)
        which = draw(st.integers(0, 11))
        if which <= 2:
            names = [f"m{n}" for n in range(draw(st.integers(0, 6)))]
            listed: list[Any] = [(name, draw(pick), None) for name in names]
            if draw(st.booleans()):
                bits = draw(st.lists(st.integers(1, 32), max_size=4))
                listed += [(f"b{n}", sized[0], None, width) for n, width in enumerate(bits)]
            made = writer.struct(draw(st.sampled_from(["", f"s{number}"])), listed)
            structs.append(made)
        elif which == 3:
            made = writer.union(f"u{number}", [(f"m{n}", draw(pick), None) for n in range(draw(st.integers(0, 4)))])
            structs.append(made)
        elif which == 4:
            made = writer.ptr(draw(st.sampled_from(pointers)))
        elif which == 5:
            made = writer.array(draw(pick), draw(st.integers(0, 9)))
        elif which == 6:
            made = writer.typedef(f"t{number}", draw(pick))
        elif which == 7:
            made = draw(st.sampled_from([writer.const, writer.volatile]))(draw(pick))
        elif which == 8:
            least = 0 if Kind.ENUM64 in LACKING else -(1 << 31)
            values = draw(st.lists(st.integers(least, (1 << 31) - 1), max_size=4))
            made = writer.enum(f"e{number}", [(f"E{number}_{n}", value) for n, value in enumerate(values)])
        elif which == 9:
            if Kind.ENUM64 in LACKING:
                continue
            values = draw(st.lists(st.integers(0, (1 << 64) - 1), max_size=4))
            made = writer.enum64(f"w{number}", [(f"W{number}_{n}", value) for n, value in enumerate(values)])
        elif which == 10:
            params = [(f"p{n}", draw(pick)) for n in range(draw(st.integers(0, 5)))]
            proto = writer.func_proto(draw(st.sampled_from([0, *sized])), params)
            functions.append(writer.func(f"f{number}", proto, draw(st.integers(0, 1))))
            if Kind.DECL_TAG not in LACKING:
                writer.decl_tag("tag", functions[-1], draw(st.integers(-1, len(params) - 1)))
            pointers.append(proto)
            continue
        else:
            target = draw(pick)
            variables.append((writer.var(f"v{number}", target, draw(st.integers(0, 1))), target))
            continue
        sized.append(made)
        pointers.append(made)
    btf = Btf(writer.encode())
    offset, listed = 0, []
    for variable, target in variables:
        size = btf.size_of(target)
        if size:
            listed.append((variable, offset, size))
            offset += size
    if listed:
        writer.datasec(".bss", listed)
    for id in structs if Kind.DECL_TAG not in LACKING else []:
        writer.decl_tag("kept", id)
    return writer.encode()


@given(sound())
@settings(max_examples=40 if EMULATED else 200, deadline=None)
def test_the_kernel_accepts_what_is_sound(data: bytes) -> None:
    accepted(data)


def test_the_kernel_does_check() -> None:
    """The tests above could not fail if it took anything."""
    writer = BtfWriter()
    writer.struct("s", [("m", writer.int_("int", 4, True), 0)], 4)
    data = writer.encode()
    accepted(data)
    for broken in (data.replace(b"\0s\0", b"\0-\0"), data[:-1] + b"x", data.replace(b"\xeb", b"\xec")):
        fd, log = load(broken)
        assert fd == -errno.EINVAL, log
