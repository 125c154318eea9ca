"""Our text against the kernel's own disassembler: each instruction as this kernel's verifier log prints it.

It is the oracle for what LLVM does not know yet: load-acquire and store-release, packet loads with a constant beside
the register, calls by pseudo source, and the kernel's spelling of atomics.
"""

from __future__ import annotations

import os
import re

import pytest
from cases.kernel import needs
from test_asm_execution import atomics, by_immediate, by_register, jumps, memory, program, syscall_programs, unary

from pylsm.asm import (
    R0,
    R1,
    R2,
    R3,
    R6,
    R7,
    R10,
    Asm,
    MapSpec,
    MapType,
    Program,
    decode,
    encode,
    s32,
    u8,
    u16,
    u32,
    u64,
)
from pylsm.asm.disasm import disassemble, to_text
from pylsm.asm.parse import link, parse
from pylsm.loader import LoadedProgram, Map, features

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

LINE = re.compile(r"^(\d+): \(([0-9a-f]{2})\) (.*?)\s*(?:;.*)?$", re.MULTILINE)


def log_of(made: Program, **maps: Map) -> dict[int, tuple[int, str]]:
    """Slot → opcode and text, from the verifier's log at level 2."""
    with LoadedProgram.load(made, maps=maps, source_lines=False, log_level=2) as loaded:
        return {int(slot): (int(code, 16), text) for slot, code, text in LINE.findall(loaded.log)}


def ours(made: Program) -> dict[int, tuple[int, str]]:
    starts = {function.name: function.start for function in made.functions}
    out, slot = {}, 0
    for i in link(list(made.instructions), starts):
        out[slot] = i.opcode, to_text(i)
        slot += i.slots
    return out


def newest() -> Asm:
    a = Asm("syscall", name="newest", cpu="v4")
    a.st(u64[R10 - 8], 0)
    a.mov(R2, 5)
    for width in (u8, u16, u32, u64):
        a.store_release(width[R10 - 8], R2)
        a.load_acquire(R3, width[R10 - 8])
    out = a.label()
    a.may_goto(out)
    a.gotol(out)
    a.bind(out)
    a.ldx(R3, s32[R10 - 8])
    a.call_function("other", R2)
    a.mov(R0, 0)
    a.exit_()
    with a.function("other", 1):
        a.movsx32(R1, R1, 8)
        a.mov(R0, 0)
        a.exit_()
    return a


def packets() -> Asm:
    a = Asm("socket", name="packets")
    a.mov(R6, R1)
    a.mov(R7, 2)
    for bits in (8, 16, 32):
        a.ld_abs(bits, 4)
        a.ld_ind(bits, R7, 8)
        a.ld_ind(bits, R7, -8)
    a.exit_()
    return a


def helpers() -> Asm:
    a = Asm("syscall", name="helpers")
    a.call("ktime_get_ns")
    a.call("get_prandom_u32")
    a.stx(u64[R10 - 16], R0)
    a.address(R1, R10 - 16)
    a.mov(R2, 16)
    a.call("get_current_comm")
    a.mov(R0, 0)
    a.exit_()
    return a


PROGRAMS = {
    "arithmetic": lambda: program([*by_register(64), *by_register(32), *unary()])[0],
    "immediates": lambda: program([*by_immediate(64), *by_immediate(32)])[0],
    "jumps": lambda: program([*jumps(64, immediate=False), *jumps(32, immediate=False)])[0],
    "jumps by constant": lambda: program([*jumps(64, immediate=True), *jumps(32, immediate=True)])[0],
    "memory": lambda: program(memory())[0],
    "atomics": lambda: program(atomics())[0],
    "newest": lambda: newest().build(),
    "packets": lambda: packets().build(),
    "helpers": lambda: helpers().build(),
}


def needing(name: str) -> list[pytest.MarkDecorator]:
    if name == "newest":
        return [needs(features.instruction("load_acquire"), "load-acquire and store-release", "6.15")]
    return [] if name == "packets" else [syscall_programs]


every_program = pytest.mark.parametrize("name", [pytest.param(name, marks=needing(name)) for name in PROGRAMS])


@every_program
def test_the_kernel_prints_what_we_print(name: str) -> None:
    made = PROGRAMS[name]()
    kernel, text = log_of(made), ours(made)
    assert len(kernel) >= 0.8 * len(text), "the verifier looked at nearly every instruction"
    assert {slot: text[slot] for slot in kernel} == kernel


@every_program
def test_the_kernels_text_parses_to_the_same_code(name: str) -> None:
    made = PROGRAMS[name]()
    kernel = log_of(made)
    starts = {function.name: function.start for function in made.functions}
    code = link(list(made.instructions), starts)
    if len(kernel) < len(code):  # what the verifier never walked is missing from its log
        missing = ours(made)
        kernel = {**missing, **kernel}
    log = "\n".join(f"{slot}: ({opcode:02x}) {text}" for slot, (opcode, text) in sorted(kernel.items()))
    assert encode(parse(log)) == encode(code)


def test_map_and_wide_constant() -> None:
    a = Asm("socket", name="map")
    counts = MapSpec("counts", MapType.ARRAY, key=4, value=8, max_entries=1)
    key = a.stack(4)
    a.st(u32[key], 0)
    a.call("map_lookup_elem", counts, key)
    with a.if_(R0, "!=", 0):
        a.lddw(R1, 0x1122334455667788)
        a.stx(u64[R0], R1)
    a.ld_map_value(R1, counts, 4)
    a.ldx(R0, u32[R1])
    a.exit_()
    made = a.build()
    with Map.create(counts) as held, LoadedProgram.load(made, maps={"counts": held}, source_lines=False) as loaded:
        assert loaded.test_run(data=bytes(14)).retval == 0x11223344
        translated, number = disassemble(decode(loaded.xlated())), held.info.id
    assert f"r1 = map[fd:{number}]" in translated
    assert "r1 = 0x1122334455667788 ll" in translated
    assert f"r1 = map[fd:{number}][0]+4" in translated
