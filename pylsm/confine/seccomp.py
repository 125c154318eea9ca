"""seccomp: which system calls are still answered (Documentation/userspace-api/seccomp_filter.rst).

The filter is a classic BPF program over struct seccomp_data: number, architecture, instruction pointer, six arguments.
What it does not allow fails with EPERM, so that a library that tries something new gets an error and no signal.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from errno import ENOSYS, EPERM
from typing import Final

from pylsm.confine.kernel import prctl

__all__ = ["CALLS", "allowed", "assemble", "install"]

#: name → (x86_64, generic: aarch64, riscv64, loongarch64); -1: no such call there. Those of the loop first.
CALLS: Final = {
    "poll": (7, -1),
    "ppoll": (271, 73),
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "rt_sigreturn": (15, 139),
    "clock_gettime": (228, 113),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    "close": (3, 57),
    "fstat": (5, 80),
    "stat": (4, -1),
    "lstat": (6, -1),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "lseek": (8, 62),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "sigaltstack": (131, 132),
    "access": (21, -1),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "select": (23, -1),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "pipe2": (293, 59),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "dup": (32, 23),
    "fcntl": (72, 25),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrusage": (98, 165),
    "getrandom": (318, 278),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getpgrp": (111, -1),
    "getpgid": (121, 155),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "restart_syscall": (219, 128),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "membarrier": (324, 283),
}

_SIGNALS = {"kill": (62, 129), "tgkill": (234, 131), "pidfd_send_signal": (424, 424)}
_WRITABLE = {
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "link": (86, -1),
    "linkat": (265, 37),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "fchmod": (91, 52),
    "flock": (73, 32),
    "fallocate": (285, 47),
    "truncate": (76, 45),
    "utimensat": (280, 88),
}
_NETWORK = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept4": (288, 242),
    "accept": (43, 202),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "shutdown": (48, 210),
}
_OPEN, _OPENAT, _IOCTL, _BPF, _CLONE, _CLONE3 = (2, -1), (257, 56), (16, 29), (321, 280), (56, 220), (435, 435)

#: bpf(2) commands on what is open: element lookup, update, delete, next key, info, batches, iterator, detach.
_BPF_COMMANDS: Final = (1, 2, 3, 4, 15, 24, 25, 26, 27, 33, 34)
#: TCGETS, TIOCGPGRP, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, PERF_EVENT_IOC_DISABLE. Not TIOCSTI.
_IOCTLS: Final = (0x5401, 0x540F, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x2401)
_O_TMPFILE = 0o20000000
_WRITING: Final = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_CLONE_THREAD = 0x10000

# Instructions of classic BPF (include/uapi/linux/bpf_common.h) and answers (include/uapi/linux/seccomp.h).
_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000

#: uname(2) machine → (AUDIT_ARCH_*, column of the tables).
_ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 1),
    "riscv64": (0xC00000F3, 1),
    "loongarch64": (0xC0000102, 1),
}

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]


def allowed(*, writable: bool = False, network: bool = False, signals: bool = False) -> dict[str, tuple[int, int]]:
    """The calls that are allowed whatever their arguments."""
    return {
        **CALLS,
        **(_SIGNALS if signals else {}),
        **(_WRITABLE if writable else {}),
        **(_NETWORK if network else {}),
    }


def assemble(machine: str, *, writable: bool = False, network: bool = False, signals: bool = False) -> bytes:
    """The filter as an array of struct sock_filter.

    Args:
        machine: as uname(2) says it.
        writable: files may be opened for writing, made, renamed, removed.
        network: sockets, and threads.
        signals: kill(2) and its like.

    Raises:
        OSError: ENOSYS: the numbers of this architecture are not known.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(ENOSYS, f"the system call numbers of {machine} are not known")
    architecture, column = _ARCHITECTURES[machine]
    code: list[Instruction] = [
        (_LD_ABS, 0, 0, _ARCHITECTURE),
        (_JEQ, 1, 0, architecture),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD_ABS, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _ERRNO | ENOSYS)]
    plain = list(allowed(writable=writable, network=network, signals=signals).values())
    if writable:
        plain += [_OPEN, _OPENAT]
    for numbers in plain:
        if numbers[column] >= 0:
            code += [(_JEQ, 0, 1, numbers[column]), (_RET, 0, 0, _ALLOW)]
    refuse = (_RET, 0, 0, _ERRNO | EPERM)
    conditions: list[tuple[tuple[int, int], Sequence[Instruction]]] = [
        (_BPF, _one_of(0, _BPF_COMMANDS)),
        (_IOCTL, _one_of(1, _IOCTLS)),
    ]
    if not writable:
        conditions += [(_OPEN, _without(1, _WRITING)), (_OPENAT, _without(2, _WRITING))]
    if network:
        # clone3 keeps its flags in memory, where no filter can look; libc then uses clone.
        thread = ((_LD_ABS, 0, 0, _ARGUMENTS), (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, _ALLOW))
        conditions += [(_CLONE, thread), (_CLONE3, ((_RET, 0, 0, _ERRNO | ENOSYS),))]
    for numbers, body in conditions:
        if numbers[column] >= 0:
            code += [(_JEQ, 0, len(body) + 1, numbers[column]), *body, refuse]
    code.append(refuse)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _one_of(argument: int, values: Sequence[int]) -> list[Instruction]:
    body: list[Instruction] = [(_LD_ABS, 0, 0, _ARGUMENTS + 8 * argument)]  # its low half: all are little-endian
    for value in values:
        body += [(_JEQ, 0, 1, value), (_RET, 0, 0, _ALLOW)]
    return body


def _without(argument: int, bits: int) -> list[Instruction]:
    return [(_LD_ABS, 0, 0, _ARGUMENTS + 8 * argument), (_JSET, 1, 0, bits), (_RET, 0, 0, _ALLOW)]


def install(*, writable: bool = False, network: bool = False, signals: bool = False) -> None:
    """Put the filter in force for this thread and all it starts. no_new_privs must be set. Arguments: see `assemble`.

    Raises:
        OSError: this kernel or a filter above refuses, or the architecture is not known.
    """
    code = assemble(os.uname().machine, writable=writable, network=network, signals=signals)
    buffer = ctypes.create_string_buffer(code, len(code))
    # struct sock_fprog: unsigned short len, then a pointer at its own alignment.
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, program)
