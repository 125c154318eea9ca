"""Damaged and malicious BTF: a BtfError that says where, in bounded time, and nothing else."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylsm.btf import Btf, BtfError, BtfWriter, Kind
from pylsm.btf.index import TypeIndex

ATTRIBUTES = ["name", "type_id", "size", "members", "enumerators", "params", "variables", "array", "signed"]
ATTRIBUTES += ["encoding", "bits", "bit_shift", "linkage", "component"]


def sample() -> bytes:
    """One type of every kind, and the usual ways to combine them."""
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    char = writer.int_("char", 1, encoding=2)
    node = writer.reserve()
    pointer = writer.ptr(node)
    fwd = writer.fwd("later", union=True)
    inner = writer.union("", [("as_int", integer, None), ("as_chars", writer.array(char, 4), None)])
    writer.struct(
        "node",
        [
            ("next", pointer, None),
            ("", inner, None),
            ("low", integer, None, 3),
            ("high", integer, None, 29),
            ("later", writer.ptr(fwd), None),
        ],
        id=node,
    )
    alias = writer.typedef("node_t", writer.const(writer.volatile(node)))
    writer.restrict(pointer)
    writer.enum("colour", [("RED", -1), ("GREEN", 0x04000002)])
    writer.enum64("wide", [("FAR", 1 << 40)])
    writer.float_("double", 8)
    proto = writer.func_proto(integer, [("self", writer.ptr(alias)), ("", 0)])
    func = writer.func("walk", proto, 1)
    var = writer.var("head", alias, 1)
    writer.datasec(".data", [(var, 0, 24)])
    writer.decl_tag("checked", func, 0)
    writer.ptr(writer.type_tag("user", char))
    return writer.encode()


def explore(btf: Btf) -> int:
    """Ask everything of everything; BtfError is an answer. Returns how many questions had another one."""
    answers = 0

    def ask(question: Callable[[], object]) -> None:
        nonlocal answers
        try:
            question()
            answers += 1
        except BtfError as error:
            assert str(error)

    ask(lambda: len(btf))
    ids = [0, 1, 2, 0x7FFFFFFF, -1]
    ask(lambda: ids.extend(btf.types()))
    for id in ids[:100]:
        ask(lambda id=id: btf.type(id))  # type: ignore[misc]
        for question in (btf.resolve, btf.size_of, btf.align_of, btf.is_signed, btf.name_of, btf.c_name, btf.body):
            ask(lambda question=question, id=id: question(id))  # type: ignore[misc]
        for question in (btf.dump_c, btf.func_proto, btf.members, btf.enumerators):
            ask(lambda question=question, id=id: question(id))  # type: ignore[misc,operator]
        for path in ("next", "as_chars[2]", "low", "later", "nothing"):
            ask(lambda id=id, path=path: btf.member(id, path).size)  # type: ignore[misc]
        try:
            type = btf.type(id)
        except BtfError:
            continue
        repr(type)
        for attribute in ATTRIBUTES:
            ask(lambda type=type, attribute=attribute: getattr(type, attribute))  # type: ignore[misc]
        ask(lambda type=type: [(m.size, m.bit_size, m.signed) for m in type.members])  # type: ignore[misc]
    for name in ("node", "colour", "walk", "absent", "od", ""):
        ask(lambda name=name: btf.find(name))  # type: ignore[misc]
        ask(lambda name=name: btf.find_c(f"struct {name}"))  # type: ignore[misc]
        ask(lambda name=name: btf.find(name, Kind.STRUCT))  # type: ignore[misc]
    ask(lambda: btf.enumerator("colour", "GREEN"))
    ask(lambda: btf.enumerator("colour", "BLUE"))
    return answers


def questions(data: bytes, exact: bool | None = None) -> int:
    try:
        btf = Btf(data, name="hostile")
    except BtfError as error:
        assert str(error)
        return 0
    if exact is not None:
        btf._index = TypeIndex(btf._words, source="hostile", exact=exact)
    return explore(btf)


def test_the_sample_is_sound_and_answers() -> None:
    assert {Btf(sample()).type(id).kind for id in Btf(sample()).types()} == {*Kind} - {Kind.VOID}
    assert questions(sample()) > 500


def test_truncation_at_every_byte() -> None:
    data = sample()
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf(data[:length], name="cut")


def test_truncation_of_the_type_section_at_every_byte() -> None:
    """The header agrees with the cut: what is left of the types is read, the cut itself is named."""
    data = sample()
    type_len, str_off, str_len = struct.unpack_from("<III", data, 12)
    strings = data[24 + str_off :]
    refused = 0
    for length in range(type_len):
        header = data[:12] + struct.pack("<III", length, length, str_len)
        cut = header + data[24 : 24 + length] + strings
        try:
            btf = Btf(cut, name="cut")
            list(btf.types())
        except BtfError as error:
            refused += 1
            assert error.section in ("type", "header")
            assert error.offset is not None
        questions(cut)
        questions(cut, exact=False)
    assert refused > type_len * 0.9


def test_truncation_of_a_large_type_section() -> None:
    """Too large to be walked: counted, and a cut is seen all the same."""
    writer = BtfWriter()
    integer = writer.int_("int", 4, True)
    for number in range(2500):
        writer.struct(f"s{number}", [("a", integer, 0), ("b", integer, 32)], 8)
        writer.enum(f"e{number}", [("A", -number), ("B", 0x0C000000)])
        writer.func(f"f{number}", writer.func_proto(number, [("x", integer)]))
    data = writer.encode()
    btf = Btf(data)
    assert (len(btf), btf._index.exact) == (10_001, False)
    ends = {btf._index.end(btf._index.locate(number)) * 4 for number in range(len(btf))}
    type_len, str_off, str_len = struct.unpack_from("<III", data, 12)
    for length in range(140_000, type_len, 6_404):
        for near in range(length, length + 64, 4):
            header = data[:12] + struct.pack("<III", near, near, str_len)
            cut = Btf(header + data[24 : 24 + near] + data[24 + str_off :], name="cut")
            assert cut.member("s9", "b").offset == 4
            if near in ends:
                assert len(cut) < 10_001
            else:
                with pytest.raises(BtfError) as caught:
                    len(cut)
                assert caught.value.section == "type"
                assert near - 64 < (caught.value.offset or 0) < near


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@settings(max_examples=400, deadline=None, derandomize=True)
def test_mutated_bytes(changes: list[tuple[int, int]], exact: bool) -> None:
    data = bytearray(sample())
    for at, value in changes:
        data[at % len(data)] = value
    questions(bytes(data), exact)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 0xFFFFFFFF)), min_size=1, max_size=4))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_mutated_words(changes: list[tuple[int, int]]) -> None:
    data = bytearray(sample())
    words = struct.unpack_from("<I", data, 12)[0] // 4
    for at, value in changes:
        struct.pack_into("<I", data, 24 + 4 * (at % words), value)
    questions(bytes(data))


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_random_types(types: bytes) -> None:
    strings = b"\0int\0node\0"
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    questions(header + types + strings, exact=False)


def raw(words: list[int], strings: bytes = b"\0a\0b\0") -> bytes:
    types = struct.pack(f"<{len(words)}I", *words)
    return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)) + types + strings


def quickly(question: Callable[[], object], message: str) -> None:
    start = time.monotonic()
    with pytest.raises(BtfError) as caught:
        question()
    assert message in str(caught.value)
    assert time.monotonic() - start < 2


TYPEDEF, PTR, ARRAY, STRUCT, PROTO = 8 << 24, 2 << 24, 3 << 24, 4 << 24, 13 << 24


def test_circles_end() -> None:
    own = Btf(raw([1, TYPEDEF, 1]))
    pair = Btf(raw([1, TYPEDEF, 2, 3, TYPEDEF, 1]))
    array = Btf(raw([0, ARRAY, 0, 1, 1, 1 << 31]))
    for btf in (own, pair):
        quickly(lambda btf=btf: btf.resolve(1), "circle")
        quickly(lambda btf=btf: btf.is_signed(1), "circle")
        quickly(lambda btf=btf: btf.func_proto(1), "circle")
    for btf in (own, pair, array):
        quickly(lambda btf=btf: btf.size_of(1), "circle")
        assert btf.align_of(1) == 1
    assert Btf(raw([0, PTR, 1])).c_name(1) == "… *"
    assert Btf(raw([0, PTR, 2, 0, PTR, 3, 0, PTR, 1])).c_name(1) == "… ***"
    prototypes = Btf(raw([0, PTR, 2, 0, PROTO | 1, 1, 1, 3, 0, PTR, 3]))
    assert len(prototypes.c_name(1)) < 100
    assert Btf(raw([0, PROTO | 1, 0, 1, 1])).c_name(1) == "void (… a)"


def test_anonymous_structs_inside_themselves_end() -> None:
    words = [0, STRUCT | 3, 8]
    for _ in range(3):
        words += [0, 1, 0]
    btf = Btf(raw(words))
    quickly(lambda: btf.member(1, "b"), "no member 'b'")
    quickly(lambda: btf.dump_c(1), "nests deeper than")


def test_types_that_double_at_each_level_end() -> None:
    words: list[int] = []
    for level in range(1, 200):
        words += [0, PROTO | 2, level - 1, 1, level - 1, 3, level - 1]
    btf = Btf(raw(words))
    start = time.monotonic()
    assert len(btf.c_name(199)) < 1_000_000
    assert len(btf.dump_c(199)) < 100_000_000
    assert time.monotonic() - start < 20


def test_sizes_of_4_gib() -> None:
    most = 0xFFFFFFFF
    btf = Btf(raw([1, STRUCT, most, 0, ARRAY, 0, 1, 1, most, 0, ARRAY, 0, 2, 1, most]))
    assert btf.size_of(1) == most
    assert btf.size_of(3) == most**3
    assert btf.type(3).size == most**3
    quickly(lambda: btf.members(3), "no struct")


@pytest.mark.parametrize("kind", [4, 5, 6, 13, 15, 19])
def test_huge_vlen(kind: int) -> None:
    for vlen in (1, 0xFFFF, 0xFFFFFF):
        data = raw([1, kind << 24 | vlen, 4])
        quickly(lambda data=data: Btf(data).type(1), f"with {vlen} elements needs")


def test_unknown_kind_names_section_and_offset() -> None:
    with pytest.raises(BtfError) as caught:
        len(Btf(raw([1, TYPEDEF, 0, 1, 0x2A << 24, 0]), name="newer"))
    assert caught.value.section == "type"
    assert caught.value.offset == 12
    assert str(caught.value) == "newer: BTF type section, offset 0xc: unknown kind 42"
    assert "newer kernel" in caught.value.hint


def test_ids_and_names_out_of_range() -> None:
    btf = Btf(raw([0x100, TYPEDEF, 77]), name="odd")
    with pytest.raises(BtfError, match="no type with id 77"):
        btf.resolve(1)
    with pytest.raises(BtfError) as caught:
        btf.name_of(1)
    assert (caught.value.section, caught.value.offset) == ("string", 0x100)
    assert btf.c_name(1) == "(damaged type 1)"
    assert "strings end at 0x5" in repr(btf.type(1))


@pytest.mark.parametrize(
    ("offset", "fmt", "value", "section", "message"),
    [
        (0, "<H", 0xEB9E, "header", "magic is 9eeb"),
        (2, "B", 2, "header", "version 2"),
        (4, "<I", 23, "header", "header length 23"),
        (4, "<I", 0xFFFFFFFF, "header", "header length 4294967295"),
        (8, "<I", 1, "header", "not made of 32-bit words"),
        (8, "<I", 0xFFFFFFFC, "header", "the type section ends at"),
        (12, "<I", 0xFFFFFFFC, "header", "the type section ends at"),
        (16, "<I", 0xFFFFFFFF, "header", "the string section ends at"),
        (20, "<I", 0xFFFFFFFF, "header", "the string section ends at"),
        (20, "<I", 0, "string", "the string section is empty"),
        (20, "<I", 2, "string", "the last string does not end"),
        (16, "<I", 13, "string", "the first string is not empty"),
    ],
)
def test_header_fields(offset: int, fmt: str, value: int, section: str, message: str) -> None:
    data = bytearray(raw([1, TYPEDEF, 0]))
    if offset == 16 and value == 13:
        struct.pack_into("<I", data, 20, 4)
    struct.pack_into(fmt, data, offset, value)
    with pytest.raises(BtfError, match=message) as caught:
        Btf(bytes(data), name="header")
    assert caught.value.section == section
    assert caught.value.offset is not None


def test_a_longer_header_is_trusted() -> None:
    plain = raw([1, TYPEDEF, 0])
    longer = plain[:4] + struct.pack("<I", 40) + plain[8:24] + bytes(16) + plain[24:]
    assert Btf(longer).find("a", Kind.TYPEDEF) == 1


def test_layout_section_tells_the_size_of_unknown_kinds() -> None:
    """Header of 32 bytes: struct btf_layout {u8 info_sz, elem_sz; u16 flags} for each kind."""
    types = struct.pack("<11I", 1, 25 << 24 | 2, 0, 9, 9, 9, 9, 9, 3, TYPEDEF, 0)
    strings = b"\0a\0b\0"
    layout = bytes(4 * 25) + bytes([4, 8, 0, 0])
    header = struct.pack(
        "<HBBIIIIIII", 0xEB9F, 1, 0, 32, 0, len(types), len(types), len(strings), len(types) + len(strings), len(layout)
    )
    btf = Btf(header + types + strings + layout, name="newer")
    assert len(btf) == 2
    assert btf.find("b", Kind.TYPEDEF) == 2
    with pytest.raises(BtfError, match="kind 25, newer than this reader"):
        btf.type(1)


def test_marks_that_disagree_with_lengths_are_no_answer() -> None:
    """A struct that claims fewer members than it has: counted, it does not end where the next record starts."""
    words = [1, STRUCT | 1, 8, 1, 0, 0, 3, 0, 0, 1, TYPEDEF, 0]
    btf = Btf(raw(words), name="odd")
    btf._index = TypeIndex(btf._words, source="odd", exact=False)
    with pytest.raises(BtfError, match="does not end where the next one starts"):
        btf.members(1)


def test_files_that_are_no_btf(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "elf").write_bytes(b"\x7fELF\2\1\1" + bytes(100))
    (tmp_path / "dir").mkdir()
    for name, message in (
        ("text", "neither BTF nor ELF"),
        ("empty", "neither BTF nor ELF"),
        ("elf", "ELF"),
        ("dir", "Is a directory"),
        ("missing", "no such file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(BtfError, match=message):
            Btf.from_file(tmp_path / name)


def test_elf_files(tmp_path: Path) -> None:
    data = sample()
    path = tmp_path / "object.o"
    path.write_bytes(elf({".BTF": data}))
    btf = Btf.from_file(path)
    assert btf.name == str(path)
    assert btf.find("node", Kind.STRUCT)
    path.write_bytes(elf({".text": b"\0" * 8}))
    with pytest.raises(BtfError, match=r"no \.BTF section"):
        Btf.from_file(path)
    whole = elf({".BTF": data})
    for length in range(4, len(whole) - len(data), 3):
        path.write_bytes(whole[:length])
        with pytest.raises(BtfError):
            Btf.from_file(path)


def test_elf_with_its_own_base(tmp_path: Path) -> None:
    """Modules since Linux 6.11 carry the base their ids count from in .BTF.base."""
    base = sample()
    writer = BtfWriter(base=Btf(base))
    writer.struct("module_only", [("n", Btf(base).find("node", Kind.STRUCT), 0)], 24)
    path = tmp_path / "module.ko"
    path.write_bytes(elf({".BTF": writer.encode(), ".BTF.base": base}))
    btf = Btf.from_file(path)
    assert btf.member("module_only", "n.low").bit_size == 3


def elf(sections: dict[str, bytes]) -> bytes:
    """A little-endian ELF64 object of the given sections."""
    names = b"\0.shstrtab\0"
    body = b""
    heads = [bytes(64)]
    for name, data in sections.items():
        heads.append(struct.pack("<IIQQQQIIQQ", len(names), 1, 0, 0, 64 + len(body), len(data), 0, 0, 1, 0))
        names += name.encode() + b"\0"
        body += data
    heads.append(struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0))
    body += names
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    head = struct.pack("<HHIQQQIHHHHHH", 1, 247, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(heads), len(heads) - 1)
    return ident + head + body + b"".join(heads)
