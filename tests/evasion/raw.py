"""System calls and machine code that no library makes for us (x86_64)."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

from cases.lab import checked, syscall

__all__ = ["Missing", "burst", "compat", "low", "need", "uring"]

CLONE, CLONE3, VFORK_AND_SIGCHLD = 56, 435, 0x4011
URING_SETUP, URING_ENTER = 425, 426

# burst(path, count): count times { vfork a child that opens the path and exits; wait for it }.
# compat(number, a, b, c): int 0x80, the system calls of a 32-bit program.
_CODE = bytes.fromhex(
    "5341544989fc89f3b838000000bf1141000031f631d24531d24531c00f0585c0783d751db8020000004c89e7be41000000ba80010000"
    "0f05b83c00000031ff0f05b83d00000048c7c7ffffffff31f6ba000000404531d20f05ffcb75ab31c0415c5bc3"
    "5389f889f387d1cd8048985bc3"
)
_COMPAT = 0x63
MAP_32BIT = 0x40


class Missing(Exception):
    """This kernel has not what the case needs."""


def need(result: int, what: str) -> int:
    """A system call's result, or `Missing` where the kernel says that it has no such thing."""
    if result in (-38, -22, -97, -93, -94, -1, -19, -2, -95, -92):  # ENOSYS, EINVAL, no such family, protocol, …
        raise Missing(f"{what}: {os.strerror(-result)}")
    return checked(result)


def _function(offset: int, *arguments: Any) -> Callable[..., int]:
    memory = mmap.mmap(
        -1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    )
    memory.write(_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + offset
    made: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_long, *arguments)(address)
    made.memory = memory  # type: ignore[attr-defined]
    return made


def burst(path: bytes, count: int) -> None:
    """``count`` children, one after the other, each of which opens ``path`` and does nothing else (vfork)."""
    checked(_function(0, ctypes.c_char_p, ctypes.c_int)(path, count))


def low(data: bytes) -> int:
    """The address, below 4 GiB, of a copy of ``data``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22 | MAP_32BIT, -1, ctypes.c_long(0))
    assert address and address < 1 << 32
    ctypes.memmove(address, data, len(data))
    return int(address)


def compat(number: int, *arguments: int) -> int:
    """A 32-bit system call, with up to three arguments."""
    function = _function(_COMPAT, *[ctypes.c_uint] * 4)
    return need(function(number, *arguments, *[0] * (3 - len(arguments))), "32-bit system calls")


def uring(opcode: int, fd: int, address: int, length: int, offset: int, flags: int) -> int:
    """One operation through an io_uring of its own."""
    parameters = ctypes.create_string_buffer(120)
    ring = need(syscall(URING_SETUP, 4, parameters), "io_uring")
    fields = struct.unpack_from("=10I", parameters, 0)
    sq = struct.unpack_from("=8I", parameters, 40)
    cq = struct.unpack_from("=8I", parameters, 80)
    submission = mmap.mmap(ring, sq[6] + fields[0] * 4, offset=0)
    completion = mmap.mmap(ring, cq[5] + fields[1] * 16, offset=0x8000000)
    entries = mmap.mmap(ring, fields[0] * 64, offset=0x10000000)
    struct.pack_into("=BBHiQQII", entries, 0, opcode, 0, 0, fd, offset, address, length, flags)
    struct.pack_into("=I", submission, sq[6], 0)
    struct.pack_into("=I", submission, sq[1], 1)
    checked(syscall(URING_ENTER, ring, 1, 1, 1, 0, 0))
    return int(struct.unpack_from("=Qi", completion, cq[5])[1])
