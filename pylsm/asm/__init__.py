"""Python → eBPF instructions: RFC 9669, helpers, labels, blocks, typed pointers. No kernel, no file descriptor."""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.asm.assembler import Asm
    from pylsm.asm.errors import AsmError, SourceLine
    from pylsm.asm.instruction import Instruction, decode, encode
    from pylsm.asm.maps import Layout, MapSpec, MapType
    from pylsm.asm.operands import (
        R0,
        R1,
        R2,
        R3,
        R4,
        R5,
        R6,
        R7,
        R8,
        R9,
        R10,
        Address,
        Label,
        Mem,
        Register,
        View,
        s8,
        s16,
        s32,
        u8,
        u16,
        u32,
        u64,
    )
    from pylsm.asm.program import Function, Program

__all__ = [
    "R0",
    "R1",
    "R2",
    "R3",
    "R4",
    "R5",
    "R6",
    "R7",
    "R8",
    "R9",
    "R10",
    "Address",
    "Asm",
    "AsmError",
    "Function",
    "Instruction",
    "Label",
    "Layout",
    "MapSpec",
    "MapType",
    "Mem",
    "Program",
    "Register",
    "SourceLine",
    "View",
    "decode",
    "encode",
    "s8",
    "s16",
    "s32",
    "u8",
    "u16",
    "u32",
    "u64",
]

#: Name → module; all others are of `operands`. Only what is used is imported: who loads a program that is finished
#: needs no assembler.
_MODULES = {
    "Asm": "assembler",
    "AsmError": "errors",
    "SourceLine": "errors",
    "Instruction": "instruction",
    "decode": "instruction",
    "encode": "instruction",
    "Layout": "maps",
    "MapSpec": "maps",
    "MapType": "maps",
    "Function": "program",
    "Program": "program",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module("pylsm.asm." + _MODULES.get(name, "operands")), name)
    return found
