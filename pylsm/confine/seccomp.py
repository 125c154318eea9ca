"""seccomp: which system calls are still answered (Documentation/userspace-api/seccomp_filter.rst).

The filter is a classic BPF program over struct seccomp_data: number, architecture, instruction pointer, six arguments.
What it does not allow fails with EPERM, so that a library that tries something new gets an error and no signal.
"""

from __future__ import annotations

import os
import struct
from errno import ENOSYS, EPERM

from pylsm.arch import ARCHITECTURES
from pylsm.confine.kernel import prctl
from pylsm.libc import Memory
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

__all__ = ["CALLS", "allowed", "assemble", "install"]

#: Allowed whatever their arguments, those of the loop first; what an architecture does not have is left out.
CALLS: Final = (
    "poll",
    "ppoll",
    "read",
    "write",
    "futex",
    "rt_sigreturn",
    "clock_gettime",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "brk",
    "close",
    "fstat",
    "stat",
    "lstat",
    "newfstatat",
    "statx",
    "lseek",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "access",
    "faccessat",
    "faccessat2",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "eventfd2",
    "pipe2",
    "timerfd_create",
    "timerfd_settime",
    "sched_yield",
    "sched_getaffinity",
    "nanosleep",
    "clock_nanosleep",
    "clock_getres",
    "gettimeofday",
    "dup",
    "fcntl",
    "fsync",
    "fdatasync",
    "ftruncate",
    "getdents64",
    "getcwd",
    "readlink",
    "readlinkat",
    "uname",
    "sysinfo",
    "getrusage",
    "getrandom",
    "getpid",
    "getppid",
    "pidfd_open",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getpgrp",
    "getpgid",
    "wait4",
    "waitid",
    "exit",
    "exit_group",
    "restart_syscall",
    "set_robust_list",
    "rseq",
    "membarrier",
)

_SIGNALS = ("kill", "tgkill", "pidfd_send_signal")
_WRITABLE = (
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "rmdir",
    "fchmod",
    "flock",
    "fallocate",
    "truncate",
    "utimensat",
)
_NETWORK = (
    "socket",
    "socketpair",
    "connect",
    "bind",
    "listen",
    "accept4",
    "accept",
    "sendto",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "sendmmsg",
    "getsockopt",
    "setsockopt",
    "getsockname",
    "getpeername",
    "shutdown",
    "memfd_create",
)

#: bpf(2) commands on what is open: element lookup, update, delete, next key, info, batches, iterator, detach.
_BPF_COMMANDS: Final = (1, 2, 3, 4, 15, 24, 25, 26, 27, 33, 34)
#: TCGETS, TIOCGPGRP, TIOCGWINSZ, TIOCOUTQ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, PERF_EVENT_IOC_DISABLE. Not TIOCSTI.
_IOCTLS: Final = (0x5401, 0x540F, 0x5413, 0x5411, 0x541B, 0x5421, 0x5450, 0x5451, 0x2401)
_O_TMPFILE = 0o20000000
_WRITING: Final = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | _O_TMPFILE
_CLONE_THREAD = 0x10000

# Instructions of classic BPF (include/uapi/linux/bpf_common.h) and answers (include/uapi/linux/seccomp.h).
_LD_ABS, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL_PROCESS, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

Instruction = tuple[int, int, int, int]


def allowed(*, writable: bool = False, network: bool = False, signals: bool = False) -> tuple[str, ...]:
    """Names of the calls that are allowed whatever their arguments."""
    return (
        *CALLS,
        *(_SIGNALS if signals else ()),
        *(_WRITABLE if writable else ()),
        *(_NETWORK if network else ()),
    )


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
    row = next((row for row in ARCHITECTURES if row.machine == machine and row.audit), None)
    if row is None:
        raise OSError(ENOSYS, f"the system call numbers of {machine} are not known")
    code: list[Instruction] = [
        (_LD_ABS, 0, 0, _ARCHITECTURE),
        (_JEQ, 1, 0, row.audit),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD_ABS, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RET, 0, 0, _ERRNO | ENOSYS)]
    plain = allowed(writable=writable, network=network, signals=signals)
    if writable:
        plain += ("open", "openat")
    for name in plain:
        number = row.call(name)
        if number >= 0:
            code += [(_JEQ, 0, 1, number), (_RET, 0, 0, _ALLOW)]
    refuse = (_RET, 0, 0, _ERRNO | EPERM)
    conditions: list[tuple[str, Sequence[Instruction]]] = [
        ("bpf", _one_of(0, _BPF_COMMANDS)),
        ("ioctl", _one_of(1, _IOCTLS)),
    ]
    if not writable:
        conditions += [("open", _without(1, _WRITING)), ("openat", _without(2, _WRITING))]
    if network:
        # clone3 keeps its flags in memory, where no filter can look; libc then uses clone.
        thread = ((_LD_ABS, 0, 0, _ARGUMENTS), (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, _ALLOW))
        conditions += [("clone", thread), ("clone3", ((_RET, 0, 0, _ERRNO | ENOSYS),))]
    for name, body in conditions:
        number = row.call(name)
        if number >= 0:
            code += [(_JEQ, 0, len(body) + 1, number), *body, refuse]
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
    buffer = Memory(code)
    # struct sock_fprog: unsigned short len, then a pointer at its own alignment.
    program = Memory(struct.pack("@HP", len(code) // 8, buffer.address))
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, program.address)
