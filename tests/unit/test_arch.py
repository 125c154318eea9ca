"""Programs for other machines: registers and numbers of theirs, and bytes in their order."""

from __future__ import annotations

import mmap

import pytest

from pylsm.arch import ARCHITECTURES, Architecture, native, with_registers
from pylsm.asm import Program, decode
from pylsm.asm.references import FieldRef
from pylsm.audit import maps
from pylsm.audit.programs import syscalls
from pylsm.audit.programs.file_open import file_open
from pylsm.audit.programs.hooks import KPROBE
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.errors import PylsmError

JEQ_IMM, JNE_IMM = 0x15, 0x55
#: Those whose registers are known.
TRIED = [arch for arch in ARCHITECTURES if arch.arguments]


def programs(arch: Architecture) -> list[Program]:
    return [
        file_open("walk", KPROBE, arch=arch),
        socket_connect(KPROBE, arch=arch),
        syscalls.sys_enter(arch=arch),
        syscalls.sys_exit(arch=arch),
        syscalls.sys_exit_walker(),
    ]


def registers(program: Program) -> set[str]:
    found = (i.reference for i in program.instructions)
    return {r.path for r in found if isinstance(r, FieldRef) and r.struct == "pt_regs"}


def test_registers_of_each_machine() -> None:
    x86, arm = native("x86_64"), native("aarch64")
    assert [registers(p) for p in programs(x86)] == [{"di"}, {"si", "dx"}, {"si", "dx"}, {"orig_ax"}, set()]
    assert [registers(p) for p in programs(arm)] == [
        {"regs[0]"},
        {"regs[1]", "regs[2]"},
        {"regs[1]", "regs[2]"},
        {"syscallno"},
        set(),
    ]


def test_system_calls_of_each_machine() -> None:
    for arch in TRIED:
        enter, leave = programs(arch)[2:4]
        assert next(i.imm for i in enter.instructions if i.opcode == JNE_IMM) == arch.call("connect")
        compared = [i.imm for i in leave.instructions if i.opcode == JEQ_IMM]
        opens = [arch.call(name) for name in syscalls.OPENS if arch.call(name) >= 0]
        assert compared[: len(opens)] == opens


@pytest.mark.parametrize("arch", TRIED, ids=lambda arch: str(arch.machine))
def test_big_endian_code_is_the_same_program(arch: Architecture) -> None:
    for program in programs(arch):
        big = program.encode("big")
        assert big != program.encode("little")
        for mine, theirs in zip(decode(big, "big"), decode(program.encode("little"), "little")):
            assert (mine.opcode, mine.dst, mine.src, mine.off, mine.imm) == (
                theirs.opcode,
                theirs.dst,
                theirs.src,
                theirs.off,
                theirs.imm,
            )


def test_default_rings_fit_pages_of_every_size() -> None:
    """A ring is a number of whole pages, whatever the machine's kernel was built with."""
    sizes = {size for arch in ARCHITECTURES for size in arch.pages}
    assert sizes == {4096, 16384, 65536}
    assert all(maps.RING.max_entries % size == 0 for size in sizes)


def test_this_machine_has_pages_of_the_table() -> None:
    assert mmap.PAGESIZE in native().pages


def test_an_unknown_machine_is_named() -> None:
    with pytest.raises(PylsmError, match="architecture vax") as caught:
        native("vax")
    assert "aarch64" in caught.value.hint
    with pytest.raises(PylsmError, match="registers of s390x are not known") as caught:
        with_registers("s390x")
    assert "known: x86_64, aarch64;" in caught.value.hint
