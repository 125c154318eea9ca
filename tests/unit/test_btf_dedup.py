"""Types that say the same become one, as libbpf's btf__dedup has it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_btf_roundtrip import Step, steps, write

from pylsm.btf import Btf, BtfError, BtfWriter, Kind

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "elf"

# Compilation units of one program: each sees another part of the types that they share.
SHARED = """
struct list { struct list *next, *prev; };
struct node; union tag;
typedef unsigned long size; typedef const struct node *node_ref;
struct ops {
    int (*open)(struct node *node, const char *name, ...); struct node *(*next)(node_ref); void *(*const end)(void);
};
struct node {
    struct list siblings; struct ops *ops; union tag *tag; struct { int a : 3, b : 5; union { long c; char d[7]; }; };
};
"""
UNITS = {
    "one": SHARED
    + "union tag { int number; struct node *node; };\nstruct only_one { struct node n; union tag t; } one;"
    "struct differs { int x; } differs_one; enum colour { RED, GREEN = -4 } colour_one; struct hidden *hidden_one;",
    "two": SHARED
    + "struct node node_two; struct differs { long x; } differs_two; enum colour { RED, GREEN = -4 } colour_two;"
    "struct hidden { struct node *at; struct hidden *up; } hidden_two;",
    "three": SHARED + "struct tree { struct tree *left, *right; struct node *value; struct hidden *h; } tree_three;"
    "enum big { BIG = 1ULL << 40 } big_three; volatile struct list *lists_three[4]; struct differs *either_three;",
    "four": SHARED
    + "int call(struct tree *tree, int (*each)(struct tree *, void *)); struct tree { struct tree *left, *right;"
    "struct node *value; struct hidden *h; } tree_four; int (*table_four[3])(struct node *node);",
}


def compiled(directory: Path, name: str, source: str) -> Path:
    path, made = directory / f"{name}.c", directory / f"{name}.o"
    path.write_text(source)
    subprocess.run(["clang", "-target", "bpf", "-O2", "-g", "-c", str(path), "-o", str(made)], check=True)
    return made


@pytest.fixture(scope="module")
def libbpf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/usr/include/bpf/btf.h").exists() or shutil.which("gcc") is None:
        pytest.skip("libbpf-dev is not installed")
    made = tmp_path_factory.mktemp("libbpf") / "dedup"
    subprocess.run(["gcc", "-Wall", "-o", str(made), str(FIXTURES / "dedup.c"), "-lbpf"], check=True)
    return made


def shown(path: Path) -> list[str]:
    """Every type by id, as bpftool has it: string offsets do not count."""
    command = ["bpftool", "btf", "dump", "file", str(path), "format", "raw"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def kinds(btf: Btf) -> Counter[Kind]:
    return Counter(btf.type(id).kind for id in btf.types())


def test_the_same_as_libbpf_has_of_several_units(libbpf: Path, tmp_path: Path) -> None:
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    objects = [compiled(tmp_path, name, source) for name, source in UNITS.items()]
    writer = BtfWriter()
    for path in objects:
        writer.append(Btf.from_file(path))
    before = len(writer)
    writer.dedup()
    (tmp_path / "ours").write_bytes(writer.encode())
    subprocess.run([str(libbpf), str(tmp_path / "theirs"), *map(str, objects)], check=True)
    assert shown(tmp_path / "ours") == shown(tmp_path / "theirs")
    ours = Btf.from_file(tmp_path / "ours")
    structs = Counter(ours.type(id).name for id in ours.types() if ours.type(id).kind is Kind.STRUCT)
    # Different things of one name stay two, and a declaration of them stays one of neither.
    assert structs["differs"] == 2 and structs["node"] == structs["tree"] == structs["hidden"] == 1
    assert "differs" in [ours.type(id).name for id in ours.types() if ours.type(id).kind is Kind.FWD]
    assert len(ours) < before


def test_the_shipped_objects_in_one_are_what_libbpf_makes_of_them(libbpf: Path, tmp_path: Path) -> None:
    objects = [FIXTURES / "lsm.bpf.o", FIXTURES / "raw_tp.bpf.o"]
    writer = BtfWriter()
    for path in objects:
        writer.append(Btf.from_file(path))
    writer.dedup()
    (tmp_path / "ours").write_bytes(writer.encode())
    subprocess.run([str(libbpf), str(tmp_path / "theirs"), *map(str, objects)], check=True)
    assert shown(tmp_path / "ours") == shown(tmp_path / "theirs")


@given(steps())
@settings(max_examples=150, deadline=None)
def test_the_same_types_twice_are_the_same_types_once(made: list[Step]) -> None:
    once = BtfWriter()
    write(once, made)
    types = Btf(once.encode())
    twice = BtfWriter()
    assert twice.append(types) == 0
    assert twice.append(types) == len(types)
    ids = twice.dedup()
    alone = BtfWriter()
    alone.append(types)
    alone.dedup()
    both, one = kinds(Btf(twice.encode())), kinds(Btf(alone.encode()))
    # Variables and sections are places, not types: there are two of each, and of what refers to them.
    assert both[Kind.VAR] == 2 * one[Kind.VAR] and both[Kind.DATASEC] == 2 * one[Kind.DATASEC]
    if not one[Kind.VAR] and not one[Kind.DATASEC]:
        assert both == one
    # Each type is still the kind and the name that it was.
    result = Btf(twice.encode())
    for old, new in zip([*types.types(), *types.types()], ids):
        before, after = types.type(old), result.type(new)
        assert after.name == before.name
        assert after.kind == before.kind or Kind.FWD in (before.kind, after.kind) or not before.vlen
    # And nothing is left to do.
    again = BtfWriter()
    again.append(result)
    again.dedup()
    assert len(again) == len(result)


def test_circles_of_any_length_and_order() -> None:
    """Rings of structs that point to each other, begun at another member each: one ring is left."""
    writer = BtfWriter()
    for turn in range(5):
        ids = [writer.reserve() for _ in range(5)]
        for position in range(5):
            at = (position + turn) % 5
            writer.struct(f"s{at}", [("next", writer.ptr(ids[(position + 1) % 5]), 0)], 8, id=ids[position])
    ids = writer.dedup()
    types = Btf(writer.encode())
    assert len(types) == 10 and kinds(types) == {Kind.STRUCT: 5, Kind.PTR: 5}
    assert len({ids[id - 1] for id in range(1, 51)}) == 10
    for id in types.types():
        if types.type(id).kind is Kind.STRUCT:
            (member,) = types.members(id)
            pointee = types.type(types.type(member.type_id).type_id)
            assert pointee.name == f"s{(int(types.type(id).name[1:]) + 1) % 5}"


def test_ids_of_a_base_stay() -> None:
    base = BtfWriter()
    number = base.int_("int", 4)
    kernel = Btf(base.encode())
    writer = BtfWriter(base=kernel)
    first, second = writer.reserve(), writer.reserve()
    for id in (first, second):
        writer.struct("s", [("x", number, 0), ("next", writer.ptr(id), 64)], 16, id=id)
    ids = writer.dedup()
    assert ids[first - 2] == ids[second - 2] == 2
    split = Btf(writer.encode(), base=kernel)
    assert [member.type_id for member in split.members(2)] == [number, 3]


def test_what_is_not_complete_is_refused() -> None:
    writer = BtfWriter()
    writer.reserve()
    with pytest.raises(BtfError, match="was reserved and never added"):
        writer.dedup()


@given(steps(), st.lists(st.tuples(st.integers(24, 4000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_damaged_types_are_refused_or_put_together(made: list[Step], changes: list[tuple[int, int]]) -> None:
    once = BtfWriter()
    write(once, made)
    data = bytearray(once.encode())
    for at, value in changes:
        data[24 + (at - 24) % (len(data) - 24)] = value
    writer = BtfWriter()
    with suppress(BtfError):
        types = Btf(bytes(data))
        writer.append(types)
        assert len(writer.dedup()) == len(types)


def test_an_id_out_of_range_is_named() -> None:
    once = BtfWriter()
    once.ptr(0)
    data = bytearray(once.encode())
    data[24 + 8 : 24 + 12] = struct.pack("=I", 77)
    with pytest.raises(BtfError, match="type 1 refers to type 77 of 1"):
        BtfWriter().append(Btf(bytes(data)))
