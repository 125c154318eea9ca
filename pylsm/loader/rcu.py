"""Waiting until no program that was detached still runs."""

from __future__ import annotations

import ctypes

from pylsm.arch import call_number

__all__ = ["synchronize"]

_MEMBARRIER_CMD_GLOBAL = 1


def synchronize() -> None:
    """Wait for an RCU grace period.

    Programs run inside a read-side critical section of RCU. Closing a link does not wait for those that are running;
    once this returns they have ended, and what they wrote to maps and rings is there to be read.

    membarrier(2) with MEMBARRIER_CMD_GLOBAL is synchronize_rcu (kernel/sched/membarrier.c). Kernels with nohz_full
    CPUs refuse it; the wait is then left out.
    """
    ctypes.CDLL(None).syscall(ctypes.c_long(call_number("membarrier")), _MEMBARRIER_CMD_GLOBAL, 0, 0)
