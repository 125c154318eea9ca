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

__all__ = ["ARCHITECTURES", "Architecture", "call_number", "native", "with_registers"]


class Architecture(NamedTuple):
    """One architecture.

    Attributes:
        machine: as uname(2) says it.
        column: its numbers in `pylsm.calls.CALLS`, or -1: only some of its calls are known (`call_number`).
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
        if self.column < 0:
            return call_number(name, self.machine, 64)
        from pylsm.calls import CALLS

        return CALLS[name][self.column]


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

#: (machine, pointer width of the Python) → numbers of the calls that loading needs.
_LOADING: Final = ("bpf", "perf_event_open", "membarrier")
_NUMBERS: Final = {
    ("x86_64", 64): (321, 298, 324),
    **dict.fromkeys((("aarch64", 64), ("riscv64", 64), ("loongarch64", 64)), (280, 241, 283)),
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
        name: of `pylsm.calls.CALLS`; those of a machine without a column there are known for ``bpf``,
            ``perf_event_open`` and ``membarrier`` only.
        machine: as uname(2) says it, by default this one.
        bits: pointer width of the Python that makes the call, by default this one's.

    Raises:
        PylsmError: the number is not known.
    """
    machine = os.uname().machine if machine is None else machine
    bits = (64 if sys.maxsize > 1 << 32 else 32) if bits is None else bits
    others = _NUMBERS.get((machine, bits))
    if others is not None and name in _LOADING:
        return others[_LOADING.index(name)]
    if bits == 64:
        for row in ARCHITECTURES:
            if row.machine == machine and row.column >= 0:
                return row.call(name)
    known = sorted({row.machine for row in ARCHITECTURES} | {other for other, _ in _NUMBERS})
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
