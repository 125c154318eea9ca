"""What the writer writes, the reader reads, and two independent programs agree: bpftool reads it, gcc lays
structs out the same way."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pylsm.btf.index
from pylsm.btf import Btf, BtfError, BtfNotFound, BtfWriter, Enumerator, Kind, Param, Variable
from pylsm.btf.index import TypeIndex

NAMES = st.builds(
    str.__add__, st.sampled_from(["a", "B", "_"]), st.text("abcXYZ019_", max_size=6)
)  # from_regex draws several times slower
TEXTS = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=8)
U32 = st.integers(0, 0xFFFFFFFF)

Step = tuple[str, tuple[Any, ...]]


@st.composite
def members(draw: st.DrawFn, ids: st.SearchStrategy[int], union: bool) -> tuple[list[tuple[Any, ...]], int]:
    """Members at ascending explicit offsets, some bitfields, and a size that holds them."""
    found: list[tuple[Any, ...]] = []
    offset = 0
    for _ in range(draw(st.integers(0, 5))):
        name = draw(st.one_of(st.just(""), NAMES))
        bits = draw(st.sampled_from([0, 0, 1, 7, 8, 33]))
        if not bits:
            offset = -(-offset // 8) * 8
        found.append((name, draw(ids), 0 if union else offset, bits))
        offset += bits or draw(st.sampled_from([8, 32, 64, 4096]))
    return found, -(-offset // 8)


@st.composite
def steps(draw: st.DrawFn) -> list[Step]:
    """Calls of a writer, each referring to types made before it."""
    made: list[Step] = [("int_", ("int", 4, True, 1))]
    for number in range(1, draw(st.integers(2, 20))):
        ids = st.integers(0, number)
        some = st.integers(1, number)
        kind = draw(st.sampled_from([*Kind][1:]))
        if kind is Kind.INT:
            size = draw(st.sampled_from([1, 2, 4, 8, 16]))
            made.append(("int_", (draw(TEXTS), size, False, draw(st.sampled_from([0, 1, 2, 4])))))
        elif kind is Kind.FLOAT:
            made.append(("float_", (draw(TEXTS), draw(st.sampled_from([2, 4, 8, 12, 16])))))
        elif kind is Kind.ARRAY:
            made.append(("array", (draw(ids), draw(U32), draw(ids))))
        elif kind in (Kind.STRUCT, Kind.UNION):
            made.append((kind.name.lower(), (draw(NAMES), *draw(members(ids, kind is Kind.UNION)))))
        elif kind in (Kind.ENUM, Kind.ENUM64):
            width = 32 if kind is Kind.ENUM else 64
            low = draw(st.sampled_from([0, -(1 << (width - 1))]))
            values = st.integers(low, low + (1 << width) - 1)
            listed = draw(st.lists(st.tuples(NAMES, values), max_size=4))
            made.append((kind.name.lower(), (draw(NAMES), listed, draw(st.sampled_from([1, 2, 4, 8])))))
        elif kind is Kind.FWD:
            made.append(("fwd", (draw(NAMES), draw(st.booleans()))))
        elif kind is Kind.TYPEDEF:
            made.append(("typedef", (draw(NAMES), draw(ids))))
        elif kind is Kind.FUNC_PROTO:
            params = draw(st.lists(st.tuples(NAMES, some), max_size=4))
            variadic = [("", 0)] if draw(st.booleans()) else []
            made.append(("func_proto", (draw(ids), params + variadic)))
        elif kind is Kind.FUNC:
            protos = [at + 1 for at, (method, _) in enumerate(made) if method == "func_proto"]
            if protos:
                made.append(("func", (draw(NAMES), draw(st.sampled_from(protos)), draw(st.integers(0, 2)))))
            else:
                made.append(("ptr", (draw(ids),)))
        elif kind is Kind.VAR:
            made.append(("var", (draw(NAMES), draw(some), draw(st.integers(0, 2)))))
        elif kind is Kind.DATASEC:
            place = 0
            variables = []
            for _ in range(draw(st.integers(0, 3))):
                place += draw(st.integers(0, 1 << 24))
                size = draw(st.integers(1, 1 << 24))
                variables.append((draw(ids), place, size))
                place += size
            made.append(("datasec", ("." + draw(NAMES), variables)))
        elif kind is Kind.DECL_TAG:
            made.append(("decl_tag", (draw(TEXTS), draw(ids), draw(st.integers(-1, 0xFFFF)))))
        elif kind is Kind.TYPE_TAG:
            made.append(("type_tag", (draw(TEXTS), draw(ids))))
        else:
            made.append((kind.name.lower(), (draw(ids),)))
    return made


def write(writer: BtfWriter, made: list[Step]) -> list[int]:
    """Make the calls; a step's references mean steps, whose ids differ where two steps were the same type."""
    ids = [0]
    for method, args in made:
        ids.append(getattr(writer, method)(*renumber(method, args, ids)))
    return ids[1:]


def renumber(method: str, args: tuple[Any, ...], ids: list[int]) -> tuple[Any, ...]:
    if method in ("struct", "union"):
        name, listed, size = args
        return name, [(member, ids[id], *rest) for member, id, *rest in listed], size
    if method == "func_proto":
        return ids[args[0]], [(name, ids[id]) for name, id in args[1]]
    if method == "datasec":
        return args[0], [(ids[id], offset, size) for id, offset, size in args[1]]
    if method == "array":
        return ids[args[0]], args[1], ids[args[2]]
    if method in ("typedef", "func", "var", "decl_tag", "type_tag"):
        return (args[0], ids[args[1]], *args[2:])
    if method in ("ptr", "const", "volatile", "restrict"):
        return (ids[args[0]],)
    return args


def check(btf: Btf, id: int, method: str, args: tuple[Any, ...]) -> None:
    """The type says what the call said (its references already renumbered)."""
    type = btf.type(id)
    assert type.kind.name.lower() == method.rstrip("_")
    if method in ("ptr", "const", "volatile", "restrict"):
        assert (type.name, type.type_id) == ("", args[0])
        return
    if method == "array":
        array = type.array
        assert (array.element_id, array.length, array.index_id) == args
        return
    if method == "func_proto":
        assert type.type_id == args[0]
        assert type.params == tuple(Param(*param) for param in args[1])
        proto = btf.func_proto(id)
        assert proto.variadic == (("", 0) in args[1])
        assert proto.return_type_id == args[0]
        assert len(proto.params) == len(args[1]) - proto.variadic
        return
    assert type.name == args[0]
    if method == "int_":
        assert (type.size, type.bits, type.encoding) == (args[1], 8 * args[1], args[3])
        assert type.signed == (args[3] == 1)
    elif method == "float_":
        assert type.size == args[1]
    elif method in ("struct", "union"):
        assert type.size == args[2]
        shown = [(m.name, m.type_id, m.bit_offset, m.bit_size if type.kind_flag else 0) for m in type.members]
        assert shown == args[1]
    elif method in ("enum", "enum64"):
        assert type.size == args[2]
        assert type.enumerators == tuple(Enumerator(*value) for value in args[1])
        assert type.signed == any(value < 0 for _, value in args[1])
    elif method == "fwd":
        assert type.kind_flag == args[1]
    elif method == "datasec":
        assert type.variables == tuple(Variable(*variable) for variable in args[1])
    else:
        assert type.type_id == args[1]
        if method in ("func", "var"):
            assert type.linkage == args[2]
        if method == "decl_tag":
            assert type.component == args[2]


@given(steps(), st.sampled_from(["little", "big"]))
@settings(max_examples=200, deadline=None)
def test_every_kind_survives_a_round_trip(made: list[Step], order: str) -> None:
    writer = BtfWriter(order)
    ids = write(writer, made)
    btf = Btf(writer.encode(), name="test")
    assert btf.byteorder == order
    assert len(btf) == max(ids) == len(writer)
    assert list(btf.types()) == list(range(1, len(btf) + 1))
    for id, (method, args) in zip(ids, made):
        args = renumber(method, args, [0, *ids])
        check(btf, id, method, args)
        type = btf.type(id)
        if type.name:
            first = min(
                other for other in btf.types() if (btf.type(other).name, btf.type(other).kind) == (type.name, type.kind)
            )
            assert btf.find(type.name, type.kind) == first


@given(steps())
@settings(max_examples=60, deadline=None)
def test_split_btf_continues_ids_and_strings(made: list[Step]) -> None:
    whole = BtfWriter()
    ids = write(whole, made)
    base = Btf(whole.encode(), name="base")
    writer = BtfWriter(base=base)
    pointer = writer.ptr(ids[0])
    struct = writer.struct("only_in_the_module", [("old", ids[-1], 0), ("new", pointer, 64)], 16)
    split = Btf(writer.encode(), base=base, name="module")
    assert (pointer, struct) == (len(base) + 1, len(base) + 2)
    assert len(split) == len(base) + 2
    assert list(split.types()) == [*base.types(), pointer, struct]
    assert list(split.types(own=True)) == [pointer, struct]
    assert split.find("only_in_the_module", Kind.STRUCT) == struct
    with pytest.raises(BtfNotFound):
        base.find("only_in_the_module")
    assert [m.name for m in split.type(struct).members] == ["old", "new"]
    assert split.member("only_in_the_module", "new").offset == 8
    for id, (method, args) in zip(ids, made):
        check(split, id, method, renumber(method, args, [0, *ids]))


@st.composite
def large_words(draw: st.DrawFn) -> list[Step]:
    """Types whose bodies hold words that look like the head of a record."""
    made: list[Step] = [("int_", ("int", 4, True, 1))]
    looks = st.builds(lambda kind, low: kind << 24 | low, st.integers(0, 255), st.integers(0, 6))
    for number in range(draw(st.integers(5, 40))):
        which = draw(st.integers(0, 6))
        if which == 0:
            values = draw(st.lists(st.tuples(NAMES, looks), max_size=9))
            made.append(("enum", (f"enum{number}", values, 4)))
        elif which == 1:
            values = draw(st.lists(st.tuples(NAMES, st.builds(lambda a, b: a << 32 | b, looks, looks)), max_size=5))
            made.append(("enum64", (f"wide{number}", values, 8)))
        elif which == 2:
            made.append(("array", (1, draw(looks), 1)))
        elif which == 3:
            listed = [("a", 1, 0, 3), ("b", 1, 4, draw(st.integers(1, 32))), ("", 1, 64, draw(st.integers(1, 32)))]
            made.append(("struct", (f"bits{number}", listed, 16)))
        elif which == 4:
            offsets = sorted(8 * (offset // 8) for offset in draw(st.lists(looks, max_size=4)))
            size = (offsets[-1] // 8 if offsets else 0) + 4
            made.append(("struct", (f"big{number}", [("m", 1, offset, 0) for offset in offsets], size)))
        elif which == 5:
            made.append(("decl_tag", (f"tag{number}", 1, draw(st.integers(-1, 3)))))
        else:
            made.append(("typedef", (f"def{number}", number)))
    return made


@given(large_words())
@settings(max_examples=300, deadline=None)
def test_the_counted_index_equals_the_walked_one(made: list[Step]) -> None:
    """Whatever the bodies hold: the same records, or the walk itself."""
    writer = BtfWriter()
    write(writer, made)
    btf = Btf(writer.encode())
    saved = (pylsm.btf.index._CHUNK, pylsm.btf.index._BLOCK, pylsm.btf.index._BLOCKS)
    pylsm.btf.index._CHUNK, pylsm.btf.index._BLOCK, pylsm.btf.index._BLOCKS = 64, 8, 8
    try:
        walked = TypeIndex(btf._words, exact=True)
        counted = TypeIndex(btf._words, exact=False)
        last = walked.locate(walked.count() - 1)
        name, kind = btf._words[last], btf._words[last + 1] >> 24 & 0x7F
        assert counted.search(name, kind) == walked.search(name, kind)
        positions = [walked.locate(number) for number in range(walked.count())]
        assert [counted.locate(number) for number in range(counted.count())] == positions
        assert [counted.number(position) for position in positions] == list(range(len(positions)))
        for position in positions:
            name, kind = btf._words[position], btf._words[position + 1] >> 24 & 0x7F
            assert counted.search(name, kind) == walked.search(name, kind)
            assert counted.end(position) == walked.end(position)
    finally:
        pylsm.btf.index._CHUNK, pylsm.btf.index._BLOCK, pylsm.btf.index._BLOCKS = saved


def test_ordinary_types_are_counted_not_walked() -> None:
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    for number in range(2000):
        writer.enum(f"e{number}", [("A", -1), ("B", 0x01000000), ("C", 0x7F000000)])
        writer.struct(f"s{number}", [("a", integer, 0, 5), ("b", integer, 5, 7)], 4)
        writer.ptr(writer.typedef(f"t{number}", integer))
    btf = Btf(writer.encode())
    assert btf.type(btf.find("t1999", Kind.TYPEDEF)).name == "t1999"
    assert len(btf) == 8001
    assert not btf._index.exact


# -- natural layout ------------------------------------------------------------------------------------------

CTYPES = {1: ctypes.c_uint8, 2: ctypes.c_uint16, 4: ctypes.c_uint32, 8: ctypes.c_uint64}


@st.composite
def shapes(draw: st.DrawFn, depth: int = 2) -> Any:
    """("int", size) | ("ptr",) | ("array", shape, n) | ("struct"/"union", shapes)"""
    which = draw(st.integers(0, 5 if depth else 2))
    if which <= 1:
        return ("int", draw(st.sampled_from([1, 2, 4, 8])))
    if which == 2:
        return ("ptr",)
    if which == 3:
        return ("array", draw(shapes(depth - 1)), draw(st.integers(1, 5)))
    inner = draw(st.lists(shapes(depth - 1), min_size=1, max_size=5))
    return ("struct" if which == 4 else "union", inner)


def as_ctypes(shape: Any) -> Any:
    if shape[0] == "int":
        return CTYPES[shape[1]]
    if shape[0] == "ptr":
        return ctypes.c_void_p
    if shape[0] == "array":
        return as_ctypes(shape[1]) * shape[2]
    base = ctypes.Structure if shape[0] == "struct" else ctypes.Union
    fields = [(f"m{number}", as_ctypes(inner)) for number, inner in enumerate(shape[1])]
    return type("Made", (base,), {"_fields_": fields})


def as_btf(writer: BtfWriter, shape: Any) -> int:
    if shape[0] == "int":
        return writer.int_(f"u{8 * shape[1]}", shape[1])
    if shape[0] == "ptr":
        return writer.ptr(0)
    if shape[0] == "array":
        return writer.array(as_btf(writer, shape[1]), shape[2])
    fields = [(f"m{number}", as_btf(writer, inner), None) for number, inner in enumerate(shape[1])]
    return (writer.struct if shape[0] == "struct" else writer.union)("", fields)


@given(shapes(depth=3))
@settings(max_examples=200, deadline=None)
def test_natural_layout_is_that_of_ctypes(shape: Any) -> None:
    writer = BtfWriter()
    made = as_ctypes(shape)
    id = as_btf(writer, shape)
    btf = Btf(writer.encode())
    assert btf.size_of(id) == ctypes.sizeof(made)
    assert btf.align_of(id) == ctypes.alignment(made)
    for member in btf.type(id).members:
        assert member.offset == getattr(made, member.name).offset
        assert btf.member(id, member.name) == member


BITFIELDS = """
struct one { unsigned int a:3; unsigned int b:5; unsigned int c:30; unsigned char d:1; unsigned short e:9; };
struct two { unsigned char a:7; unsigned char b:2; unsigned long long c:40; int d:20; };
struct three { char head; unsigned int a:1; unsigned int b:31; unsigned int c:1; long tail; };
struct four { int whole:32; int next:1; short s; };
struct one v1; struct two v2; struct three v3; struct four v4;
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_bitfields_lie_where_gcc_puts_them(tmp_path: Any) -> None:
    """gcc -gbtf: BTF from another writer, in an ELF file."""
    (tmp_path / "x.c").write_text(BITFIELDS)
    run = subprocess.run(["gcc", "-gbtf", "-c", "-o", tmp_path / "x.o", tmp_path / "x.c"], capture_output=True)
    if run.returncode:
        pytest.skip(f"this gcc writes no BTF: {run.stderr.decode()[:100]}")
    gcc = Btf.from_file(tmp_path / "x.o")
    for struct in ("one", "two", "three", "four"):
        theirs = gcc.type(gcc.find(struct, Kind.STRUCT))
        writer = BtfWriter()
        listed = []
        for member in theirs.members:
            integer = gcc.type(member.type_id)
            id = writer.int_(integer.name, integer.size, encoding=integer.encoding & 1)
            listed.append((member.name, id, None, member.bit_size))
        btf_id = writer.struct(struct, listed)
        ours = Btf(writer.encode()).type(btf_id)
        assert ours.size == theirs.size
        assert [(m.name, m.bit_offset, m.bit_size) for m in ours.members] == [
            (m.name, m.bit_offset, m.bit_size) for m in theirs.members
        ]


# -- bpftool as another reader -------------------------------------------------------------------------------


@given(steps())
@settings(max_examples=25, deadline=None)
@pytest.mark.skipif(shutil.which("bpftool") is None, reason="bpftool is not installed")
def test_bpftool_reads_the_same(tmp_path_factory: pytest.TempPathFactory, made: list[Step]) -> None:
    writer = BtfWriter()
    # bpftool prints what is not ASCII as it is, which is no JSON.
    made = [(m, ("text", *a[1:]) if m in ("int_", "float_", "decl_tag", "type_tag") else a) for m, a in made]
    write(writer, made)
    data = writer.encode()
    btf = Btf(data)
    path = tmp_path_factory.mktemp("btf") / "made.btf"
    path.write_bytes(data)
    command = ["bpftool", "-j", "btf", "dump", "file", path, "format", "raw"]
    run = subprocess.run(command, capture_output=True, check=True)
    theirs = json.loads(run.stdout)["types"]
    assert [each["id"] for each in theirs] == list(btf.types())
    for each in theirs:
        type = btf.type(each["id"])
        assert each["kind"] == type.kind.name
        assert each["name"] == (type.name or "(anon)")
        if "type_id" in each:
            assert each["type_id"] == (type.type_id or type.array.element_id)
        if "nr_elems" in each:
            assert (each["nr_elems"], each["index_type_id"]) == (type.array.length, type.array.index_id)
        for key, shown in (("members", type.members), ("params", type.params), ("vars", type.variables)):
            assert len(each.get(key, ())) == len(shown)
        for theirs_member, member in zip(each.get("members", ()), type.members):
            assert theirs_member["bits_offset"] == member.bit_offset
            assert theirs_member["type_id"] == member.type_id
            assert theirs_member.get("bitfield_size", 0) == (member.bit_size if type.kind_flag else 0)
        for value, enumerator in zip(each.get("values", ()), type.enumerators):
            # bpftool 7.1 sign-extends an unsigned ENUM in JSON: compare what is stored.
            mask = 0xFFFFFFFF if type.kind is Kind.ENUM else (1 << 64) - 1
            assert (value["name"], value["val"] & mask) == (enumerator.name, enumerator.value & mask)


# -- what the writer refuses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.int_("x", 3), "1, 2, 4, 8 or 16"),
        (lambda w: w.int_("x", 4, encoding=3), "encoding 3"),
        (lambda w: w.int_("x", 4, bits=33), "cannot have 33 bits"),
        (lambda w: w.int_("", 4), "needs a name"),
        (lambda w: w.float_("x", 3), "2, 4, 8, 12 or 16"),
        (lambda w: w.struct("not a name", []), "no C identifier"),
        (lambda w: w.struct("s", [("9", 1, 0)], 4), "struct s: member 9: '9' is no C identifier"),
        (lambda w: w.struct("s", [("a", 1, 32), ("b", 1, 0)], 8), "before the last member's, 32"),
        (lambda w: w.struct("s", [("a", 1, 3)], 8), "not at a byte"),
        (lambda w: w.struct("s", [("a", 1, 64)], 4), "beyond the size of 4 bytes"),
        (lambda w: w.struct("s", [("a", 1, 0, 129)], 64), "bitfield of 129 bits"),
        (lambda w: w.struct("s", [("a", 1, None, 33)]), "bitfield of 33 bits does not fit"),
        (lambda w: w.struct("s", [("a", 1, 1 << 32)], 8), "does not fit 32 bits"),
        (lambda w: w.struct("s", [("a", 1, 1 << 24, 1)], 1 << 22), "with bitfields, offsets end"),
        (lambda w: w.struct("s", [("a", 0, None)]), "size of type 0 is not known"),
        (lambda w: w.struct("s", [("a", 7, None)]), "size of type 7 is not known"),
        (lambda w: w.struct("s", [], id=1), "type 1 is not reserved"),
        (lambda w: w.struct("s", [("m", 1, 0)] * 65536, 4), "65536 parts"),
        (lambda w: w.union("u", [("a", 1, 8)], 8), "members of a union are at offset 0"),
        (lambda w: w.enum("e", [("A", 1 << 32)]), "use enum64"),
        (lambda w: w.enum("e", [("A", -1), ("B", 1 << 31)]), "does not fit 32 signed bits"),
        (lambda w: w.enum("e", [("A", 1)], 3), "3 bytes"),
        (lambda w: w.enum64("e", [("A", 1 << 64)]), "does not fit 64 unsigned bits"),
        (lambda w: w.func("f", 1), "is no prototype"),
        (lambda w: w.func("f", w.func_proto(0, [("", 1)])), "parameter 0 needs a name"),
        (lambda w: w.func("f", w.func_proto(0), 3), "linkage 3"),
        (lambda w: w.func_proto(0, [("a", 0)]), "parameter 0 of a prototype is void"),
        (lambda w: w.func_proto(0, [("", 0), ("a", 1)]), "parameter 0 of a prototype is void"),
        (lambda w: w.var("v", 1, 9), "linkage 9"),
        (lambda w: w.datasec(".x y", []), "no name for a data section"),
        (lambda w: w.datasec(".x", [(1, 0, 8), (1, 4, 4)]), "begins before the last one ends"),
        (lambda w: w.datasec(".x", [(1, 0, 8)], 4), "beyond the size of 4 bytes"),
        (lambda w: w.decl_tag("", 1), "needs a value"),
        (lambda w: w.decl_tag("t", 1, -2), "not -2"),
        (lambda w: w.type_tag("", 1), "needs a value"),
        (lambda w: w.ptr(-1), "-1 is no type id"),
        (lambda w: w.typedef("a\0b", 1), "no C identifier"),
        (lambda w: w.typedef("x" * 128, 1), "at most 127 characters"),
        (lambda w: w.string("a\0b"), "cannot be a BTF string"),
        (lambda w: w.string("\ud800"), "cannot be a BTF string"),
        (lambda w: w.string("x" * (1 << 24)), "bytes of strings"),
        (lambda w: (w.ptr(9), w.encode()), "a ptr refers to type 9, which was never added"),
        (lambda w: (w.reserve(), w.encode()), "type 2 was reserved and never added"),
        (lambda w: BtfWriter("middle"), "'little' or 'big'"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_here(call: Any, message: str) -> None:
    writer = BtfWriter()
    writer.int_("int", 4, True)
    with pytest.raises(BtfError) as caught:
        call(writer)
    assert message in str(caught.value)


def test_same_types_get_the_same_id_and_same_strings_the_same_offset() -> None:
    writer = BtfWriter()
    first = writer.int_("int", 4, True)
    assert writer.int_("int", 4, encoding=1) == first
    assert writer.int_("int", 4) != first
    assert writer.ptr(first) == writer.ptr(first)
    assert writer.array(first, 4) == writer.array(first, 4)
    assert writer.struct("s", [("a", first, None)]) == writer.struct("s", [("a", first, 0)], 4)
    assert writer.string("int") == writer.string("int")
    assert writer.encode().count(b"int\0") == 1


def test_a_struct_can_point_to_itself() -> None:
    writer = BtfWriter()
    id = writer.reserve()
    pointer = writer.ptr(id)
    assert writer.struct("list_head", [("next", pointer, None), ("prev", pointer, None)], id=id) == id
    btf = Btf(writer.encode())
    assert btf.c_name(btf.member("list_head", "prev").type_id) == "struct list_head *"
    assert btf.size_of(id) == 16
