"""Round trips as properties: encode → decode → print → parse → encode is the identity, for every opcode."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pylsm.asm import Instruction, decode, encode
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import disassemble, to_text
from pylsm.asm.errors import AsmError, OperandError, RegisterError, SourceLine
from pylsm.asm.parse import _Line, _statement, parse

registers = st.integers(0, 10)
offsets = st.one_of(st.sampled_from([0, 1, -1, 8, 16, 32]), st.integers(op.S16_MIN, op.S16_MAX))
#: Immediates that mean something to some opcode, and any others.
immediates = st.one_of(
    st.sampled_from([0, 1, 5, 16, 32, 64, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1, 0x100, 0x110, 0x10000]),
    st.integers(op.S32_MIN, op.S32_MAX),
)
wide = st.one_of(immediates.map(lambda imm: imm & op.U64_MAX), st.integers(0, op.U64_MAX))


@st.composite
def any_instruction(draw: st.DrawFn, opcode: int) -> Instruction:
    imm = draw(wide if opcode == op.LDDW else immediates)
    return Instruction(opcode, draw(registers), draw(registers), draw(offsets), imm)


#: What follows an instruction under test, so that control does not run off the end.
EXIT = Instruction(op.JMP | op.EXIT)


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("opcode", range(256), ids=hex)
@settings(max_examples=12, deadline=None, database=None)
@given(data=st.data())
def test_encode_decode_print_parse(opcode: int, byteorder: str, data: st.DataObject) -> None:
    i = data.draw(any_instruction(opcode))
    code = encode([i], byteorder)
    assert len(code) == 8 * i.slots
    (decoded,) = decode(code, byteorder)
    assert decoded == i
    assert encode([decoded], byteorder) == code
    text = to_text(decoded)
    again = parse_line(text)
    assert again == decoded, text
    assert encode([again], byteorder) == code


def parse_line(text: str) -> Instruction:
    """Parse one instruction by itself: a jump may lead anywhere, which `parse` would refuse."""
    line = _Line(text, SourceLine("<text>", 1))
    made = _statement(line, frozenset())
    line.end()
    return Instruction(*made[:6])


@given(st.binary(max_size=64))
@example(b"\x18" + bytes(7))
@example(b"\xb7\x0b" + bytes(6))
def test_decode_takes_or_refuses_any_bytes(code: bytes) -> None:
    try:
        instructions = list(decode(code))
    except (OperandError, RegisterError):
        return
    assert encode(instructions) == code


@given(st.lists(st.sampled_from(["mov", "wide", "jump", "call"]), max_size=30))
def test_whole_program_with_labels(kinds: list[str]) -> None:
    """Labels and functions are made up by the disassembler and resolved by the parser: the bytes come back."""
    code = [_part(kind, len(kinds), at) for at, kind in enumerate(kinds)]
    code += [EXIT, Instruction(op.ALU64 | op.MOV, imm=1), EXIT]
    before = encode(_fix(code))
    assert encode(parse(disassemble(decode(before)))) == before
    assert encode(parse(disassemble(decode(before), labels=False, numbers=True))) == before


def _part(kind: str, count: int, at: int) -> Instruction:
    if kind == "mov":
        return Instruction(op.ALU64 | op.MOV, 1, imm=at)
    if kind == "wide":
        return Instruction(op.LDDW, 2, imm=at << 32 | 7)
    if kind == "jump":
        return Instruction(op.JMP | op.JEQ, 1, imm=at * 37 % (count + 1))
    return Instruction(op.JMP | op.CALL, 0, op.CALL_FUNCTION, imm=-1)


def _fix(code: list[Instruction]) -> list[Instruction]:
    """Jumps lead to the instruction whose index is their immediate; calls to the last but one instruction."""
    slots, slot = [], 0
    for i in code:
        slots.append(slot)
        slot += i.slots
    out = []
    for i, at in zip(code, slots):
        if i.opcode == op.JMP | op.JEQ:
            i = i.replace(off=slots[i.imm] - at - 1)
        elif i.opcode == op.JMP | op.CALL:
            i = i.replace(imm=slots[-2] - at - 1)
        out.append(i)
    return out


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"off": 1 << 15}, "offset 32768"),
        ({"off": -(1 << 15) - 1}, "offset -32769"),
        ({"imm": 1 << 31}, "32 bits"),
        ({"imm": -(1 << 31) - 1}, "32 bits"),
        ({"dst": 11}, "r11"),
        ({"src": 11}, "r11"),
        ({"dst": -1}, "r-1"),
        ({"opcode": op.LDDW, "imm": 1 << 64}, "64 bits"),
        ({"opcode": op.LDDW, "imm": -(1 << 63) - 1}, "64 bits"),
    ],
)
def test_fields_out_of_range(fields: dict[str, int], error: str) -> None:
    with pytest.raises(AsmError, match=error):
        Instruction(**{"opcode": 0xB7, **fields})


def test_lddw_is_two_slots_in_both_byte_orders() -> None:
    i = Instruction(op.LDDW, 1, imm=0x0102030405060708)
    assert encode([i]) == struct.pack("<BBhiBBhi", 0x18, 0x01, 0, 0x05060708, 0, 0, 0, 0x01020304)
    assert encode([i], "big") == struct.pack(">BBhiBBhi", 0x18, 0x10, 0, 0x05060708, 0, 0, 0, 0x01020304)


def test_byte_order_is_checked() -> None:
    with pytest.raises(OperandError, match="middle"):
        encode([EXIT], "middle")
    with pytest.raises(OperandError, match="middle"):
        list(decode(bytes(8), "middle"))
