"""References → instructions, against a made-up kernel."""

from __future__ import annotations

import pytest

from pylsm.asm import Function, Instruction, MapSpec, MapType, Program, SourceLine
from pylsm.asm import opcodes as op
from pylsm.asm.references import (
    BitsRef,
    EnumRef,
    FieldRef,
    FunctionRef,
    KfuncRef,
    KsymRef,
    MapRef,
    MapValueRef,
    Reference,
    TypeRef,
)
from pylsm.btf import Btf, BtfWriter, Kind
from pylsm.loader.errors import ResolveError
from pylsm.loader.relocate import resolve

LOAD = {1: op.LDX | op.MEM | op.B, 2: op.LDX | op.MEM | op.H, 4: op.LDX | op.MEM | op.W, 8: op.LDX | op.MEM | op.DW}
MOV = op.ALU64 | op.MOV | op.K
CALL = op.JMP | op.CALL


@pytest.fixture(scope="module")
def kernel() -> Btf:
    """struct thing { u64 wide; u32 flags; s32 error; char name[16]; u16 :3 bits; u32 bits:5; struct thing *next; }"""
    writer = BtfWriter()
    u64, u32, s32 = (
        writer.int_("unsigned long long", 8),
        writer.int_("unsigned int", 4),
        writer.int_("int", 4, signed=True),
    )
    s64 = writer.int_("long long", 8, signed=True)
    char = writer.int_("char", 1)
    thing = writer.reserve()
    inner = writer.struct("inner", [("deep", u32, None), ("deeper", u32, None)])
    writer.struct(
        "thing",
        [
            ("wide", u64, 0),
            ("flags", u32, 64),
            ("error", s32, 96),
            ("name", writer.array(char, 16), 128),
            ("bits", u32, 256, 5),
            ("next", writer.ptr(thing), 320),
            ("delta", s64, 384),
            ("inner", inner, 448),
        ],
        id=thing,
    )
    writer.enum("colour", [("RED", 3), ("DARK", -2)])
    writer.func("bpf_do_it", writer.func_proto(0))
    writer.var("jiffies", u64)
    writer.var("bpf_do_it", u64)
    return Btf(writer.encode(), name="kernel 9.9")


def never() -> Btf:
    raise AssertionError("nothing here needs the kernel's types")


def one(reference: Reference, kernel: Btf, opcode: int = MOV, **maps: int) -> Instruction:
    made = Instruction(opcode, 1, 0, 0, 0, reference, SourceLine("probe.py", 7))
    return resolve(Program("p", "socket", (made,), (Function("p", 0, 1),)), maps, lambda: kernel)[0]


def test_maps(kernel: Btf) -> None:
    found = one(MapRef("events"), kernel, op.LDDW, events=9)
    assert (found.src, found.imm, found.reference) == (op.PSEUDO_MAP_FD, 9, None)
    found = one(MapValueRef("config", 24), kernel, op.LDDW, config=5)
    assert (found.src, found.imm) == (op.PSEUDO_MAP_VALUE, 24 << 32 | 5)


@pytest.mark.parametrize(
    ("path", "offset"), [("wide", 0), ("flags", 8), ("name", 16), ("name[3]", 19), ("next", 40), ("inner.deeper", 60)]
)
def test_offsets_go_where_the_instruction_has_room(kernel: Btf, path: str, offset: int) -> None:
    reference = FieldRef("thing", path)
    assert one(reference, kernel, op.LDX | op.MEM | op.B).off == offset
    assert one(reference, kernel, op.STX | op.MEM | op.DW).off == offset
    assert one(reference, kernel, op.ST | op.MEM | op.W).off == offset
    added = one(reference, kernel, op.ALU64 | op.ADD | op.K)
    assert (added.off, added.imm) == (0, offset)


@pytest.mark.parametrize(
    ("path", "written", "loaded"),
    [
        ("flags", 8, 4),  # the field shrank: its neighbour must not be read with it
        ("flags", 4, 4),
        ("wide", 4, 8),  # the field grew
        ("next", 4, 8),
        ("name", 8, 8),  # 8 bytes of an array are what was asked for
        ("inner", 4, 4),  # and so are 4 of a struct
    ],
)
def test_loads_take_the_width_that_the_field_has_here(kernel: Btf, path: str, written: int, loaded: int) -> None:
    assert one(FieldRef("thing", path), kernel, LOAD[written]).opcode == LOAD[loaded]


def test_a_signed_field_that_shrank_is_refused_unless_the_load_extends_its_sign(kernel: Btf) -> None:
    with pytest.raises(ResolveError, match=r"probe.py:7: .*thing.error is a signed number of 4 bytes in kernel 9.9"):
        one(FieldRef("thing", "error"), kernel, LOAD[8])
    assert one(FieldRef("thing", "error"), kernel, op.LDX | op.MEMSX | op.H).opcode == op.LDX | op.MEMSX | op.W
    assert one(FieldRef("thing", "delta"), kernel, op.LDX | op.MEMSX | op.W).opcode == LOAD[8]


@pytest.mark.parametrize(
    ("path", "load", "offset", "lshift", "rshift"),
    [
        ("bits", op.LDX | op.MEM | op.W, 32, 59, 59),  # 5 bits at the bottom of a u32
        ("error", op.LDX | op.MEM | op.W, 12, 32, 32),  # 32 bits whose sign an arithmetic shift keeps
        ("delta", op.LDX | op.MEM | op.DW, 48, 0, 0),
    ],
)
def test_bit_fields_and_signed_numbers_take_a_load_and_two_shifts(
    kernel: Btf, path: str, load: int, offset: int, lshift: int, rshift: int
) -> None:
    loaded = one(BitsRef("thing", path, "load"), kernel, op.LDX | op.MEM | op.B)
    assert (loaded.opcode, loaded.off) == (load, offset)
    assert one(BitsRef("thing", path, "lshift"), kernel, op.ALU64 | op.LSH | op.K).imm == lshift
    assert one(BitsRef("thing", path, "rshift"), kernel, op.ALU64 | op.RSH | op.K).imm == rshift


def test_stores_keep_their_width(kernel: Btf) -> None:
    assert one(FieldRef("thing", "flags"), kernel, op.STX | op.MEM | op.DW).opcode == op.STX | op.MEM | op.DW


def test_size_and_existence(kernel: Btf) -> None:
    assert one(FieldRef("thing", "name", "size"), kernel).imm == 16
    assert one(FieldRef("thing", "name", "exists"), kernel).imm == 1
    assert one(FieldRef("thing", "gone", "exists"), kernel).imm == 0
    assert one(FieldRef("nothing", "x", "exists"), kernel).imm == 0
    assert one(TypeRef("thing", "exists"), kernel).imm == 1
    assert one(TypeRef("struct thing", "size"), kernel).imm == 64
    assert one(TypeRef("colour", "size"), kernel).imm == 4
    assert one(TypeRef("nothing", "exists"), kernel).imm == 0
    assert one(TypeRef("thing", "id"), kernel).imm == kernel.find_struct("thing")


def test_alternatives_are_tried_in_order(kernel: Btf) -> None:
    reference = FieldRef("thing", "old_flags", "offset", (("other", "flags"), ("thing", "flags"), ("thing", "wide")))
    assert one(reference, kernel, LOAD[4]).off == 8
    with pytest.raises(ResolveError, match="old_flags"):
        one(FieldRef("thing", "old_flags", "offset", (("other", "flags"),)), kernel, LOAD[4])


def test_enums_functions_and_variables(kernel: Btf) -> None:
    assert one(EnumRef("colour", "RED"), kernel).imm == 3
    assert one(EnumRef("colour", "DARK"), kernel).imm == -2
    called = one(KfuncRef("bpf_do_it"), kernel, CALL)
    assert (called.src, called.imm, called.off) == (op.CALL_KFUNC, kernel.find("bpf_do_it", Kind.FUNC), 0)
    loaded = one(KsymRef("jiffies"), kernel, op.LDDW)
    assert (loaded.src, loaded.imm) == (op.PSEUDO_BTF_ID, kernel.find("jiffies"))


def test_references_of_different_kinds_but_equal_names_stay_apart(kernel: Btf) -> None:
    """Named tuples of different types compare equal."""
    made = Program(
        "p",
        "socket",
        (
            Instruction(CALL, reference=KfuncRef("bpf_do_it")),
            Instruction(op.LDDW, 1, reference=KsymRef("bpf_do_it")),
        ),
        (Function("p", 0, 1),),
    )
    known: dict = {}  # type: ignore[type-arg]
    found = resolve(made, {}, lambda: kernel, known)
    assert found[0].imm == kernel.find("bpf_do_it", Kind.FUNC)
    assert found[1].imm == kernel.find("bpf_do_it", Kind.VAR)
    assert resolve(made, {}, never, known) == found, "what is known is not looked up again"


def test_functions_by_the_distance_in_slots(kernel: Btf) -> None:
    """A 64-bit load takes two slots, which jumps and calls count."""
    made = Program(
        "p",
        "socket",
        (
            Instruction(CALL, reference=FunctionRef("deep")),  # slot 0
            Instruction(op.LDDW, 2, reference=FunctionRef("deep")),  # 1, 2
            Instruction(op.LDDW, 2, reference=FunctionRef("p")),  # 3, 4
            Instruction(op.JMP | op.EXIT),  # 5
            Instruction(CALL, reference=FunctionRef("p")),  # 6: deep
            Instruction(op.JMP | op.EXIT),
        ),
        (Function("p", 0, 1), Function("deep", 4, 0)),
    )
    found = resolve(made, {}, lambda: kernel)
    assert (found[0].src, found[0].imm) == (op.CALL_FUNCTION, 5)
    assert (found[1].src, found[1].imm) == (op.PSEUDO_FUNC, 4)
    # Backwards: the lower half of the immediate, as a signed number; the upper half has to be 0.
    assert (found[2].src, found[2].imm) == (op.PSEUDO_FUNC, -4 & 0xFFFFFFFF)
    assert (found[4].src, found[4].imm) == (op.CALL_FUNCTION, -7)


@pytest.mark.parametrize(
    ("reference", "opcode", "message"),
    [
        (MapRef("gone"), op.LDDW, "map 'gone' is not given"),
        (FunctionRef("gone"), CALL, "there is no function 'gone'"),
        (FieldRef("thing", "flgs"), LOAD[4], "no member 'flgs' in struct thing of kernel 9.9; nearest: flags"),
        (FieldRef("thng", "flags"), LOAD[4], "no struct 'thng' in kernel 9.9"),
        (FieldRef("thing", "bits"), LOAD[4], "thing.bits is a bit field in kernel 9.9"),
        (FieldRef("thing", "next.flags"), LOAD[4], "a pointer"),
        (KfuncRef("bpf_do_at"), CALL, "no func 'bpf_do_at' in kernel 9.9; nearest: bpf_do_it"),
        (KsymRef("jiffy"), op.LDDW, "no var 'jiffy'"),
        (EnumRef("colour", "BLUE"), MOV, "no enumerator 'BLUE'"),
        (TypeRef("nothing", "size"), MOV, "nothing"),
    ],
)
def test_what_is_not_there_is_named_with_program_line_and_kernel(
    kernel: Btf, reference: Reference, opcode: int, message: str
) -> None:
    with pytest.raises(ResolveError) as caught:
        one(reference, kernel, opcode)
    assert message in str(caught.value)
    assert str(caught.value).startswith("probe.py:7: program 'p': ")


def test_the_kernels_types_are_asked_for_only_if_needed() -> None:
    spec = MapSpec("events", MapType.RINGBUF, max_entries=4096)
    made = Program(
        "p",
        "socket",
        (Instruction(op.LDDW, 1, reference=MapRef("events")), Instruction(op.JMP | op.EXIT)),
        (Function("p", 0, 1),),
        (spec,),
    )
    assert resolve(made, {"events": 3}, never)[0].imm == 3


def test_a_program_without_references_is_given_back_as_it_is() -> None:
    made = Program("p", "socket", (Instruction(op.JMP | op.EXIT),), (Function("p", 0, 1),))
    assert resolve(made, {}, lambda: pytest.fail()) is made.instructions
