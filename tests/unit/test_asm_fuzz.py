"""Any text, any bytes: what comes back is code, text, or an error of ours that says where."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pylsm.asm import AsmError, Instruction, decode, encode
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import disassemble, program_text
from pylsm.asm.errors import JumpTargetError
from pylsm.asm.parse import parse, parse_program

WORDS = [
    "r0", "r1", "r10", "r11", "w0", "w3", "=", "+=", "s>>=", "s/=", "-", "+", "*", "&", "(", ")", "[", "]", "{", "}",
    ",", ":", "#", ";", "//", "0", "1", "007", "0x", "0xff", "-5", "18446744073709551616", "ll", "u8", "u64", "s32",
    "(u64 *)", "(s8)", "(r1 +8)", "(r2 +{file.f_inode})", "{size a.b | c.d}", "{", "goto", "gotol", "gotox", "may_goto",
    "if", "==", "s<", "pc", "pc+1", "pc-1", "out", "out:", "call", "bpf_loop", "bpf_loop#181", "f", "#kfunc", "lock",
    "exit", "nospec", "store_release", "load_acquire", "atomic64_fetch_add", "atomic_cmpxchg", "addr_space_cast",
    "be16",    "bswap64", "le8", "skb", "map", "map[fd:1]", "map[X][0]+4", "ksym[id:5]", "subprog[+1]", "subprog[f]",
    ".func", ".map",    ".insn", ".section", '"socket"', ".name", "hash", "key=4", "max_entries=1",
    "(b7)", "(18)", "12:", "\x00", "é", '"',
]  # fmt: skip

lines = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
texts = st.one_of(st.lists(lines, max_size=5).map("\n".join), st.text(max_size=60))


@settings(max_examples=500, deadline=None)
@given(texts)
@example("r1 = 007\nexit")
@example(".map X hash key=9999999999999\nr0 = 0\nexit")
@example(".insn 0x18 0 0 +0 0x1\nexit")
@example("(18) r1 = 5\nexit")
@example("call pc+99\nexit")
def test_any_text(text: str) -> None:
    for read in (parse, parse_program):
        try:
            read(text, "any.s")
        except AsmError as error:
            assert error.line is not None
            assert error.line.file == "any.s"
            assert 1 <= error.line.line <= text.count("\n") + 1


@settings(max_examples=300, deadline=None)
@given(texts)
def test_what_is_read_prints_and_reads_the_same(text: str) -> None:
    try:
        made = parse_program(text + "\nexit\n")
    except AsmError:
        return
    again = parse_program(program_text(made))
    assert again.instructions == made.instructions
    assert again.functions == made.functions


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Instruction, st.integers(0, 255), *[st.integers(0, 10)] * 2, st.integers(-3, 3)), max_size=9))
def test_any_instructions_print(code: list[Instruction]) -> None:
    text = disassemble(code)
    assert disassemble(decode(encode(code))) == text
    try:
        assert encode(parse(text + "exit\n")[:-1]) == encode(code)
    except JumpTargetError:
        assert any(i.opcode & 7 in (op.JMP, op.JMP32) for i in code)
    except AsmError as error:  # a function made up for a call's target may be left without an end
        assert "control runs off the end" in str(error) or "nowhere" in str(error), text
