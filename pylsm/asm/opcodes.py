"""The numbers of the instruction set (RFC 9669; include/uapi/linux/bpf.h, bpf_common.h)."""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final


# Instruction classes: the low three bits of the opcode (RFC 9669 section 3.1).
LD: Final = 0x00
LDX: Final = 0x01
ST: Final = 0x02
STX: Final = 0x03
ALU: Final = 0x04
JMP: Final = 0x05
JMP32: Final = 0x06
ALU64: Final = 0x07

# Source of an arithmetic or jump instruction: immediate or register.
K: Final = 0x00
X: Final = 0x08

# Width of a load or store, and the bytes it moves.
W: Final = 0x00
H: Final = 0x08
B: Final = 0x10
DW: Final = 0x18
SIZE_BYTES: Final = {B: 1, H: 2, W: 4, DW: 8}
SIZE_OF_BYTES: Final = {1: B, 2: H, 4: W, 8: DW}

# Mode of a load or store.
IMM: Final = 0x00
ABS: Final = 0x20
IND: Final = 0x40
MEM: Final = 0x60
MEMSX: Final = 0x80
ATOMIC: Final = 0xC0

# Arithmetic operations (high four bits of the opcode).
ADD: Final = 0x00
SUB: Final = 0x10
MUL: Final = 0x20
DIV: Final = 0x30
OR: Final = 0x40
AND: Final = 0x50
LSH: Final = 0x60
RSH: Final = 0x70
NEG: Final = 0x80
MOD: Final = 0x90
XOR: Final = 0xA0
MOV: Final = 0xB0
ARSH: Final = 0xC0
END: Final = 0xD0

# Byte order conversions use the source bit for the direction (class ALU); class ALU64 is the unconditional swap.
TO_LE: Final = 0x00
TO_BE: Final = 0x08

# Jump operations.
JA: Final = 0x00
JEQ: Final = 0x10
JGT: Final = 0x20
JGE: Final = 0x30
JSET: Final = 0x40
JNE: Final = 0x50
JSGT: Final = 0x60
JSGE: Final = 0x70
CALL: Final = 0x80
EXIT: Final = 0x90
JLT: Final = 0xA0
JLE: Final = 0xB0
JSLT: Final = 0xC0
JSLE: Final = 0xD0
JCOND: Final = 0xE0  # may_goto

# Atomic operations (imm of an ATOMIC store).
FETCH: Final = 0x01
XCHG: Final = 0xE0 | FETCH
CMPXCHG: Final = 0xF0 | FETCH
LOAD_ACQ: Final = 0x100
STORE_REL: Final = 0x110

# Pseudo sources of a 64-bit immediate load (src field of lddw).
PSEUDO_MAP_FD: Final = 1
PSEUDO_MAP_VALUE: Final = 2
PSEUDO_BTF_ID: Final = 3
PSEUDO_FUNC: Final = 4
PSEUDO_MAP_IDX: Final = 5
PSEUDO_MAP_IDX_VALUE: Final = 6

# Pseudo sources of a call (src field of call).
CALL_HELPER: Final = 0
CALL_FUNCTION: Final = 1
CALL_KFUNC: Final = 2

LDDW: Final = LD | DW | IMM
ADDR_SPACE_CAST: Final = 1  # off of a 64-bit mov

ALU_NAMES: Final = {
    ADD: "add",
    SUB: "sub",
    MUL: "mul",
    DIV: "div",
    OR: "or",
    AND: "and",
    LSH: "lsh",
    RSH: "rsh",
    NEG: "neg",
    MOD: "mod",
    XOR: "xor",
    MOV: "mov",
    ARSH: "arsh",
    END: "end",
}
JUMP_NAMES: Final = {
    JA: "ja",
    JEQ: "jeq",
    JGT: "jgt",
    JGE: "jge",
    JSET: "jset",
    JNE: "jne",
    JSGT: "jsgt",
    JSGE: "jsge",
    CALL: "call",
    EXIT: "exit",
    JLT: "jlt",
    JLE: "jle",
    JSLT: "jslt",
    JSLE: "jsle",
    JCOND: "may_goto",
}

#: A condition as the kernel's disassembler writes it → jump operation.
CONDITIONS: Final = {
    "==": JEQ,
    "!=": JNE,
    ">": JGT,
    ">=": JGE,
    "<": JLT,
    "<=": JLE,
    "s>": JSGT,
    "s>=": JSGE,
    "s<": JSLT,
    "s<=": JSLE,
    "&": JSET,
}
#: The jump taken exactly when the other is not; JSET has none.
INVERSE: Final = {
    JEQ: JNE,
    JNE: JEQ,
    JGT: JLE,
    JLE: JGT,
    JGE: JLT,
    JLT: JGE,
    JSGT: JSLE,
    JSLE: JSGT,
    JSGE: JSLT,
    JSLT: JSGE,
}

MAX_STACK: Final = 512
MAX_INSNS: Final = 1_000_000
S16_MIN: Final = -(1 << 15)
S16_MAX: Final = (1 << 15) - 1
S32_MIN: Final = -(1 << 31)
S32_MAX: Final = (1 << 31) - 1
U32_MAX: Final = (1 << 32) - 1
S64_MIN: Final = -(1 << 63)
U64_MAX: Final = (1 << 64) - 1
