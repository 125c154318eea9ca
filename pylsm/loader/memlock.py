"""RLIMIT_MEMLOCK, which limits BPF objects before Linux 5.11 (5.11 charges them to the memory cgroup)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kernel_release", "raised_memlock"]


def kernel_release() -> tuple[int, int]:
    """(major, minor) of the running kernel: (6, 1)."""
    major, minor = os.uname().release.split(".")[:2]
    digits = len(minor) - len(minor.lstrip("0123456789"))  # "7.3-rc1", "6.1+"
    return int(major), int(minor[:digits] or 0)


@contextmanager
def raised_memlock() -> Iterator[bool]:
    """Lift RLIMIT_MEMLOCK while the block runs; yields whether that changed anything.

    Only the creation of an object is checked against the limit, so it is put back at once: no child inherits it.
    Nothing is done from Linux 5.11 on, or where the limit may not be raised (CAP_SYS_RESOURCE).
    """
    if kernel_release() >= (5, 11):
        yield False
        return
    from resource import RLIM_INFINITY, RLIMIT_MEMLOCK, getrlimit, setrlimit

    before = getrlimit(RLIMIT_MEMLOCK)
    raised = False
    if before[0] != RLIM_INFINITY:
        for wanted in ((RLIM_INFINITY, RLIM_INFINITY), (before[1], before[1])):
            try:
                setrlimit(RLIMIT_MEMLOCK, wanted)
            except (OSError, ValueError):
                continue
            raised = True
            break
    try:
        yield raised
    finally:
        if raised:
            setrlimit(RLIMIT_MEMLOCK, before)
