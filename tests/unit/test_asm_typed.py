"""Typed pointers: what each path of fields expands to, and what is left for the loader to resolve."""

from __future__ import annotations

import pytest

from pylsm.asm import R1, R2, R6, R7, Asm, encode
from pylsm.asm.disasm import to_text
from pylsm.asm.errors import FieldError, OperandError
from pylsm.asm.model import Machine
from pylsm.asm.parse import parse
from pylsm.asm.references import BitsRef, FieldRef
from pylsm.asm.typed import bits_of, fill_bits, renamed
from pylsm.btf import Btf, BtfWriter, declare

SHAPES = declare(
    {
        "file": {
            "f_path": "struct path",
            "f_inode": "struct inode *",
            "f_mode": "u32",
            "f_pos": "s64",
            "f_error": "s32",
        },
        "path": {"mnt": "struct vfsmount *", "dentry": "struct dentry *"},
        "dentry": {"d_name": "struct qstr", "d_iname": "u8[32]"},
        "qstr": {"hash": "u32", "len": "u32", "name": "u8 *"},
        "inode": {"i_sb": "struct super_block *", "i_ino": "u64", "i_addr": "union address"},
        "super_block": {"s_dev": "u32"},
        "union address": {"word": "u32[4]", "byte": "u8[16]"},
    }
)


def expansion(write: object, cpu: str = "v3") -> list[str]:
    """The text of what ``write(a, file)`` emits, ``file`` being in r6."""
    a = Asm("lsm/file_open", types=SHAPES, cpu=cpu)
    write(a, a.typed(R6, "file"))  # type: ignore[operator]
    return [to_text(i) for i in a._body.instructions]


def test_a_load_for_each_pointer_crossed() -> None:
    assert expansion(lambda a, file: a.load(R1, file.f_inode.i_sb.s_dev)) == [
        "r1 = *(u64 *)(r6 +{file.f_inode})",
        "r1 = *(u64 *)(r1 +{inode.i_sb})",
        "r1 = *(u32 *)(r1 +{super_block.s_dev})",
    ]


def test_embedded_members_cost_nothing() -> None:
    assert expansion(lambda a, file: a.load(R1, file.f_path.dentry.d_name.len)) == [
        "r1 = *(u64 *)(r6 +{file.f_path.dentry})",
        "r1 = *(u32 *)(r1 +{dentry.d_name.len})",
    ]


def test_arrays_and_unions() -> None:
    assert expansion(lambda a, file: a.load(R1, file.f_inode.i_addr.word[2]))[1:] == [
        "r1 = *(u32 *)(r1 +{inode.i_addr.word[2]})"
    ]
    a = Asm("socket", types=SHAPES)
    a.load(R1, a.typed(R6, "union address").byte[15])
    assert to_text(a._body.instructions[0]) == "r1 = *(u8 *)(r6 +{union address.byte[15]})"


def test_the_result_is_typed_when_it_points_to_a_struct() -> None:
    a = Asm("socket", types=SHAPES)
    inode = a.load(R7, a.typed(R6, "struct file").f_inode)
    assert inode is not None
    a.load(R1, inode.i_ino)
    assert [to_text(i) for i in a._body.instructions] == [
        "r7 = *(u64 *)(r6 +{file.f_inode})",
        "r1 = *(u64 *)(r7 +{inode.i_ino})",
    ]
    assert a.load(R1, a.typed(R6, "file").f_mode) is None


def test_ldx_takes_one_load_only() -> None:
    assert expansion(lambda a, file: a.ldx(R1, file.f_mode)) == ["r1 = *(u32 *)(r6 +{file.f_mode})"]
    with pytest.raises(OperandError, match="takes 2 loads"):
        expansion(lambda a, file: a.ldx(R1, file.f_inode.i_ino))


def test_address_of_a_field() -> None:
    assert expansion(lambda a, file: a.address(R1, file.f_path)) == ["r1 = r6", "r1 += {file.f_path}"]
    assert expansion(lambda a, file: a.address(R1, file.f_path.dentry.d_iname)) == [
        "r1 = *(u64 *)(r6 +{file.f_path.dentry})",
        "r1 += {dentry.d_iname}",
    ]


def test_address_of_an_embedded_struct_is_typed() -> None:
    a = Asm("socket", types=SHAPES)
    path = a.address(R7, a.typed(R6, "file").f_path)
    assert path is not None
    a.load(R1, path.mnt)
    assert to_text(a._body.instructions[-1]) == "r1 = *(u64 *)(r7 +{path.mnt})"


def test_probe_load() -> None:
    def write(a: Asm, file: object) -> None:
        slot = a.stack(8)
        a.probe_load(R7, file.f_inode.i_ino, slot)  # type: ignore[attr-defined]

    lines = expansion(write)
    assert lines[:7] == [
        "r3 = r6",
        "r3 += {file.f_inode}",
        "r1 = r10",
        "r1 += -8",
        "r2 = 8",
        "call bpf_probe_read_kernel#113",
        "r7 = *(u64 *)(r10 -8)",
    ]
    assert lines[7:9] == ["r3 = r7", "r3 += {inode.i_ino}"]
    assert len(lines) == 14


def test_probe_load_needs_a_slot_of_8_bytes() -> None:
    with pytest.raises(OperandError, match="shorter than 8 bytes"):
        expansion(lambda a, file: a.probe_load(R7, file.f_mode, a.stack(4)))


# ---- signs -------------------------------------------------------------------------------------------------------


def test_a_sign_is_kept_when_asked_for() -> None:
    assert expansion(lambda a, file: a.load(R1, file.f_error)) == ["r1 = *(u32 *)(r6 +{file.f_error})"]
    assert expansion(lambda a, file: a.load(R1, file.f_error, signed=True), "v4") == [
        "r1 = *(s32 *)(r6 +{file.f_error})"
    ]
    assert expansion(lambda a, file: a.load(R1, file.f_error, signed=True), "v3") == [
        "r1 = *(u32 *)(r6 +{load file.f_error})",
        "r1 <<= {lshift file.f_error}",
        "r1 s>>= {rshift file.f_error}",
    ]
    for cpu in ("v3", "v4"):
        assert expansion(lambda a, file: a.load(R1, file.f_pos, signed=True), cpu) == [
            "r1 = *(u64 *)(r6 +{file.f_pos})"
        ]
        assert expansion(lambda a, file: a.load(R1, file.f_mode, signed=True), cpu) == [
            "r1 = *(u32 *)(r6 +{file.f_mode})"
        ]


# ---- bit fields --------------------------------------------------------------------------------------------------

#: (name, signed, bytes of the declared type, first bit, width)
FIELDS = [
    ("one", False, 4, 0, 1),
    ("three", False, 4, 1, 3),
    ("minus", True, 4, 4, 5),
    ("byte", False, 1, 16, 7),
    ("high", True, 4, 31, 1),
    ("wide", False, 8, 33, 30),
    ("all", True, 8, 64, 64),
    ("across", True, 4, 150, 20),
    ("plain", True, 4, 192, 0),
]


def flags() -> Btf:
    writer = BtfWriter()
    members = []
    for name, signed, size, first, width in FIELDS:
        number = writer.int_(f"{'s' if signed else 'u'}{size * 8}_{name}", size, signed=signed)
        members.append((name, number, first, width) if width else (name, number, first))
    writer.struct("flags", members, size=28)
    return Btf(writer.encode())


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize(("name", "signed", "size", "first", "width"), FIELDS, ids=[field[0] for field in FIELDS])
def test_bit_fields_run(name: str, signed: bool, size: int, first: int, width: int, byteorder: str) -> None:
    """The expansion, resolved and run on the model, finds the bits where the compiler of that byte order puts them."""
    types = flags()
    a = Asm("socket", types=types, cpu="v3")
    a.load(R1, getattr(a.typed(R1, "flags"), name), signed=True)
    a.mov(R2, R1)
    code = [
        fill_bits(i, i.reference, types.member("flags", i.reference.path), byteorder)
        if isinstance(i.reference, BitsRef)
        else i
        for i in a._body.instructions
    ]
    code += parse("r0 = r2\nexit\n")
    bits = width or size * 8
    for value in {0, 1, (1 << bits) - 1, 1 << bits - 1, 0x5A5A5A5A5A5A5A5A & (1 << bits) - 1}:
        noise = (1 << 28 * 8) - 1 if value % 2 == 0 else 0  # what is around it must not matter
        shift = first if byteorder == "little" else 28 * 8 - first - bits
        image = noise & ~(((1 << bits) - 1) << shift) | value << shift
        machine = Machine(encode(code, byteorder), byteorder=byteorder)
        got = machine.run(machine.map(bytearray(image.to_bytes(28, byteorder))))  # type: ignore[arg-type]
        negative = signed and value >> bits - 1
        assert got == (value - (1 << bits) if negative else value) % (1 << 64)


def test_bit_field_expands_to_three() -> None:
    a = Asm("socket", types=flags())
    a.load(R1, a.typed(R6, "flags").three)
    assert [to_text(i) for i in a._body.instructions] == [
        "r1 = *(u32 *)(r6 +{load flags.three})",
        "r1 <<= {lshift flags.three}",
        "r1 >>= {rshift flags.three}",
    ]
    place = flags().member("flags", "three")
    done = [fill_bits(i, i.reference, place) for i in a._body.instructions]
    assert [i.imm for i in done[1:]] == [60, 61]


def test_bits_stay_within_8_bytes() -> None:
    types = flags()
    for name, _, _, first, width in FIELDS:
        bits = bits_of(types.member("flags", name))
        assert bits.size in (1, 2, 4, 8)
        assert bits.offset % bits.size == 0
        assert bits.offset * 8 <= first
        assert first + width <= (bits.offset + bits.size) * 8
    writer = BtfWriter()
    number = writer.int_("u64", 8)
    writer.struct("far", [("field", number, 60, 10)], size=24)
    with pytest.raises(FieldError, match="no load of 8 bytes covers its 10 bits"):
        bits_of(Btf(writer.encode()).member("far", "field"))


def test_a_bit_field_has_no_single_load_or_address() -> None:
    a = Asm("socket", types=flags())
    with pytest.raises(FieldError, match="is a bit field"):
        a.ldx(R1, a.typed(R6, "flags").three)
    with pytest.raises(FieldError, match="is a bit field"):
        a.probe_load(R1, a.typed(R6, "flags").three, a.stack(8))


# ---- other names in other kernels --------------------------------------------------------------------------------


def test_alternatives_follow_the_path() -> None:
    a = Asm("socket", types=SHAPES)
    field = renamed(a.typed(R6, "file").f_path, "path", ("file_v2", "fp.path")).dentry
    a.load(R1, field.d_name.len)
    first, second = a._body.instructions
    assert first.reference == FieldRef(
        "file", "f_path.dentry", "offset", (("file", "path.dentry"), ("file_v2", "fp.path.dentry"))
    )
    assert second.reference == FieldRef("dentry", "d_name.len")
    assert to_text(first) == "r1 = *(u64 *)(r6 +{file.f_path.dentry | file.path.dentry | file_v2.fp.path.dentry})"
    again = parse(to_text(first) + "\nexit\n")[0]
    assert again.reference == first.reference


def test_offsets_and_sizes_have_alternatives() -> None:
    a = Asm("socket")
    a.ld_offset(R1, "task_struct", "__state", ("task_struct", "state"))
    a.ld_field_size(R1, "task_struct", "__state", ("task_struct", "state"))
    assert [to_text(i) for i in a._body.instructions] == [
        "r1 = {task_struct.__state | task_struct.state}",
        "r1 = {size task_struct.__state | task_struct.state}",
    ]


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda a, file: file.f_inod, "file has no field f_inod"),
        (lambda a, file: file.f_inode.i_in, "inode has no field i_in"),
        (lambda a, file: file.f_mode.x, "has no field f_mode.x"),
        (lambda a, file: file.f_inode.i_addr.word[4], "has no field i_addr.word"),
        (lambda a, file: file.f_mode[0], "has no field f_mode"),
        (lambda a, file: a.load(R1, file.f_path), "16 bytes, no single load"),
        (lambda a, file: a.typed(R1, "no_such"), "no_such"),
    ],
)
def test_refused(write: object, message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        expansion(write)
    assert caught.value.line is not None
    assert caught.value.line.file == __file__


def test_the_nearest_field_is_named() -> None:
    with pytest.raises(FieldError, match="f_inode"):
        expansion(lambda a, file: file.f_inod)
