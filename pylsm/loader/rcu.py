"""Waiting until no program that was detached still runs."""

from __future__ import annotations

from pylsm.arch import call_number
from pylsm.libc import syscall

__all__ = ["synchronize"]

_MEMBARRIER_CMD_GLOBAL = 1


def synchronize() -> None:
    """Wait for an RCU grace period.

    Programs run inside a read-side critical section of RCU. Closing a link does not wait for those that are running;
    once this returns they have ended, and what they wrote to maps and rings is there to be read.

    membarrier(2) with MEMBARRIER_CMD_GLOBAL is synchronize_rcu (kernel/sched/membarrier.c). Kernels with nohz_full
    CPUs refuse it; the wait is then left out.
    """
    syscall(call_number("membarrier"), _MEMBARRIER_CMD_GLOBAL, 0, 0, 0, 0, 0)
