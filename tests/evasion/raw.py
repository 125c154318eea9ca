"""System calls and machine code that no library makes for us (x86_64, arm64)."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from errno import ENOEXEC
from typing import Any

from cases.lab import X86_64, checked, syscall

__all__ = [
    "ACCT",
    "CLONE",
    "CLONE3",
    "FANOTIFY_INIT",
    "FANOTIFY_MARK",
    "MQ_OPEN",
    "MQ_UNLINK",
    "PIDFD_GETFD",
    "POLLED",
    "SENDMMSG",
    "WORKER",
    "Missing",
    "burst",
    "compat_connect",
    "compat_open",
    "need",
    "uring",
]

if X86_64:  # arch/x86/entry/syscalls/syscall_64.tbl
    ACCT, CLONE, FANOTIFY_INIT, FANOTIFY_MARK, MQ_OPEN, MQ_UNLINK, SENDMMSG = 163, 56, 300, 301, 240, 241, 307
else:  # include/uapi/asm-generic/unistd.h
    ACCT, CLONE, FANOTIFY_INIT, FANOTIFY_MARK, MQ_OPEN, MQ_UNLINK, SENDMMSG = 89, 220, 262, 263, 180, 181, 269
CLONE3, PIDFD_GETFD, URING_SETUP, URING_ENTER = 435, 438, 425, 426

#: burst(path, count): count times { vfork a child that opens the path and exits; wait for it }.
_BURST = bytes.fromhex(
    "5341544989fc89f3b838000000bf1141000031f631d24531d24531c00f0585c0783d751db8020000004c89e7be41000000ba80010000"
    "0f05b83c00000031ff0f05b83d00000048c7c7ffffffff31f6ba000000404531d20f05ffcb75ab31c0415c5bc3"
    if X86_64
    else "e90300aaea03012a881b80d2202288d2010080d2020080d2030080d2040080d2010000d48002f8b7400100b5080780d2600c8092"
    "e10309aa220880d2033080d2010000d4a80b80d2000080d2010000d4882080d200008092010080d20200a8d2030080d2010000d44a050071e1fcff54"
    "000080d2c0035fd6"
)
#: compat(number, a, b, c): int 0x80, the system calls of a 32-bit program, in one of 64 bits.
_COMPAT = bytes.fromhex("5389f889f387d1cd8048985bc3")
MAP_32BIT = 0x40

# arm64 has no way to make a 32-bit call from a program of 64 bits: these are whole programs of 32-bit ARM.
#: open(what follows, O_WRONLY | O_CREAT, 0600), exit.
_ARM_OPEN = bytes.fromhex("14008fe24110a0e3062da0e30570a0e3000000ef0170a0e3000000ef")
#: connect(socket(AF_INET, SOCK_DGRAM, 0), what follows, 16), exit.
_ARM_CONNECT = bytes.fromhex("0200a0e30210a0e30020a0e3197100e3000000ef10108fe21020a0e3027087e2000000ef0170a0e3000000ef")


class Missing(Exception):
    """This kernel has not what the case needs."""


def need(result: int, what: str) -> int:
    """A system call's result, or `Missing` where the kernel says that it has no such thing."""
    if result in (-38, -22, -97, -93, -94, -1, -19, -2, -95, -92):  # ENOSYS, EINVAL, no such family, protocol, …
        raise Missing(f"{what}: {os.strerror(-result)}")
    return checked(result)


def _function(code: bytes, *arguments: Any) -> Callable[..., int]:
    fd = os.memfd_create("code")
    os.write(fd, code)
    # Private, so that its address can be taken; never written to, so that it is mapped as the kernel has it.
    memory = mmap.mmap(fd, len(code), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    os.close(fd)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    made: Callable[..., int] = ctypes.CFUNCTYPE(ctypes.c_long, *arguments)(address)
    made.memory = memory  # type: ignore[attr-defined]
    return made


def burst(path: bytes, count: int) -> None:
    """``count`` children, one after the other, each of which opens ``path`` and does nothing else (vfork)."""
    checked(_function(_BURST, ctypes.c_char_p, ctypes.c_int)(path, count))


def _low(data: bytes) -> int:
    """The address, below 4 GiB, of a copy of ``data``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    address = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22 | MAP_32BIT, -1, ctypes.c_long(0))
    assert address and address < 1 << 32
    ctypes.memmove(address, data, len(data))
    return int(address)


def _compat(number: int, *arguments: int) -> int:
    function = _function(_COMPAT, *[ctypes.c_uint] * 4)
    return need(function(number, *arguments, *[0] * (3 - len(arguments))), "32-bit system calls")


def _arm(directory: str, code: bytes) -> None:
    """Run a program of 32-bit ARM."""
    base, size = 0x10000, 84 + len(code)
    header = struct.pack("=HHIIIIIHHHHHH", 2, 40, 1, base + 84, 52, 0, 0x5000000, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("=8I", 1, 0, base, base, size, size, 5, 0x10000)
    program = f"{directory}/32-bit"
    with open(program, "wb") as file:
        file.write(b"\x7fELF\1\1\1".ljust(16, b"\0") + header + segment + code)
    os.chmod(program, 0o700)
    try:
        subprocess.run([program], check=False)
    except OSError as error:
        if error.errno != ENOEXEC:
            raise
        raise Missing("32-bit programs: not of this kernel or processor") from None


def compat_open(directory: str, path: bytes) -> None:
    """Make a file by a 32-bit system call."""
    if X86_64:
        _compat(5, _low(path + b"\0"), os.O_WRONLY | os.O_CREAT, 0o600)
    else:
        _arm(directory, _ARM_OPEN + path + b"\0")


def compat_connect(directory: str, address: bytes, *, socketcall: bool = False) -> None:
    """Connect a datagram socket by a 32-bit system call; on x86 also by the one call for all of sockets (i386)."""
    if not X86_64:
        if socketcall:
            raise Missing("socketcall: not of this architecture")
        _arm(directory, _ARM_CONNECT + address)
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if socketcall:
            _compat(102, 3, _low(struct.pack("=III", sock.fileno(), _low(address), len(address))))
        else:
            _compat(362, sock.fileno(), _low(address), len(address))


#: How an operation gets done: by the caller, by a worker thread (IOSQE_ASYNC), by a thread that polls (SQPOLL).
INLINE, WORKER, POLLED = range(3)


def uring(opcode: int, fd: int, address: int, length: int, offset: int, flags: int, how: int = INLINE) -> int:
    """One operation through an io_uring of its own; its result."""
    parameters = ctypes.create_string_buffer(120)
    struct.pack_into("=II", parameters, 8, 2 if how == POLLED else 0, 0)  # flags: IORING_SETUP_SQPOLL
    struct.pack_into("=I", parameters, 16, 1000)  # sq_thread_idle, milliseconds
    ring = need(syscall(URING_SETUP, 4, parameters), "io_uring")
    fields = struct.unpack_from("=10I", parameters, 0)
    sq = struct.unpack_from("=8I", parameters, 40)
    cq = struct.unpack_from("=8I", parameters, 80)
    submission = mmap.mmap(ring, sq[6] + fields[0] * 4, offset=0)
    completion = mmap.mmap(ring, cq[5] + fields[1] * 16, offset=0x8000000)
    entries = mmap.mmap(ring, fields[0] * 64, offset=0x10000000)
    marks = 1 << 4 if how == WORKER else 0
    struct.pack_into("=BBHiQQII", entries, 0, opcode, marks, 0, fd, offset, address, length, flags)
    struct.pack_into("=I", submission, sq[6], 0)
    struct.pack_into("=I", submission, sq[1], 1)
    # IORING_ENTER_GETEVENTS, and SQ_WAKEUP for the thread that polls
    checked(syscall(URING_ENTER, ring, 1, 1, 3 if how == POLLED else 1, 0, 0))
    result = int(struct.unpack_from("=Qi", completion, cq[5])[1])
    os.close(ring)
    return result
