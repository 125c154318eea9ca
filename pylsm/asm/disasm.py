"""Instructions → text, in the syntax of the kernel's own disassembler (kernel/bpf/disasm.c, as verifier logs have it).

Three things are said that the kernel leaves out, so that `pylsm.asm.parse` can read the text back exactly:

- ``r1 = 0x2a ll`` is the 64-bit load (the kernel prints no ``ll``, and ``r1 = 42`` is a ``mov``);
- what the loader still has to fill in stands in braces, or by name: ``r3 = *(u64 *)(r2 +{file.f_inode})``,
  ``r1 = map[SEEN]``, ``call bpf_path_d_path#kfunc``;
- a combination of fields that means nothing is written by its fields: ``.insn 0xb7 1 2 +0 0x5`` (opcode, dst, src,
  off, imm).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from pylsm.asm import helpers
from pylsm.asm import opcodes as op
from pylsm.asm.instruction import Instruction
from pylsm.asm.program import Program
from pylsm.asm.references import (
    EnumRef,
    FunctionRef,
    KfuncRef,
    KsymRef,
    MapRef,
    MapValueRef,
    Reference,
    TypeRef,
)

__all__ = ["Names", "disassemble", "listing", "program_text", "reference_text", "to_text"]


class Names(NamedTuple):
    """Names for the numbers in code that has no references, such as a loaded program's.

    Attributes:
        kfuncs: kernel functions by BTF id.
        maps: maps by file descriptor (or by the id that a dump has in its place).
        ksyms: kernel variables by BTF id.
        functions: functions of the program by the slot they start at.
        calls: what other call targets are called, by the call's imm (a dump of translated code has addresses there).
    """

    kfuncs: Mapping[int, str] = {}
    maps: Mapping[int, str] = {}
    ksyms: Mapping[int, str] = {}
    functions: Mapping[int, str] = {}
    calls: Mapping[int, str] = {}


NO_NAMES = Names()

# Which fields a text shows; the others must be zero, or the text would not say all.
_DST, _SRC, _OFF, _IMM = 1, 2, 4, 8

OPERATORS = {
    op.ADD: "+=",
    op.SUB: "-=",
    op.MUL: "*=",
    op.DIV: "/=",
    op.OR: "|=",
    op.AND: "&=",
    op.LSH: "<<=",
    op.RSH: ">>=",
    op.MOD: "%=",
    op.XOR: "^=",
    op.MOV: "=",
    op.ARSH: "s>>=",
}
SIZES = {op.B: "u8", op.H: "u16", op.W: "u32", op.DW: "u64"}
SIGNED_SIZES = {op.B: "s8", op.H: "s16", op.W: "s32"}
ATOMICS = {op.ADD: "add", op.AND: "and", op.OR: "or", op.XOR: "xor"}
_CONDITION_TEXT = {number: text for text, number in op.CONDITIONS.items()}
GOTOX = op.JMP | op.JA | op.X
NOSPEC = op.ST | 0xC0
ADDR_PERCPU = -1
MAP_IDS = {
    op.PSEUDO_MAP_FD: "fd",
    op.PSEUDO_MAP_VALUE: "fd",
    op.PSEUDO_MAP_IDX: "idx",
    op.PSEUDO_MAP_IDX_VALUE: "idx",
}


def reference_text(reference: Reference) -> str:
    """A reference as the text assembler reads it, for example ``{file.f_inode}`` or ``map[SEEN]``."""
    if isinstance(reference, MapRef):
        return f"map[{reference.name}]"
    if isinstance(reference, MapValueRef):
        return f"map[{reference.name}][0]+{reference.offset}"
    if isinstance(reference, KsymRef):
        return f"ksym[{reference.name}]"
    if isinstance(reference, FunctionRef):
        return f"subprog[{reference.name}]"
    if isinstance(reference, KfuncRef):
        return f"{reference.name}#kfunc"
    if isinstance(reference, TypeRef):
        return f"{{type {reference.what} {reference.name}}}"
    if isinstance(reference, EnumRef):
        return f"{{enum {reference.enum}.{reference.value}}}"
    what = "" if reference.what == "offset" else reference.what + " "
    places = [(reference.struct, reference.path), *reference.alternatives]
    return "{" + what + " | ".join(f"{struct}.{path}" for struct, path in places) + "}"


def to_text(i: Instruction, names: Names = NO_NAMES, target: str = "") -> str:
    """One instruction as text.

    Args:
        i: the instruction.
        names: names for numbers.
        target: what a jump leads to, instead of ``pc+3``.
    """
    text, shown = _WRITERS[i.opcode & 7](i, names, target)
    hidden = (
        (i.dst and not shown & _DST)
        or (i.src and not shown & _SRC)
        or (i.off and not shown & _OFF)
        or (i.imm and not shown & _IMM)
    )
    if text and not hidden:
        return text
    imm = i.imm & op.U64_MAX if i.opcode == op.LDDW else i.imm & op.U32_MAX
    note = f" ; {reference_text(i.reference)}" if i.reference else ""
    return f".insn {i.opcode:#04x} {i.dst} {i.src} {i.off:+d} {imm:#x}{note}"


def _alu(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    cls, operation, by_register = i.opcode & 7, i.opcode & 0xF0, i.opcode & op.X
    r = "w" if cls == op.ALU else "r"
    if operation == op.END:
        if i.imm not in (16, 32, 64) or (cls == op.ALU64 and by_register):
            return "", 0
        kind = "bswap" if cls == op.ALU64 else "be" if by_register else "le"
        return f"r{i.dst} = {kind}{i.imm} r{i.dst}", _DST | _IMM
    if operation == op.NEG:
        return ("", 0) if by_register else (f"{r}{i.dst} = -{r}{i.dst}", _DST)
    if operation not in OPERATORS:
        return "", 0
    if i.opcode == op.ALU64 | op.MOV | op.X and i.off == op.ADDR_SPACE_CAST:
        to, from_ = i.imm >> 16 & 0xFFFF, i.imm & 0xFFFF
        return f"r{i.dst} = addr_space_cast(r{i.src}, {to}, {from_})", _DST | _SRC | _OFF | _IMM
    if i.opcode == op.ALU64 | op.MOV | op.X and i.off == ADDR_PERCPU:
        return f"r{i.dst} = &(void __percpu *)(r{i.src})", _DST | _SRC | _OFF
    operator, cast, shown = OPERATORS[operation], "", _DST
    if operation in (op.DIV, op.MOD) and i.off == 1:
        operator, shown = "s" + operator, shown | _OFF
    elif operation == op.MOV and by_register and i.off in (8, 16, 32) and i.off < (32 if cls == op.ALU else 64):
        cast, shown = f"(s{i.off})", shown | _OFF
    if by_register:
        return f"{r}{i.dst} {operator} {cast}{r}{i.src}", shown | _SRC
    value = reference_text(i.reference) if i.reference else i.imm
    return f"{r}{i.dst} {operator} {value}", shown | _IMM


def _place(i: Instruction, register: int) -> str:
    return f"(r{register} +{reference_text(i.reference)})" if i.reference else f"(r{register} {i.off:+d})"


def _ldx(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    mode, size = i.opcode & 0xE0, i.opcode & 0x18
    width = SIZES[size] if mode == op.MEM else SIGNED_SIZES.get(size) if mode == op.MEMSX else None
    if width is None:
        return "", 0
    return f"r{i.dst} = *({width} *){_place(i, i.src)}", _DST | _SRC | _OFF


def _st(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    if i.opcode == NOSPEC:
        return "nospec", 0
    if i.opcode & 0xE0 != op.MEM:
        return "", 0
    return f"*({SIZES[i.opcode & 0x18]} *){_place(i, i.dst)} = {i.imm}", _DST | _OFF | _IMM


def _stx(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    mode, size = i.opcode & 0xE0, i.opcode & 0x18
    operand = f"({SIZES[size]} *){_place(i, i.src if i.imm == op.LOAD_ACQ else i.dst)}"
    shown = _DST | _SRC | _OFF | _IMM
    if mode == op.MEM:
        return f"*{operand} = r{i.src}", _DST | _SRC | _OFF
    if mode != op.ATOMIC:
        return "", 0
    if i.imm == op.LOAD_ACQ:
        return f"r{i.dst} = load_acquire({operand})", shown
    if i.imm == op.STORE_REL:
        return f"store_release({operand}, r{i.src})", shown
    if size not in (op.W, op.DW):
        return "", 0
    wide = "64" if size == op.DW else ""
    if i.imm in ATOMICS:
        return f"lock *{operand} {OPERATORS[i.imm]} r{i.src}", shown
    if i.imm & ~op.FETCH in ATOMICS:
        return f"r{i.src} = atomic{wide}_fetch_{ATOMICS[i.imm & ~op.FETCH]}({operand}, r{i.src})", shown
    if i.imm == op.CMPXCHG:
        return f"r0 = atomic{wide}_cmpxchg({operand}, r0, r{i.src})", shown
    if i.imm == op.XCHG:
        return f"r{i.src} = atomic{wide}_xchg({operand}, r{i.src})", shown
    return "", 0


def _ld(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    mode, size = i.opcode & 0xE0, i.opcode & 0x18
    if i.opcode == op.LDDW:
        value = _wide(i, names)
        return (f"r{i.dst} = {value}", _DST | _SRC | _IMM) if value else ("", 0)
    if size == op.DW:
        return "", 0
    if mode == op.ABS:
        return f"r0 = *({SIZES[size]} *)skb[{i.imm}]", _IMM
    if mode == op.IND:
        return f"r0 = *({SIZES[size]} *)skb[r{i.src} + {i.imm}]", _SRC | _IMM
    return "", 0


def _wide(i: Instruction, names: Names) -> str:
    """The right side of a 64-bit immediate load, or "" for a source nobody defined."""
    if i.reference is not None:
        return reference_text(i.reference)
    low, high = i.imm & op.U32_MAX, i.imm >> 32 & op.U32_MAX
    if i.src == 0:
        return f"{i.imm & op.U64_MAX:#x} ll"
    numbered = f"{MAP_IDS.get(i.src)}:{low}"
    if i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE):
        return f"map[{names.maps.get(low, numbered)}][0]+{high}"
    if high:
        return ""
    if i.src in MAP_IDS:
        return f"map[{names.maps.get(low, numbered)}]"
    if i.src == op.PSEUDO_BTF_ID:
        return f"ksym[{names.ksyms.get(low, f'id:{low}')}]"
    if i.src == op.PSEUDO_FUNC:
        return f"subprog[{low - (low >> 31 << 32):+d}]"
    return ""


def _jump(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    operation, by_register = i.opcode & 0xF0, i.opcode & op.X
    if i.opcode == op.JMP | op.CALL:
        return _call(i, names, target)
    if i.opcode == op.JMP | op.EXIT:
        return "exit", 0
    if i.opcode == op.JMP | op.JA:
        return f"goto {target or f'pc{i.off:+d}'}", _OFF
    if i.opcode == op.JMP32 | op.JA:
        return f"gotol {target or f'pc{i.imm:+d}'}", _IMM
    if i.opcode == GOTOX:
        return f"gotox r{i.dst}", _DST
    if i.opcode == op.JMP | op.JCOND:
        return f"may_goto {target or f'pc{i.off:+d}'}", _OFF
    if operation not in _CONDITION_TEXT:
        return "", 0
    r = "w" if i.opcode & 7 == op.JMP32 else "r"
    against = f"{r}{i.src}" if by_register else f"{i.imm & op.U32_MAX:#x}"
    if i.reference and not by_register:
        against = reference_text(i.reference)
    where = target or f"pc{i.off:+d}"
    shown = _DST | _OFF | (_SRC if by_register else _IMM)
    return f"if {r}{i.dst} {_CONDITION_TEXT[operation]} {against} goto {where}", shown


def _call(i: Instruction, names: Names, target: str) -> tuple[str, int]:
    if i.src == op.CALL_HELPER:
        helper = helpers.by_number(i.imm)
        name = f"bpf_{helper.name}" if helper else names.calls.get(i.imm, "unknown")
        return f"call {name}#{i.imm}", _IMM
    if i.src == op.CALL_FUNCTION:
        if isinstance(i.reference, FunctionRef):
            return f"call {i.reference.name}", _SRC
        return f"call {target or f'pc{i.imm:+d}'}", _SRC | _IMM
    if i.src == op.CALL_KFUNC:
        if isinstance(i.reference, KfuncRef):
            return f"call {reference_text(i.reference)}", _SRC
        return f"call {names.kfuncs.get(i.imm, 'kernel-function')}#{i.imm}", _SRC | _IMM
    return "", 0


_WRITERS = {
    op.LD: _ld,
    op.LDX: _ldx,
    op.ST: _st,
    op.STX: _stx,
    op.ALU: _alu,
    op.JMP: _jump,
    op.JMP32: _jump,
    op.ALU64: _alu,
}


# ---- whole programs ----------------------------------------------------------------------------------------------


def jump_distance(i: Instruction) -> int | None:
    """Slots from the next instruction to where a jump leads, or None for what is no jump."""
    cls, operation = i.opcode & 7, i.opcode & 0xF0
    if cls not in (op.JMP, op.JMP32) or operation in (op.CALL, op.EXIT) or i.opcode == GOTOX:
        return None
    return i.imm if i.opcode == op.JMP32 | op.JA else i.off


def _slots(instructions: Sequence[Instruction]) -> list[int]:
    slots, slot = [], 0
    for i in instructions:
        slots.append(slot)
        slot += i.slots
    return slots


def _called(i: Instruction, slot: int) -> int | None:
    """The slot of the function that an instruction calls or takes the address of, or None."""
    if i.reference is not None:
        return None
    if i.opcode == op.JMP | op.CALL and i.src == op.CALL_FUNCTION:
        return slot + 1 + i.imm
    if i.opcode == op.LDDW and i.src == op.PSEUDO_FUNC:
        low = i.imm & op.U32_MAX
        return slot + 1 + low - (low >> 31 << 32)
    return None


def disassemble(
    instructions: Iterable[Instruction],
    names: Names = NO_NAMES,
    *,
    labels: bool = True,
    numbers: bool = False,
) -> str:
    """A run of instructions as text, one a line.

    Args:
        instructions: for example from `decode`.
        names: names for numbers.
        labels: name jump targets (``L1:`` … ``goto L1``) and functions (``.func``) instead of writing distances.
        numbers: begin each line with its slot, as the verifier does.
    """
    code = list(instructions)
    slots = _slots(code)
    starts = set(slots)
    functions: dict[int, str] = dict(names.functions) if labels else {}
    targets: set[int] = set()
    if labels:
        for i, slot in zip(code, slots):
            called = _called(i, slot)
            if called is not None and called in starts:
                functions.setdefault(called, f"func_{called}")
            distance = jump_distance(i)
            if distance is not None:
                targets.add(slot + 1 + distance)
        if functions:
            functions.setdefault(0, "main")
    named = {slot: f"L{number}" for number, slot in enumerate(sorted(targets & starts), 1)}
    lines: list[str] = []
    for i, slot in zip(code, slots):
        if slot in functions:
            lines.append(f".func {functions[slot]}")
        if slot in named:
            lines.append(f"{named[slot]}:")
        lines.append(_line(i, slot, names, named, functions, numbers))
    return "\n".join(lines) + "\n"


def _line(
    i: Instruction, slot: int, names: Names, named: Mapping[int, str], functions: Mapping[int, str], numbers: bool
) -> str:
    distance, called = jump_distance(i), _called(i, slot)
    target = named.get(slot + 1 + distance, "") if distance is not None else ""
    if called is not None:
        target = functions.get(called, "")
        if target and i.opcode == op.LDDW:
            i = Instruction(i.opcode, i.dst, i.src, reference=FunctionRef(target))
    number = f"{slot:>5}: " if numbers else "    "
    return number + to_text(i, names, target)


def program_text(program: Program) -> str:
    """A whole `Program` as text that `pylsm.asm.parse.parse_program` reads back: maps and functions included."""
    lines = [f'.section "{program.section}"', f".name {program.name}", f'.license "{program.license}"']
    for spec in program.maps:
        lines.append(
            f".map {spec.name} {spec.type.name.lower()} key={spec.key_size} value={spec.value_size} "
            f"max_entries={spec.max_entries} flags={spec.flags:#x}"
        )
    ends = [function.start for function in program.functions[1:]] + [len(program.instructions)]
    for function, end in zip(program.functions, ends):
        lines.append(f".func {function.name} {function.arguments}")
        body = disassemble(program.instructions[function.start : end])
        lines.append(body.rstrip("\n"))
    return "\n".join(lines) + "\n"


def listing(program: Program, names: Names = NO_NAMES) -> str:
    """The program with, before each group of instructions, the source line that made them.

    Shows what every call of the DSL expands to. Source text is read when the file can still be read.
    """
    import linecache

    code = program.instructions
    slots = _slots(code)
    functions = {function.start: function for function in program.functions}
    targets = sorted({s + 1 + d for i, s in zip(code, slots) if (d := jump_distance(i)) is not None} & set(slots))
    named = {slot: f"L{number}" for number, slot in enumerate(targets, 1)}
    lines: list[str] = []
    last = None
    for index, i in enumerate(code):
        if index in functions:
            lines.append(f"{functions[index].name}:")
            last = None
        if i.line is not None and i.line != last:
            text = linecache.getline(i.line.file, i.line.line).strip()
            lines.append(f"; {i.line}" + (f"  {text}" if text else ""))
            last = i.line
        if slots[index] in named:
            lines.append(f"{named[slots[index]]}:")
        lines.append(_line(i, slots[index], names, named, {}, True))
    return "\n".join(lines) + "\n"
