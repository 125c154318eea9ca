"""Names, paths and sizes on small BTFs made for the purpose."""

from __future__ import annotations

import mmap
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import pylsm.btf.reader
from pylsm.btf import Btf, BtfError, BtfNotFound, BtfWriter, Kind
from pylsm.btf.index import TypeIndex
from pylsm.errors import PylsmError


@pytest.fixture(scope="module")
def btf() -> Btf:
    """
    struct qstr { union { struct { u32 hash; u32 len; }; u64 hash_len; }; const unsigned char *name; };
    struct dentry { unsigned flags:3; int ref:29; struct qstr d_name; u16 grid[3][4]; char tail[]; };
    """
    writer = BtfWriter()
    u32 = writer.int_("unsigned int", 4)
    s32 = writer.int_("int", 4, True)
    u16 = writer.int_("unsigned short", 2)
    u64 = writer.int_("unsigned long", 8)
    char = writer.int_("char", 1, encoding=1)
    pair = writer.struct("", [("hash", u32, None), ("len", u32, None)])
    either = writer.union("", [("", pair, None), ("hash_len", u64, None)])
    name = writer.ptr(writer.const(writer.int_("unsigned char", 1)))
    qstr = writer.struct("qstr", [("", either, None), ("name", name, None)])
    alias = writer.typedef("qstr_t", writer.volatile(qstr))
    dentry = writer.struct(
        "dentry",
        [
            ("flags", u32, None, 3),
            ("ref", s32, None, 29),
            ("d_name", writer.const(alias), None),
            ("grid", writer.array(writer.array(u16, 4), 3), None),
            ("tail", writer.array(char, 0), None),
        ],
    )
    holder = writer.struct("holder", [("all", writer.array(dentry, 2), None), ("one", writer.ptr(dentry), None)])
    writer.typedef("holder_t", holder)
    writer.union("qstr_or", [("q", qstr, None), ("n", u64, None)])
    writer.struct("same", [("from_struct", u32, None)])
    writer.union("same", [("from_union", u32, None)])
    writer.enum("colour", [("RED", 1), ("GREEN", 2)])
    writer.typedef("colour_t", writer.enum("", [("BLUE", -3)]))
    writer.enum64("far", [("AWAY", 1 << 63)])
    proto = writer.func_proto(s32, [("d", writer.ptr(dentry)), ("", 0)])
    writer.func("look", proto, 1)
    writer.typedef("look_t", writer.ptr(proto))
    writer.fwd("elsewhere")
    return Btf(writer.encode(), name="test")


@pytest.mark.parametrize(
    ("struct", "path", "bit_offset", "bit_size", "size", "signed", "c_type"),
    [
        ("dentry", "flags", 0, 3, 4, False, "unsigned int"),
        ("dentry", "ref", 3, 29, 4, True, "int"),
        ("dentry", "d_name", 64, 0, 16, False, "const qstr_t"),
        ("dentry", "d_name.name", 128, 0, 8, False, "const unsigned char *"),
        ("dentry", "d_name.len", 96, 0, 4, False, "unsigned int"),
        ("dentry", "d_name.hash_len", 64, 0, 8, False, "unsigned long"),
        ("dentry", "grid", 192, 0, 24, False, "unsigned short[3][4]"),
        ("dentry", "grid[2]", 192 + 128, 0, 8, False, "unsigned short[4]"),
        ("dentry", "grid[2][3]", 192 + 128 + 48, 0, 2, False, "unsigned short"),
        ("dentry", "tail", 384, 0, 0, False, "char[]"),
        ("dentry", "tail[9]", 384 + 72, 0, 1, True, "char"),
        ("struct holder", "all[1].d_name.len", 384 + 96, 0, 4, False, "unsigned int"),
        ("holder_t", "all[1].ref", 384 + 3, 29, 4, True, "int"),
        ("holder", "one", 768, 0, 8, False, "struct dentry *"),
        ("qstr_t", "name", 64, 0, 8, False, "const unsigned char *"),
        ("union qstr_or", "q.len", 32, 0, 4, False, "unsigned int"),
        ("same", "from_struct", 0, 0, 4, False, "unsigned int"),
        ("union same", "from_union", 0, 0, 4, False, "unsigned int"),
    ],
)
def test_member(
    btf: Btf, struct: str, path: str, bit_offset: int, bit_size: int, size: int, signed: bool, c_type: str
) -> None:
    member = btf.member(struct, path)
    assert member.name == path.rpartition(".")[2].partition("[")[0]
    assert (member.bit_offset, member.offset) == (bit_offset, bit_offset // 8)
    assert (member.bit_size, member.is_bitfield) == (bit_size, bit_size > 0)
    assert (member.size, member.signed) == (size, signed)
    assert btf.c_name(member.type_id) == c_type
    assert btf.member(btf.find_struct(struct), path) == member


@pytest.mark.parametrize(
    ("struct", "path", "error", "message"),
    [
        ("holder", "one.ref", BtfError, "'one.ref' of struct holder: one is a pointer (struct dentry *)"),
        ("holder", "all[0].d_name.name.x", BtfError, "all[0].d_name.name is a pointer (const unsigned char *)"),
        ("dentry", "flags.x", BtfError, "flags is unsigned int, no struct"),
        ("dentry", "flags[0]", BtfError, "flags is unsigned int, no array"),
        ("dentry", "grid[3]", BtfError, "grid has 3 elements, no index 3"),
        ("dentry", "grid[0][4]", BtfError, "grid has 4 elements, no index 4"),
        ("dentry", "grid[x]", BtfError, "is not name[number]"),
        ("dentry", "grid[1", BtfError, "is not name[number]"),
        ("dentry", "grid[1]x", BtfError, "is not name[number]"),
        ("dentry", "grid[]", BtfError, "is not name[number]"),
        ("dentry", "[1]", BtfError, "empty component"),
        ("dentry", "d_name..len", BtfError, "empty component"),
        ("dentry", "", BtfError, "empty component"),
        ("dentry", "d_nane", BtfNotFound, "no member 'd_nane' in struct dentry of test; nearest: d_name"),
        ("dentry", "d_name.lem", BtfNotFound, "no member 'lem' in struct qstr of test; nearest: len"),
        ("dentr", "flags", BtfNotFound, "no struct 'dentr' in test; nearest: dentry"),
        ("union dentry", "flags", BtfNotFound, "no union 'dentry' in test"),
        ("colour_t", "x", BtfNotFound, "no struct 'colour_t'"),
    ],
)
def test_member_errors(btf: Btf, struct: str, path: str, error: type[BtfError], message: str) -> None:
    with pytest.raises(error) as caught:
        btf.member(struct, path)
    assert message in str(caught.value)
    assert type(caught.value) is error


def test_member_of_what_is_no_struct(btf: Btf) -> None:
    with pytest.raises(BtfError, match="int is no struct or union: it has no 'x'"):
        btf.member(btf.find("int", Kind.INT), "x")
    with pytest.raises(BtfError, match="no type with id 999"):
        btf.member(999, "x")
    with pytest.raises(BtfError, match="void is no struct"):
        btf.member(0, "x")


def test_find_by_kind(btf: Btf) -> None:
    assert btf.type(btf.find("same")).kind is Kind.STRUCT
    assert btf.type(btf.find("same", Kind.UNION)).kind is Kind.UNION
    assert btf.find("same", Kind.UNION) == btf.find("same", Kind.UNION)
    for name, kind in (("elsewhere", Kind.FWD), ("look", Kind.FUNC), ("far", Kind.ENUM64), ("qstr_t", Kind.TYPEDEF)):
        found = btf.type(btf.find(name, kind))
        assert (found.name, found.kind) == (name, kind)
    for name in ("", "flags", "elsewher", "a\0b", "\udcff", "look "):
        with pytest.raises(BtfNotFound) as caught:
            btf.find(name)
        assert (caught.value.name, caught.value.kind) == (name, None)
    assert issubclass(BtfNotFound, BtfError) and issubclass(BtfError, PylsmError)


def test_nearest_names_are_looked_for_only_when_read(btf: Btf, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(Btf, "_nearest", lambda self, name, kind: calls.append(name) or ["x"])
    with pytest.raises(BtfNotFound) as caught:
        btf.find("nothing_like_it")
    assert not calls
    assert caught.value.nearest == ["x"]
    assert caught.value.nearest == ["x"]
    assert calls == ["nothing_like_it"]


def test_names_that_are_the_tail_of_another_string() -> None:
    """The format allows "name" to be stored as the end of "surname"."""
    strings = b"\0surname\0"
    types = struct.pack("<6I", 1, 8 << 24, 0, 4, 8 << 24, 0)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = Btf(header + types + strings)
    assert (btf.find("surname"), btf.find("name"), btf.find("name", Kind.TYPEDEF)) == (1, 2, 2)
    with pytest.raises(BtfNotFound):
        btf.find("ame")


def sorted_btf(count: int, *, last: str = "zzz") -> tuple[Btf, dict[tuple[str, Kind], int]]:
    """As vmlinux is since Linux 7.0: unnamed types, then the others by name; and the first id of each."""
    writer = BtfWriter()
    pointers = [writer.ptr(0)]
    for _ in range(count // 4):
        pointers.append(writer.ptr(pointers[-1]))
    named = sorted([f"name_{number * 7919 % 100_003}" for number in range(count)] + ["name_5", "name_50"])
    first: dict[tuple[str, Kind], int] = {}
    for number, name in enumerate([*named, last]):
        if number % 3 == 0:
            first.setdefault((name, Kind.UNION), writer.union(name, [("m", pointers[0], 0)], 8))
        first.setdefault((name, Kind.STRUCT), writer.struct(name, [("m", pointers[0], 0)], 8 * (number + 1)))
    return Btf(writer.encode(), name="sorted"), first


@pytest.mark.parametrize("last", ["zzz", "aaa"])
def test_sorted_btf(last: str) -> None:
    """Bisected where it is sorted; and where one name is out of order, still found."""
    btf, first = sorted_btf(4000, last=last)
    for (name, kind), id in [*first.items()][::37] + [*first.items()][-5:]:
        assert btf.find(name, kind) == id
        assert btf.type(id).name == name
    assert btf._named > 0
    for name, kind in (("name_", None), ("m", None), ("name_5", Kind.FUNC), ("zzzz", None)):
        with pytest.raises(BtfNotFound):
            btf.find(name, kind)


def test_bisection_locates_few_records(monkeypatch: pytest.MonkeyPatch) -> None:
    btf, first = sorted_btf(4000)
    btf.find("name_5", Kind.STRUCT)
    calls = []
    locate = TypeIndex.locate
    monkeypatch.setattr(TypeIndex, "locate", lambda self, number: calls.append(number) or locate(self, number))
    monkeypatch.setattr(TypeIndex, "search", None)
    name, kind = [*first][3333]
    assert btf.find(name, kind) == first[name, kind]
    assert len(calls) < 25


def test_enumerators(btf: Btf) -> None:
    assert btf.enumerator("colour", "GREEN") == 2
    assert btf.enumerator("enum colour", "RED") == 1
    assert btf.enumerator("colour_t", "BLUE") == -3
    assert btf.enumerator("far", "AWAY") == 1 << 63
    with pytest.raises(BtfNotFound, match="no enumerator 'GREY' in enum colour of test; nearest: GREEN"):
        btf.enumerator("colour", "GREY")
    with pytest.raises(BtfNotFound, match="no enum 'qstr_t'"):
        btf.enumerator("qstr_t", "RED")
    with pytest.raises(BtfError, match="is no enum"):
        btf.enumerators(btf.find("qstr"))


def test_func_proto(btf: Btf) -> None:
    proto = btf.func_proto("look")
    assert btf.c_name(proto.return_type_id) == "int"
    assert [(param.name, btf.c_name(param.type_id)) for param in proto.params] == [("d", "struct dentry *")]
    assert proto.variadic
    assert btf.func_proto(proto.id) == btf.func_proto(btf.find("look_t")) == proto
    assert btf.c_name(btf.find("look_t")) == "look_t"
    with pytest.raises(BtfError, match="struct qstr is no function"):
        btf.func_proto(btf.find("qstr"))
    with pytest.raises(BtfError, match="void is no function"):
        btf.func_proto(0)
    with pytest.raises(BtfNotFound, match="no func 'loook' in test; nearest: look"):
        btf.func_proto("loook")


def test_sizes(btf: Btf) -> None:
    assert btf.size_of(btf.find("holder_t")) == 104
    assert btf.type(btf.find("holder_t")).size == 104
    assert btf.align_of(btf.find("holder_t")) == 8
    assert btf.resolve(btf.find("qstr_t")) == btf.find("qstr")
    for id, message in ((0, "void has no size"), (btf.find("look"), "func look has no size")):
        with pytest.raises(BtfError, match=message):
            btf.size_of(id)
    with pytest.raises(BtfError, match="struct elsewhere has no size"):
        btf.size_of(btf.find("elsewhere"))


def test_void_and_emptiness(btf: Btf) -> None:
    void = btf.type(0)
    assert (void.kind, void.name, void.members, void.type_id, void.component) == (Kind.VOID, "void", (), 0, -1)
    assert btf.resolve(0) == 0
    empty = Btf(BtfWriter().encode())
    assert (len(empty), bool(empty), list(empty.types())) == (0, True, [])
    with pytest.raises(BtfError):
        empty.type(1)


def test_old_bitfields() -> None:
    """Before kind_flag an INT narrower than its bytes made a member a bitfield."""
    writer = BtfWriter()
    three = writer.int_("unsigned int", 4, bits=3)
    writer.struct("old", [("a", three, 0), ("b", writer.typedef("three_t", three), 32)], 8)
    btf = Btf(writer.encode())
    assert [(m.bit_size, m.is_bitfield) for m in btf.type(btf.find("old")).members] == [(3, True), (3, True)]
    assert btf.member("old", "b").bit_size == 3


def test_sources_of_bytes(btf: Btf, tmp_path: Path) -> None:
    writer = BtfWriter("big")
    writer.struct("s", [("a", writer.int_("int", 4, True), None)])
    data = writer.encode()
    path = tmp_path / "some.btf"
    path.write_bytes(data)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        for source in (data, bytearray(data), memoryview(data), mapped):
            made = Btf(source)
            assert made.member("s", "a").size == 4
            assert made.byteorder == "big"
            del made
    assert Btf.from_file(path).name == str(path), "where it is, for those who read an error"
    assert Btf.from_file(str(path)).find("s") == 2
    with pytest.raises(BtfError, match="no plain run of bytes"):
        Btf(memoryview(data)[::2])


def test_kernel_is_read_once_and_its_absence_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Btf, "_kernel", None)
    monkeypatch.setattr(pylsm.btf.reader, "_SYSFS", f"{tmp_path}/")
    monkeypatch.setattr("pylsm.btf.files._SYSFS", f"{tmp_path}/")
    with pytest.raises(BtfError, match="this kernel has no BTF") as caught:
        Btf.kernel()
    assert "CONFIG_DEBUG_INFO_BTF" in caught.value.hint
    writer = BtfWriter()
    writer.int_("int", 4)
    (tmp_path / "vmlinux").write_bytes(writer.encode())
    assert Btf.kernel() is Btf.kernel()
    with pytest.raises(BtfError, match=r"^kernel .*: BTF type section: no type with id 7"):
        Btf.kernel().type(7)


def test_import_is_light() -> None:
    """What would cost more than the whole of a start: dataclasses, inspect, re, typing, …"""
    code = "import sys; import pylsm.btf; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"dataclasses", "inspect", "re", "typing", "difflib", "ctypes", "elftools", "construct", "argparse"}
    assert not heavy & set(run.stdout.split())
