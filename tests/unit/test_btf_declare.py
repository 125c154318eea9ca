"""Shapes written as field names and C types."""

from __future__ import annotations

import time

import pytest

from pylsm.btf import BtfError, Kind, declare

SHAPES = {
    "file": {
        "f_inode": "struct inode *",
        "f_path": "struct path",
        "f_flags": "unsigned int",
        "f_mode": "unsigned int",
    },
    "path": {"mnt": "struct vfsmount *", "dentry": "struct dentry*"},
    "thing": {"name": "char[16]", "addr": "u8 [16]", "inner": "struct path[2]", "grid": "u16[2][3]"},
    "union either": {"small": "s8", "big": "u64", "up": "void **", "kind": "enum pid_type"},
    "struct list_head": {"next": "struct list_head *", "any": "union either", "other": "union nowhere *"},
}


def test_shapes() -> None:
    btf = declare(SHAPES, name="shapes")
    assert btf.name == "shapes"
    for struct, path, offset, size, c_type in (
        ("file", "f_inode", 0, 8, "struct inode *"),
        ("file", "f_path.dentry", 16, 8, "struct dentry *"),
        ("file", "f_mode", 28, 4, "unsigned int"),
        ("thing", "name", 0, 16, "char[16]"),
        ("thing", "addr[3]", 19, 1, "unsigned char"),
        ("thing", "inner[1].dentry", 56, 8, "struct dentry *"),
        ("thing", "grid[1][2]", 74, 2, "unsigned short"),
        ("union either", "big", 0, 8, "unsigned long long"),
        ("union either", "up", 0, 8, "void **"),
        ("union either", "kind", 0, 4, "enum pid_type"),
        ("list_head", "next", 0, 8, "struct list_head *"),
        ("list_head", "any.big", 8, 8, "unsigned long long"),
        ("list_head", "other", 16, 8, "union nowhere *"),
    ):
        member = btf.member(struct, path)
        assert (member.offset, member.size, btf.c_name(member.type_id)) == (offset, size, c_type)
    # What is only pointed to is a forward declaration; what is declared is the struct itself, in any order.
    assert btf.type(btf.find("inode")).kind is Kind.FWD
    assert btf.type(btf.find("nowhere")).kind_flag
    assert btf.type(btf.type(btf.member("list_head", "next").type_id).type_id).kind is Kind.STRUCT
    assert btf.size_of(btf.find("file")) == 32
    assert [btf.name_of(id) for id in range(1, 6)] == ["file", "path", "thing", "either", "list_head"]


@pytest.mark.parametrize(
    ("text", "size", "signed"),
    [
        ("u8", 1, False),
        ("u16", 2, False),
        ("u32", 4, False),
        ("u64", 8, False),
        ("s8", 1, True),
        ("s16", 2, True),
        ("s32", 4, True),
        ("s64", 8, True),
        ("int", 4, True),
        ("unsigned  int", 4, False),
        ("long", 8, True),
        ("unsigned long", 8, False),
        ("char", 1, True),
        ("bool", 1, False),
        ("enum x", 4, False),
        ("char *", 8, False),
        ("u8**", 8, False),
        ("u32[0]", 0, False),
        ("u32 * [3]", 24, False),
    ],
)
def test_types(text: str, size: int, signed: bool) -> None:
    member = declare({"s": {"f": text}}).member("s", "f")
    assert (member.size, member.signed) == (size, signed)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"s": {"f": "u128"}}, "struct s, field 'f', type 'u128': unknown type 'u128'"),
        ({"s": {"f": "path *"}}, "struct s, field 'f', type 'path *': unknown type 'path'"),
        ({"s": {"f": "struct path"}}, "type 'struct path': struct path is not declared"),
        ({"s": {"f": "void"}}, "void has no size"),
        ({"s": {"f": ""}}, "unknown type ''"),
        ({"s": {"f": "struct"}}, "unknown type 'struct'"),
        ({"s": {"f": "struct 9 *"}}, "no C identifier"),
        ({"s": {"f": "u8[x]"}}, "an array length is a number"),
        ({"s": {"f": "u8[4"}}, "an array length is a number"),
        ({"s": {"f": "u8[4]*"}}, "an array length is a number"),
        ({"s": {"f": "u8[-1]"}}, "an array length is a number"),
        ({"s": {"f": "* u8"}}, "'*' belongs behind"),
        ({"s": {"f": "u8 * const"}}, "'*' belongs behind"),
        ({"s": {"f": "struct s"}}, "struct s, field 'f', type 'struct s': struct s would contain itself"),
        ({"a": {"f": "struct b"}, "b": {"g": "struct a[2]"}}, "struct b, field 'g', type 'struct a[2]': struct a"),
        ({"s": {"a b": "u8"}}, "struct s: member a b: 'a b' is no C identifier"),
        ({"a b": {}}, "no C identifier"),
        ({"s": {}, "struct s": {}}, "struct s is declared twice"),
    ],
)
def test_errors_name_struct_field_and_type(shapes: dict[str, dict[str, str]], message: str) -> None:
    with pytest.raises(BtfError) as caught:
        declare(shapes)
    assert message in str(caught.value)


def test_no_shapes() -> None:
    assert len(declare({})) == 0


def test_it_is_quick() -> None:
    """It runs at each start: twelve structs took 0.4 ms here; ten times that means something is wrong."""
    shapes = {f"s{n}": {"a": "u64", "b": "struct x *", "c": f"struct y{n} *", "d": "char[16]"} for n in range(12)}
    best = min(_timed(shapes) for _ in range(5))
    assert best < 0.005


def _timed(shapes: dict[str, dict[str, str]]) -> float:
    start = time.perf_counter()
    declare(shapes)
    return time.perf_counter() - start
