"""What differs between architectures: system call numbers.

Sources: arch/*/entry/syscalls, include/uapi/asm-generic/unistd.h.
"""

from __future__ import annotations

import os
import sys

from pylsm.errors import PylsmError
from pylsm.light import NamedTuple

__all__ = ["SystemCalls", "system_calls"]


class SystemCalls(NamedTuple):
    """Numbers of the calls that libc has no function for."""

    bpf: int
    perf_event_open: int
    membarrier: int


_GENERIC = SystemCalls(bpf=280, perf_event_open=241, membarrier=283)

#: uname(2) machine, and the pointer width of this Python → numbers.
_TABLE = {
    ("x86_64", 64): SystemCalls(bpf=321, perf_event_open=298, membarrier=324),
    ("aarch64", 64): _GENERIC,
    ("riscv64", 64): _GENERIC,
    ("loongarch64", 64): _GENERIC,
    ("ppc64le", 64): SystemCalls(bpf=361, perf_event_open=319, membarrier=365),
    ("ppc64", 64): SystemCalls(bpf=361, perf_event_open=319, membarrier=365),
    ("s390x", 64): SystemCalls(bpf=351, perf_event_open=331, membarrier=356),
    # A 32-bit Python sees its own numbers, also under a 64-bit kernel.
    ("x86_64", 32): SystemCalls(bpf=357, perf_event_open=336, membarrier=375),
    ("i686", 32): SystemCalls(bpf=357, perf_event_open=336, membarrier=375),
    ("armv7l", 32): SystemCalls(bpf=386, perf_event_open=364, membarrier=389),
    ("aarch64", 32): SystemCalls(bpf=386, perf_event_open=364, membarrier=389),
    ("armv8l", 32): SystemCalls(bpf=386, perf_event_open=364, membarrier=389),
}


def system_calls(machine: str | None = None, bits: int | None = None) -> SystemCalls:
    """The numbers for ``machine`` (as uname(2) says it) and a Python of ``bits``; by default this one.

    Raises:
        PylsmError: an architecture that is not in the table.
    """
    machine = os.uname().machine if machine is None else machine
    bits = (64 if sys.maxsize > 1 << 32 else 32) if bits is None else bits
    found = _TABLE.get((machine, bits))
    if found is None:
        known = ", ".join(sorted({name for name, _ in _TABLE}))
        raise PylsmError(
            f"the system call numbers of a {bits}-bit Python on {machine} are not known", hint=f"known: {known}"
        )
    return found
