"""RLIMIT_MEMLOCK, which limits BPF objects before Linux 5.11 (5.11 charges them to the memory cgroup)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pylsm.loader.bpf import kernel_release

__all__ = ["raised_memlock"]


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
