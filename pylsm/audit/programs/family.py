"""The traced family, kept in the kernel: children join before they run, processes leave with their last thread."""

from __future__ import annotations

from pylsm.asm import R0, R1, R6, R8, R9, Asm, Program, u32, u64
from pylsm.audit.maps import TRACED
from pylsm.audit.programs.common import KERNEL, count
from pylsm.audit.records import TGID

__all__ = ["sched_process_exit", "sched_process_fork"]


def sched_process_fork() -> Program:
    """``sched_process_fork(parent, child)``: runs in the parent before the child is woken, for threads too.

    The child of a traced process gets its parent's tag, whether or not it ever execs.
    """
    a = Asm("raw_tp/sched_process_fork", types=KERNEL)
    key, value, word = a.stack(TGID, "tgid"), a.stack(4, "tag"), a.stack(8, "word")
    out = a.label("out")
    a.mov(R6, R1)
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.stx(key.tgid, R0)
    a.mov(R8, R0)
    a.call("map_lookup_elem", TRACED, key)
    a.jeq(R0, 0, out)
    a.ldx(R1, u32[R0])
    a.stx(u32[value], R1)
    a.ldx(R9, u64[R6 + 8])
    a.probe_load(R1, a.typed(R9, "task_struct").tgid, word)
    a.jeq(R1, R8, out)  # a thread
    a.stx(key.tgid, R1)
    a.call("map_update_elem", TRACED, key, value, 0)
    with a.if_(R0, "!=", 0):
        count(a, "family_full")
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def sched_process_exit() -> Program:
    """``sched_process_exit(task)``: runs for each thread; the process goes with the last one, not with its leader."""
    a = Asm("raw_tp/sched_process_exit", types=KERNEL)
    key, word = a.stack(TGID, "tgid"), a.stack(8, "word")
    out = a.label("out")
    a.ldx(R9, u64[R1])
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.stx(key.tgid, R0)
    a.call("map_lookup_elem", TRACED, key)
    a.jeq(R0, 0, out)
    a.probe_load(R1, a.typed(R9, "task_struct").signal.live.counter, word)
    a.jne(R1, 0, out)
    a.call("map_delete_elem", TRACED, key)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()
