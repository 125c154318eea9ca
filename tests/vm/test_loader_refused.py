"""Programs that every kernel refuses, each in its own words: the reason, the Python line and the registers are found.

`tests/unit/test_loader_verifier_log.py` has logs of these programs from 5.10, 6.1, 6.18 and 7.3.
"""

from __future__ import annotations

import linecache
import os
from collections.abc import Callable

import pytest

from pylsm.asm import R0, R1, R2, R3, R6, R7, R10, Asm, MapSpec, MapType, Program, u32, u64
from pylsm.asm import opcodes as op
from pylsm.loader import Object, VerifierError
from pylsm.loader.bpf import kernel_release

pytestmark = pytest.mark.vm

COUNTS = MapSpec("counts", MapType.HASH, key=4, value=8, max_entries=4)
RING = MapSpec("ring", MapType.RINGBUF, max_entries=65536)


def null() -> Program:
    a = Asm("raw_tp/sys_enter", name="null")
    a.st(u32[R10 - 4], 0)
    a.mov(R2, R10)
    a.add(R2, -4)
    a.ld_map(R1, COUNTS)
    a.call("map_lookup_elem", None, None)
    a.ldx(R1, u64[R0])  # refused
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def leak() -> Program:
    a = Asm("raw_tp/sys_enter", name="leak")
    a.ld_map(R1, RING)
    a.mov(R2, 16)
    a.mov(R3, 0)
    a.call("ringbuf_reserve", None, None, None)
    a.mov(R0, 0)
    a.exit_()  # refused
    return a.build()


def branch() -> Program:
    a = Asm("raw_tp/sys_enter", name="branch")
    a.mov(R6, R1)
    a.ldx(R7, u64[R6 + 8])
    with a.if_(R7, ">", 100):
        a.ldx(R0, u64[R7])  # refused
        a.exit_()
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def inner() -> Program:
    a = Asm("socket", name="inner")
    a.mov(R1, 3)
    a.call_function("deep", None)
    a.exit_()
    with a.function("deep", 1):
        a.ldx(R0, u64[R1])  # refused
        a.exit_()
    return a.build()


def loop() -> Program:
    a = Asm("socket", name="loop")
    a.mov(R0, 0)
    again = a.here()
    a.mov(R1, R0)  # refused
    a.ja(again)
    return a.build()


def verdict() -> Program:
    a = Asm("lsm/file_open", name="verdict")
    a.mov(R0, 5)
    a.exit_()  # refused
    return a.build()


def path() -> Program:
    a = Asm("lsm/file_permission", name="path")
    a.mov(R6, R1)
    a.ldx(R1, u64[R6])
    a.emit(op.ALU64 | op.ADD | op.K, R1, imm=16)
    a.mov(R2, R10)
    a.add(R2, -64)
    a.mov(R3, 64)
    a.call("d_path", None, None, None)  # refused
    a.ldx(R0, u64[R6 + 16])
    a.exit_()
    return a.build()


@pytest.mark.parametrize(
    ("make", "reason", "register"),
    [
        (null, "R0 invalid mem access 'map_value_or_null'", "R0"),
        (leak, "Unreleased reference id=", ""),
        (branch, "R7 invalid mem access '", "R7"),
        (inner, "R1 invalid mem access '", "R1"),
        (loop, "infinite loop detected at insn 1", ""),
        (verdict, "", "R0"),
        (path, "helper call is not allowed in probe", ""),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_line_and_the_reason(make: Callable[[], Program], reason: str, register: str) -> None:
    if make is verdict and kernel_release() < (6, 12):
        pytest.skip("before 6.12 any verdict is taken")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(VerifierError) as caught:
        Object([make()])
    error = caught.value
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert error.reason.startswith(reason) and error.reason
    assert "Suggestion" not in error.reason
    assert error.line is not None and error.line.file == __file__
    text = linecache.getline(__file__, error.line.line).strip()
    assert text.endswith("# refused"), f"{error.line}: {text}"
    assert f"    {text}\n    ^\n{error.reason}" in str(error)
    assert f"; {text}" in error.log, "the kernel quotes the line itself"
    if register and kernel_release() >= (5, 18):
        assert register in error.registers
        assert f"    {register} = " in str(error)
