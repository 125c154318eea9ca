"""This thread's capabilities (capabilities(7)), as sets of numbers."""

from __future__ import annotations

from contextlib import suppress
from struct import pack, unpack

from pylsm.confine.kernel import check, prctl
from pylsm.libc import Memory, function
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

__all__ = [
    "CAP_BPF",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SYS_PTRACE",
    "clear_ambient",
    "effective_only",
    "keep_only",
    "names",
    "permitted",
]

# include/uapi/linux/capability.h
CAP_CHOWN: Final = 0
CAP_DAC_OVERRIDE: Final = 1
CAP_DAC_READ_SEARCH: Final = 2
CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SYS_PTRACE: Final = 19
CAP_BPF: Final = 39
_NAMES = {
    CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE",
    CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
    CAP_KILL: "CAP_KILL",
    CAP_SETGID: "CAP_SETGID",
    CAP_SETUID: "CAP_SETUID",
    CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
    CAP_BPF: "CAP_BPF",
}

_HEADER = pack("=II", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def permitted() -> set[int]:
    """Those that this thread may make effective."""
    _, allowed, _ = _get()
    return {bit for bit in range(64) if allowed >> bit & 1}


def effective_only(wanted: Iterable[int]) -> None:
    """Make exactly these effective; the others stay permitted, and can be taken up again."""
    _, allowed, inheritable = _get()
    _set(_mask(wanted), allowed, inheritable)


def keep_only(wanted: Iterable[int]) -> None:
    """Give up all but these, for this thread and all it starts, for good; programs it executes get none."""
    clear_ambient()
    with suppress(OSError):  # EPERM: without CAP_SETPCAP the bounding set stays, and no_new_privs makes it harmless
        _, allowed, inheritable = _get()
        _set(allowed, allowed, inheritable)
        for bit in range(64):
            prctl(_PR_CAPBSET_DROP, bit)  # EINVAL behind the last one that the kernel has
    mask = _mask(wanted)
    _set(mask, mask, 0)


def clear_ambient() -> None:
    """Let no program that is executed from here inherit a capability through the ambient set."""
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def names(wanted: Iterable[int]) -> tuple[str, ...]:
    """Their names, in the order of their numbers."""
    return tuple(_NAMES.get(bit, f"capability {bit}") for bit in sorted(wanted))


def _mask(wanted: Iterable[int]) -> int:
    return sum(1 << bit for bit in set(wanted))


def _get() -> tuple[int, int, int]:
    """(effective, permitted, inheritable) as masks."""
    header, data = Memory(_HEADER), Memory(24)
    check(function("capget", 2)(header.address, data.address))
    words = unpack("=6I", data)
    effective, allowed, inheritable = (words[n] | words[n + 3] << 32 for n in range(3))
    return effective, allowed, inheritable


def _set(*masks: int) -> None:
    data = Memory(pack("=6I", *(mask & 0xFFFFFFFF for mask in masks), *(mask >> 32 for mask in masks)))
    header = Memory(_HEADER)
    check(function("capset", 2)(header.address, data.address))
