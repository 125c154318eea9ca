"""What differs between architectures, in one table: numbers of system calls, registers, sizes of pages.

Sources: arch/x86/entry/syscalls/*.tbl, include/uapi/asm-generic/unistd.h, arch/*/kernel/syscalls/syscall*.tbl,
arch/*/include/asm/{ptrace,syscall,thread_info}.h, arch/*/Kconfig (HAVE_PAGE_SIZE_*), include/uapi/linux/audit.h.
"""

from __future__ import annotations

import os
import sys

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

__all__ = ["ARCHITECTURES", "CALLS", "Architecture", "call_number", "native", "with_registers"]


class Architecture(NamedTuple):
    """One architecture.

    Attributes:
        machine: as uname(2) says it.
        column: its numbers in `CALLS`, or -1: only some of its calls are known (`call_number`).
        audit: AUDIT_ARCH_*, by which seccomp names it; 0 where that is not needed.
        pages: sizes in bytes of a page that its kernels can be built with; which it is, the running one says (sysconf).
        arguments: fields of ``struct pt_regs`` that hold a kernel function's first arguments. This and what follows is
            for programs that are not given typed arguments; () where none was tried on this architecture.
        call_number: field of ``struct pt_regs`` with the number of the system call under way.
        call_arguments: fields of ``struct pt_regs`` with the arguments of a system call.
        compat: field of ``struct task_struct``, and the bits in it that tell a 32-bit system call, with other numbers.
    """

    machine: str
    column: int
    audit: int
    pages: tuple[int, ...]
    arguments: tuple[str, ...] = ()
    call_number: str = ""
    call_arguments: tuple[str, ...] = ()
    compat: tuple[str, int] = ("", 0)

    def call(self, name: str) -> int:
        """The number of a system call as a 64-bit process makes it; -1 when the architecture has no such call.

        Raises:
            PylsmError: it is not known.
        """
        return CALLS[name][self.column] if self.column >= 0 else call_number(name, self.machine, 64)


_K = 1024
_NUMBERED: Final = tuple(f"regs[{number}]" for number in range(6))

ARCHITECTURES: Final = (
    Architecture(
        "x86_64",
        0,
        0xC000003E,
        (4 * _K,),
        ("di", "si", "dx", "cx", "r8", "r9"),
        "orig_ax",
        ("di", "si", "dx", "r10", "r8", "r9"),
        ("thread_info.status", 1 << 1),  # TS_COMPAT: set while a 32-bit call runs
    ),
    Architecture(
        "aarch64",
        1,
        0xC00000B7,
        (4 * _K, 16 * _K, 64 * _K),
        _NUMBERED,
        "syscallno",
        _NUMBERED,
        ("thread_info.flags", 1 << 22),  # TIF_32BIT: the whole task is a 32-bit one
    ),
    Architecture("riscv64", 1, 0xC00000F3, (4 * _K,)),
    Architecture("loongarch64", 1, 0xC0000102, (4 * _K, 16 * _K, 64 * _K)),
    Architecture("ppc64le", -1, 0, (4 * _K, 64 * _K)),
    Architecture("ppc64", -1, 0, (4 * _K, 64 * _K)),
    Architecture("s390x", -1, 0, (4 * _K,)),
)

#: System call → number on (x86_64; those with the generic numbers: aarch64, riscv64, loongarch64). -1: it has none.
CALLS: Final = {
    "accept": (43, 202),
    "accept4": (288, 242),
    "access": (21, -1),
    "bind": (49, 200),
    "bpf": (321, 280),
    "brk": (12, 214),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close": (3, 57),
    "connect": (42, 203),
    "creat": (85, -1),
    "dup": (32, 23),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, -1),
    "eventfd2": (290, 19),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "fallocate": (285, 47),
    "fchmod": (91, 52),
    "fcntl": (72, 25),
    "fdatasync": (75, 83),
    "flock": (73, 32),
    "fstat": (5, 80),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "futex": (202, 98),
    "getcwd": (79, 17),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getpeername": (52, 205),
    "getpgid": (121, 155),
    "getpgrp": (111, -1),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "gettid": (186, 178),
    "gettimeofday": (96, 169),
    "getuid": (102, 174),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "link": (86, -1),
    "linkat": (265, 37),
    "listen": (50, 201),
    "lseek": (8, 62),
    "lstat": (6, -1),
    "madvise": (28, 233),
    "membarrier": (324, 283),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "nanosleep": (35, 101),
    "newfstatat": (262, 79),
    "open": (2, -1),
    "open_by_handle_at": (304, 265),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "pidfd_send_signal": (424, 424),
    "pipe2": (293, 59),
    "poll": (7, -1),
    "ppoll": (271, 73),
    "pread64": (17, 67),
    "pselect6": (270, 72),
    "pwrite64": (18, 68),
    "read": (0, 63),
    "readlink": (89, -1),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "restart_syscall": (219, 128),
    "rmdir": (84, -1),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "select": (23, -1),
    "sendmmsg": (307, 269),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "setsockopt": (54, 208),
    "shutdown": (48, 210),
    "sigaltstack": (131, 132),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "memfd_create": (319, 279),
    "stat": (4, -1),
    "statx": (332, 291),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "truncate": (76, 45),
    "uname": (63, 160),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "utimensat": (280, 88),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "write": (1, 64),
    "writev": (20, 66),
}

#: (machine, pointer width of the Python) → numbers of the calls that loading needs, where `CALLS` has no column.
_LOADING: Final = ("bpf", "perf_event_open", "membarrier")
_OTHERS: Final = {
    ("ppc64le", 64): (361, 319, 365),
    ("ppc64", 64): (361, 319, 365),
    ("s390x", 64): (351, 331, 356),
    # A 32-bit Python sees its own numbers, also under a 64-bit kernel.
    ("x86_64", 32): (357, 336, 375),
    ("i686", 32): (357, 336, 375),
    ("armv7l", 32): (386, 364, 389),
    ("aarch64", 32): (386, 364, 389),
    ("armv8l", 32): (386, 364, 389),
}


def call_number(name: str, machine: str | None = None, bits: int | None = None) -> int:
    """The number of a system call that libc has no function for.

    Args:
        name: of `CALLS`; those of a machine without a column there are known for ``bpf``, ``perf_event_open`` and
            ``membarrier`` only.
        machine: as uname(2) says it, by default this one.
        bits: pointer width of the Python that makes the call, by default this one's.

    Raises:
        PylsmError: the number is not known.
    """
    machine = os.uname().machine if machine is None else machine
    bits = (64 if sys.maxsize > 1 << 32 else 32) if bits is None else bits
    others = _OTHERS.get((machine, bits))
    if others is not None and name in _LOADING:
        return others[_LOADING.index(name)]
    if bits == 64:
        for row in ARCHITECTURES:
            if row.machine == machine and row.column >= 0:
                return CALLS[name][row.column]
    known = sorted({row.machine for row in ARCHITECTURES} | {other for other, _ in _OTHERS})
    raise PylsmError(
        f"the number of the system call {name} for a {bits}-bit Python on {machine} is not known",
        hint=f"known: {', '.join(known)}",
    )


def native(machine: str | None = None) -> Architecture:
    """The row for ``machine``, by default this one.

    Raises:
        PylsmError: there is none.
    """
    machine = os.uname().machine if machine is None else machine
    for row in ARCHITECTURES:
        if row.machine == machine:
            return row
    known = ", ".join(row.machine for row in ARCHITECTURES)
    raise PylsmError(f"nothing is known of the architecture {machine}", hint=f"known: {known}")


def with_registers(machine: str | None = None) -> Architecture:
    """`native`, for programs that look for their arguments in registers.

    Raises:
        PylsmError: there is no such row, or where they are is not known.
    """
    row = native(machine)
    if not row.arguments:
        known = ", ".join(row.machine for row in ARCHITECTURES if row.arguments)
        raise PylsmError(
            f"the registers of {row.machine} are not known",
            hint=f"known: {known}; lsm and fentry need none",
        )
    return row
