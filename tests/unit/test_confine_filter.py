"""The system call filter, run here by a few lines that do what the kernel does with classic BPF."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pylsm.arch import native
from pylsm.calls import CALLS
from pylsm.confine import seccomp

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x50001, 0x50026, 0x80000000


def answer(code: bytes, number: int, *arguments: int, architecture: int = ARCHITECTURE["x86_64"]) -> int:
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    program = list(struct.iter_unpack("=HBBI", code))
    at = value = 0
    while True:
        opcode, yes, no, k = program[at]
        at += 1
        if opcode == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif opcode == 0x06:
            return int(k)
        else:
            truth = {0x15: value == k, 0x35: value >= k, 0x45: value & k != 0}[opcode]
            at += yes if truth else no


@pytest.mark.parametrize("machine", HEADERS)
def test_numbers_are_those_of_the_headers(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("linux-libc-dev is not installed")
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text()))
    # The generic names of calls that have a 64-bit twin under another name.
    defined.setdefault("newfstatat", defined.get("fstatat", ""))
    row = native(machine)
    for name in CALLS:
        if row.call(name) >= 0:
            assert str(row.call(name)) == defined[name], name
        else:
            assert name not in defined, name


@pytest.mark.parametrize("machine", HEADERS)
def test_every_call_that_is_not_named_is_refused(machine: str) -> None:
    row = native(machine)
    code = seccomp.assemble(machine)
    plain = {row.call(name) for name in seccomp.CALLS}
    for number in range(600):
        got = answer(code, number, architecture=ARCHITECTURE[machine])
        if number in plain:
            assert got == ALLOW
        elif number in {row.call("open"), row.call("openat")}:
            assert got == ALLOW  # opened for reading
        else:
            assert got == EPERM, number


def test_other_architectures_and_x32() -> None:
    code = seccomp.assemble("x86_64")
    assert answer(code, 0, architecture=0x40000003) == KILL  # i386: its numbers mean other calls
    assert answer(code, 0x40000000) == ENOSYS


@pytest.mark.parametrize("flags", [0o1, 0o2, 0o3, 0o100, 0o1000, 0o20200000, 0o101])
def test_no_file_is_opened_for_writing(flags: int) -> None:
    code = seccomp.assemble("x86_64")
    assert answer(code, 257, 0, 0, flags) == answer(code, 2, 0, flags) == EPERM
    assert answer(code, 257, 0, 0, 0o2000000) == ALLOW
    assert answer(seccomp.assemble("x86_64", writable=True), 257, 0, 0, flags) == ALLOW


def test_bpf_only_on_what_is_open() -> None:
    code = seccomp.assemble("x86_64")
    verdicts = {command: answer(code, 321, command) for command in range(40)}
    for refused in (0, 5, 6, 7, 8, 13, 14, 17, 18, 28, 29, 30, 36):  # MAP_CREATE, PROG_LOAD, pins, attach, by id …
        assert verdicts[refused] == EPERM
    for allowed in (1, 2, 3, 4, 15, 24):
        assert verdicts[allowed] == ALLOW


def test_threads_but_no_processes_for_an_exporter() -> None:
    code = seccomp.assemble("x86_64", network=True)
    assert answer(code, 56, 0x10000) == ALLOW
    assert answer(code, 56, 17) == EPERM  # fork
    assert answer(code, 435) == ENOSYS
    assert answer(code, 57) == answer(code, 59) == EPERM  # fork, execve
    assert answer(seccomp.assemble("x86_64"), 41) == EPERM  # socket


def test_signals_only_where_they_are_passed_on() -> None:
    assert answer(seccomp.assemble("x86_64"), 62) == EPERM
    assert answer(seccomp.assemble("x86_64", signals=True), 62) == ALLOW


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(OSError, match="s390x"):
        seccomp.assemble("s390x")
