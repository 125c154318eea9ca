"""The text assembler: what it reads, what it refuses and where, and programs printed and read back."""

from __future__ import annotations

import pytest

from pylsm.asm import R0, R1, R2, R3, R6, R10, Asm, AsmError, Instruction, MapSpec, MapType, encode, u32, u64
from pylsm.asm import opcodes as op
from pylsm.asm.disasm import Names, disassemble, program_text, to_text
from pylsm.asm.errors import (
    FallThroughError,
    JumpTargetError,
    LabelError,
    RangeError,
    SyntaxTextError,
    UnknownNameError,
)
from pylsm.asm.parse import parse, parse_program
from pylsm.asm.references import EnumRef, FieldRef, KfuncRef, MapRef, TypeRef

# ---- reading -----------------------------------------------------------------------------------------------------


def test_labels_comments_and_blank_lines() -> None:
    code = parse(
        """
        ; a comment
        # another
        // a third
        r0 = 0              ; behind code
        top: r0 += 1        # a label on the line of an instruction
            if r0 < 0x5 goto top
        a: b:
            goto out        // two labels in one line
        out:
            exit
        """
    )
    assert [to_text(i) for i in code] == ["r0 = 0", "r0 += 1", "if r0 < 0x5 goto pc-2", "goto pc+0", "exit"]
    assert [i.line.line for i in code if i.line] == [5, 6, 7, 9, 11]
    assert {i.line.file for i in code if i.line} == {"<text>"}


def test_a_verifier_log_reads_as_it_is() -> None:
    log = """\
0: (79) r6 = *(u64 *)(r1 +8)
1: (18) r1 = 0xffff8881
3: (b7) r2 = 5                        ; R2_w=5
4: (85) call bpf_map_lookup_elem#1
5: (15) if r0 == 0x0 goto pc+1        ; R0=map_value(off=0,ks=4,vs=8,imm=0)
6: (db) r1 = atomic64_fetch_add((u64 *)(r0 +0), r1)
7: (95) exit
"""
    code = parse(log)
    assert [i.opcode for i in code] == [0x79, 0x18, 0xB7, 0x85, 0x15, 0xDB, 0x95]
    assert code[1].imm == 0xFFFF8881
    assert disassemble(code, labels=False, numbers=True).splitlines()[3] == "    4: call bpf_map_lookup_elem#1"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("call 1", "call bpf_map_lookup_elem#1"),
        ("call map_lookup_elem", "call bpf_map_lookup_elem#1"),
        ("r1 = 0x10", "r1 = 16"),
        ("r1=-5", "r1 = -5"),
        ("w1 = 0xffffffff", "w1 = -1"),
        ("r1 = -1 ll", "r1 = 0xffffffffffffffff ll"),
        ("r1 = 5 ll", "r1 = 0x5 ll"),
        ("r1 = *(u64*)(r2+8)", "r1 = *(u64 *)(r2 +8)"),
        ("r1 = *(u64 *)(r2)", "r1 = *(u64 *)(r2 +0)"),
        ("r1 = *(s8 *)(r2 - 8)", "r1 = *(s8 *)(r2 -8)"),
        ("goto +0", "goto pc+0"),
        ("if r1 == -1 goto +0", "if r1 == 0xffffffff goto pc+0"),
        ("if r1 s> -5 goto +0", "if r1 s> 0xfffffffb goto pc+0"),
        ("if w1 == 4294967295 goto +0", "if w1 == 0xffffffff goto pc+0"),
        ("r0 = *(u8 *)skb[r2]", "r0 = *(u8 *)skb[r2 + 0]"),
        ("call bpf_cpumask_create#71", "call kernel-function#71"),
        ("call unknown#-500", "call unknown#-500"),
        ("r1 = map[fd:3]", "r1 = map[fd:3]"),
        ("r1 = map[idx:3][0]+8", "r1 = map[idx:3][0]+8"),
        ("r1 = map[fd:3][0]", "r1 = map[fd:3][0]+0"),
        ("r1 = ksym[id:99]", "r1 = ksym[id:99]"),
        ("gotox r3", "gotox r3"),
        ("nospec", "nospec"),
        ("r1 = &(void __percpu *)(r2)", "r1 = &(void __percpu *)(r2)"),
        (".insn 0xb7 1 0 +0 0x5", "r1 = 5"),
        (".insn 0xff 1 2 -3 0x5", ".insn 0xff 1 2 -3 0x5"),
    ],
)
def test_spellings(text: str, same: str) -> None:
    code = parse(text + "\nexit\n")
    assert to_text(code[0]) == same
    assert encode(parse(same + "\nexit\n")) == encode(code)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("r1 = *(u64 *)(r2 +{file.f_inode})", FieldRef("file", "f_inode")),
        ("*(u64 *)(r2 +{file.f_path.dentry}) = r1", FieldRef("file", "f_path.dentry")),
        ("r1 = {size file.f_inode}", FieldRef("file", "f_inode", "size")),
        ("r1 = {exists union u.a[3].b}", FieldRef("union u", "a[3].b", "exists")),
        (
            "r1 += {task.state | task_struct.__state}",
            FieldRef("task", "state", "offset", (("task_struct", "__state"),)),
        ),
        ("r1 = {type id task_struct}", TypeRef("task_struct", "id")),
        ("if r1 == {enum pid_type.PIDTYPE_TGID} goto pc+0", EnumRef("pid_type", "PIDTYPE_TGID")),
        ("call bpf_path_d_path#kfunc", KfuncRef("bpf_path_d_path")),
        ("r1 = map[SEEN]", MapRef("SEEN")),
    ],
)
def test_references_print_and_read_back(text: str, reference: object) -> None:
    i = parse(text + "\nexit\n")[0]
    assert i.reference == reference
    assert to_text(i) == text


def test_names_of_numbers() -> None:
    names = Names(kfuncs={71: "bpf_cpumask_create"}, calls={-500: "bpf_trace_run"})
    assert to_text(Instruction(0x85, 0, op.CALL_KFUNC, 0, 71), names) == "call bpf_cpumask_create#71"
    assert to_text(Instruction(0x85, imm=-500), names) == "call bpf_trace_run#-500"


# ---- refusing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("r1 = r11", 6, "a register r0-r10"),
        ("r11 = 5", 1, "a register r0-r10"),
        ("w1 = r2", 6, "a register w0-w10"),
        ("r1 = w2", 6, "a register r0-r10"),
        ("r1 ?= 5", 4, "an instruction, a label or a comment"),
        ("r1 == 5", 4, "one of +="),
        ("r1 =", 5, "a number"),
        ("r1 = 5 6", 8, "the end of the line"),
        ("r1 = *(u65 *)(r2 +0)", 8, "one of u8 u16 u32 u64"),
        ("r1 = *(u64 *)(r2 8", 19, "')'"),
        ("r1 = *(u64 *)(5 +0)", 15, "a register"),
        ("*(s8 *)(r1 +0) = 5", 3, "one of u8 u16 u32 u64"),
        ("*(u8 *)(r1 +x) = 5", 13, "an offset"),
        ("*(u8 *)(r1 +0) += 5", 16, "'='"),
        ("lock *(u64 *)(r1 +0) -= r2", 22, "one of += &= |= ^="),
        ("lock *(u8 *)(r1 +0) += r2", 8, "u32 or u64"),
        ("r2 = atomic64_fetch_add((u32 *)(r1 +0), r2)", 26, "u64"),
        ("r3 = atomic_xchg((u32 *)(r1 +0), r2)", 1, "r2, where the old value goes"),
        ("r1 = atomic_cmpxchg((u32 *)(r1 +0), r0, r2)", 1, "r0, where the old value goes"),
        ("r0 = atomic_cmpxchg((u32 *)(r1 +0), r1, r2)", 37, "'r0'"),
        ("r1 = be16 r2", 11, "r1: a byte swap is in place"),
        ("r1 = -r2", 7, "r1: a negation is in place"),
        ("r1 = (u8)r2", 7, "one of s8 s16 s32"),
        ("w1 = (s32)w2", 7, "one of s8 s16"),
        ("r1 = *(u8 *)skb[5]", 1, "r0, where packet loads go"),
        ("r0 = *(u64 *)skb[5]", 8, "u8, u16 or u32 for a packet load"),
        ("if r1 = 5 goto out", 7, "one of == !="),
        ("if r1 == 5 out", 12, "'goto'"),
        ("if r1 == 5 goto 7", 17, "a label, or a distance"),
        ("if 5 == r1 goto out", 4, "a register"),
        ("goto", 5, "a label, or a distance"),
        ("jump out", 1, "an instruction, a label or a directive"),
        ("call bpf_map_lookup_elem#2", 26, "1, the number of bpf_map_lookup_elem"),
        ("call", 5, "a helper, a function"),
        ("r1 = map[", 10, "a name, fd:N"),
        ("r1 = map[SEEN][1]", 16, "'0'"),
        ("r1 = {file}", 6, "{type.field}"),
        ("r1 = hello", 6, "a register, a number, a load"),
        (".section socket", 10, "a text in double quotes"),
        (".sektion", 1, ".func .insn"),
        (".map X hush key=4", 8, "a map type"),
        (".map X hash kay=4", 13, "key= value="),
    ],
)
def test_syntax_error(text: str, column: int, expected: str) -> None:
    with pytest.raises(SyntaxTextError) as caught:
        parse("r0 = 0\n" + text + "\nexit\n", "prog.s")
    error = caught.value
    assert (error.line, error.column) == (("prog.s", 2), column)
    assert error.expected.startswith(expected)
    first, quoted, caret = str(error).splitlines()
    assert first.startswith(f"prog.s:2:{column}: expected {expected}")
    assert quoted == "    " + text
    assert caret.index("^") == 4 + column - 1


@pytest.mark.parametrize(
    ("kind", "message", "text", "line"),
    [
        (RangeError, "immediate 0x80000000 is outside", "r1 = 0x80000000\nexit", 1),
        (RangeError, "immediate 0x100000000 is outside", "w1 = 0x100000000\nexit", 1),
        (RangeError, "immediate 0x10000000000000000 is outside", "r1 = 0x10000000000000000 ll\nexit", 1),
        (RangeError, "offset 0x8000 is outside", "r1 = *(u8 *)(r1 +32768)\nexit", 1),
        (RangeError, "distance 0x8000 is outside", "goto pc+32768\nexit", 1),
        (RangeError, "opcode 0x100 is outside", ".insn 0x100 0 0 +0 0\nexit", 1),
        (RangeError, "register 0xb is outside", ".insn 0xb7 11 0 +0 0\nexit", 1),
        (LabelError, "label out is nowhere .* did you mean oout", "oout:\ngoto out\nexit", 2),
        (LabelError, "label a is already at <text>:1", "a:\nr0 = 0\na:\nexit", 3),
        (LabelError, "two functions are called f", ".func f\nexit\n.func f\nexit", 3),
        (LabelError, "label a is nowhere", ".func f\na: goto b\nb: exit\n.func g\ngoto a\nexit", 5),
        (JumpTargetError, "the middle of a 64-bit load .slot 2", "goto pc+1\nr1 = 5 ll\nexit", 1),
        (JumpTargetError, "outside its function .slot 3", "goto pc+2\nexit", 1),
        (JumpTargetError, "outside its function .slot -1", "goto pc-2\nexit", 1),
        (JumpTargetError, "outside its function", ".func f\ngoto pc+1\nexit\n.func g\nexit", 2),
        (FallThroughError, "control runs off the end", "r0 = 0\nr1 = 0", 2),
        (FallThroughError, "there is no instruction", "; nothing", 1),
        (FallThroughError, "function g has no instruction", ".func f\nexit\n.func g", 3),
        (UnknownNameError, "did you mean map_lookup_elem", "call map_lookup_elm\nexit", 1),
    ],
)
def test_refused_with_the_line(kind: type[AsmError], message: str, text: str, line: int) -> None:
    with pytest.raises(AsmError, match=message) as caught:
        parse(text)
    assert type(caught.value) is kind
    assert caught.value.line == ("<text>", line)


def test_label_out_of_reach() -> None:
    body = "r0 = 0\n" * 40_000
    with pytest.raises(RangeError, match=r"label out is \+40000 instructions far") as caught:
        parse(f"goto out\n{body}out: exit\n")
    assert caught.value.line == ("<text>", 1)
    assert "gotol" in caught.value.hint
    code = parse(f"gotol out\n{body}out: exit\n")
    assert code[0].imm == 40_000


def test_map_that_is_not_declared() -> None:
    with pytest.raises(UnknownNameError, match="map SEEN is not declared") as caught:
        parse_program("r1 = map[SEEN]\nexit\n")
    assert caught.value.line == ("<text>", 1)


# ---- programs ----------------------------------------------------------------------------------------------------

SEEN = MapSpec("SEEN", MapType.HASH, key=4, value=8, max_entries=64, flags=1)


def program() -> Asm:
    a = Asm("lsm/file_open", license="Dual BSD/GPL")
    key = a.stack(4, "key")
    a.mov(R6, R1)
    a.st(u32[key], 7)
    a.call("map_lookup_elem", SEEN, key)
    with a.if_(R0, "!=", 0):
        a.mov(R1, 1)
        a.atomic_add(u64[R0], R1)
    a.call("loop", 10, "each", 0, 0)
    a.kfunc("bpf_rcu_read_lock")
    a.ld_offset(R2, "file", "f_inode")
    a.ld_ksym(R3, "jiffies")
    a.mov(R0, 0)
    a.exit_()
    with a.function("each", 2):
        a.stx(u64[R10 - 8], R1)
        a.mov(R0, 0)
        a.exit_()
    return a


def test_program_prints_and_reads_back() -> None:
    built = program().build()
    text = program_text(built)
    again = parse_program(text)
    assert again.instructions == built.instructions
    assert again.functions == built.functions
    assert (again.name, again.section, again.license) == (built.name, built.section, built.license)
    assert [repr(m) for m in again.maps] == [repr(m) for m in built.maps]
    assert [(m.max_entries, m.flags) for m in again.maps] == [(64, 1)]
    assert program_text(again) == text


def test_listing_shows_the_source_of_each_expansion() -> None:
    lines = program().build().listing().splitlines()
    at = next(n for n, line in enumerate(lines) if 'a.call("map_lookup_elem", SEEN, key)' in line)
    assert [line.split(": ", 1)[1] for line in lines[at + 1 : at + 5]] == [
        "r1 = map[SEEN]",
        "r2 = r10",
        "r2 += -8",
        "call bpf_map_lookup_elem#1",
    ]
    assert "each:" in lines


def test_defaults_of_a_program() -> None:
    made = parse_program("r0 = 0\nexit\n", "x.s")
    assert (made.name, made.section, made.license) == ("main", "socket", "GPL")
    assert [tuple(f) for f in made.functions] == [("main", 0, 1)]


def test_functions_are_found_in_raw_code() -> None:
    text = disassemble(parse(".func main\ncall f\nr1 = subprog[f]\nexit\n.func f\nr0 = 0\nexit\n"))
    assert text.splitlines() == [
        ".func main",
        "    call func_4",
        "    r1 = subprog[func_4]",
        "    exit",
        ".func func_4",
        "    r0 = 0",
        "    exit",
    ]
