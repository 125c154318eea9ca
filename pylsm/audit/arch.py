"""What differs between architectures for the probe: one row each.

Sources: arch/*/include/asm/{ptrace,syscall,thread_info}.h, arch/x86/entry/syscalls/syscall_64.tbl,
include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

__all__ = ["ARCHITECTURES", "Architecture", "native"]


class Architecture(NamedTuple):
    """A machine, as programs see it that are not given typed arguments.

    Attributes:
        machine: as uname(2) says it.
        arguments: fields of ``struct pt_regs`` that hold a kernel function's first arguments.
        call_number: field of ``struct pt_regs`` with the number of the system call under way.
        call_arguments: fields of ``struct pt_regs`` with the arguments of a system call.
        compat: field of ``struct task_struct``, and the bits in it that tell a 32-bit system call, with other numbers.
        connect: number of connect(2).
        opens: numbers of the calls that open a file and return its descriptor, by name.

    Pages are no property of a machine: an arm64 kernel has 4, 16 or 64 KiB, and is asked (sysconf).
    """

    machine: str
    arguments: tuple[str, ...]
    call_number: str
    call_arguments: tuple[str, ...]
    compat: tuple[str, int]
    connect: int
    opens: Mapping[str, int]


_REGISTERS = tuple(f"regs[{number}]" for number in range(6))

ARCHITECTURES: Final = (
    Architecture(
        "x86_64",
        ("di", "si", "dx", "cx", "r8", "r9"),
        "orig_ax",
        ("di", "si", "dx", "r10", "r8", "r9"),
        ("thread_info.status", 1 << 1),  # TS_COMPAT: set while a 32-bit call runs
        42,
        {"open": 2, "creat": 85, "openat": 257, "open_by_handle_at": 304, "openat2": 437},
    ),
    Architecture(
        "aarch64",
        _REGISTERS,
        "syscallno",
        _REGISTERS,
        ("thread_info.flags", 1 << 22),  # TIF_32BIT: the whole task is a 32-bit one
        203,
        {"openat": 56, "open_by_handle_at": 265, "openat2": 437},
    ),
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
    raise PylsmError(
        f"registers and system call numbers of {machine} are not known",
        hint=f"known: {known}; the sources lsm and fentry need neither",
    )
