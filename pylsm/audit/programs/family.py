"""The traced family, kept in the kernel: children join before they run, processes leave with their last thread.

Each traced process stands in the map of numbers (`maps.TRACED`), which user space reads and others may share. Where the
kernel has task storage its leader carries a mark as well (`maps.MARKS`), which costs the untraced nothing to look for.

Where the kernel skips programs of tracepoints (`pylsm.audit.skips`), there are several copies of these, and programs of
LSM hooks, which it never skips, see to it that no process is without its mark.
"""

from __future__ import annotations

from pylsm.asm import R0, R1, R2, R6, R7, R8, R9, Asm, Program, View, u32, u64
from pylsm.audit.maps import MARKS, SET, TRACED
from pylsm.audit.programs.common import KERNEL, count, find_traced
from pylsm.audit.programs.hooks import LSM
from pylsm.audit.records import MEMBER, SETTINGS, TGID

__all__ = ["bprm_creds_for_exec", "sched_process_exec", "sched_process_exit", "sched_process_fork", "task_alloc"]

_CREATE = 1  # BPF_LOCAL_STORAGE_GET_F_CREATE, include/uapi/linux/bpf.h
_CLONE_THREAD = 0x10000  # include/uapi/linux/sched.h


def sched_process_fork(*, marks: bool = True, name: str = "sched_process_fork") -> Program:
    """``sched_process_fork(parent, child)``: runs in the parent before the child is woken, for threads too.

    The child of a traced process gets its parent's tag, whether or not it ever execs.

    Args:
        marks: see `Probe`.
        name: of a copy; only the program of the tracepoint's own name counts what found no room.
    """
    a = Asm("tp_btf/sched_process_fork" if marks else "raw_tp/sched_process_fork", name=name, types=KERNEL)
    key, value, word = a.stack(TGID, "tgid"), a.stack(4, "tag"), a.stack(8, "word")
    out = a.label("out")
    a.ldx(R9, u64[R1 + 8])
    if marks:
        leader = find_traced(a, key, out)
        a.load(R7, leader.tgid)
    else:
        a.call("get_current_pid_tgid")
        a.rsh(R0, 32)
        a.stx(key.tgid, R0)
        a.mov(R7, R0)
        a.call("map_lookup_elem", TRACED, key)
        a.jeq(R0, 0, out)
    a.ldx(R1, u32[R0])
    a.stx(u32[value], R1)
    child = a.typed(R9, "task_struct")
    if marks:
        a.load(R1, child.tgid)
    else:
        a.probe_load(R1, child.tgid, word)
    a.jeq(R1, R7, out)  # a thread
    a.stx(key.tgid, R1)
    a.call("map_update_elem", TRACED, key, value, 0)
    if name == "sched_process_fork":
        with a.if_(R0, "!=", 0):
            count(a, "family_full")
    if marks:
        _mark(a, value)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def task_alloc() -> Program:
    """``task_alloc(task, clone_flags)``: marks the child of a traced process, which has no number yet.

    The mark goes with the task where the birth fails after that.
    """
    a = LSM.asm("task_alloc")
    key, value = a.stack(TGID, "tgid"), a.stack(4, "tag")
    out = a.label("out")
    a.mov(R6, R1)
    a.ldx(R1, u64[R6 + 8])
    a.jset(R1, _CLONE_THREAD, out)
    find_traced(a, key, out)
    a.ldx(R1, u32[R0])
    a.stx(u32[value], R1)
    a.ldx(R9, u64[R6])
    _mark(a, value)
    a.bind(out)
    a.ldx(R0, u64[R6 + 16])
    a.exit_()
    return a.build()


def bprm_creds_for_exec() -> Program:
    """``bprm_creds_for_exec(bprm)``: a thread that execs is about to become the leader, and marked before it does."""
    a = LSM.asm("bprm_creds_for_exec")
    key, value = a.stack(TGID, "tgid"), a.stack(4, "tag")
    out = a.label("out")
    a.mov(R6, R1)
    find_traced(a, key, out)
    a.ldx(R1, u32[R0])
    a.stx(u32[value], R1)
    a.call("get_current_task_btf")
    a.mov(R9, R0)
    a.jeq(R9, R8, out)  # it is the leader
    _mark(a, value)
    a.bind(out)
    a.ldx(R0, u64[R6 + 8])
    a.exit_()
    return a.build()


def sched_process_exec(*, name: str = "sched_process_exec") -> Program:
    """``sched_process_exec(task, old_pid, bprm)``: a thread that execs becomes the leader; the marked one is gone.

    Args:
        name: of a copy.
    """
    a = Asm("tp_btf/sched_process_exec", name=name, types=KERNEL)
    key, value = a.stack(TGID, "tgid"), a.stack(4, "tag")
    out = a.label("out")
    a.ldx(R9, u64[R1])
    a.ldx(R2, u64[R1 + 8])
    task = a.typed(R9, "task_struct")
    a.load(R1, task.pid)
    a.jump32(R1, "==", R2, out)  # it was the leader before
    a.load(R1, task.tgid)
    a.stx(key.tgid, R1)
    a.call("map_lookup_elem", TRACED, key)
    a.jeq(R0, 0, out)
    a.ldx(R1, u32[R0])
    a.stx(u32[value], R1)
    _mark(a, value)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def sched_process_exit(*, name: str = "sched_process_exit") -> Program:
    """``sched_process_exit(task)``: runs for each thread; the process goes with the last one, not with its leader.

    Args:
        name: of a copy.
    """
    a = Asm("raw_tp/sched_process_exit", name=name, types=KERNEL)
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


def _mark(a: Asm, tag: View) -> None:
    """Mark the task in r9, if the others are; when that fails, all are searched by number from now on. Clobbers r7."""
    a.ld_map_value(R7, SET)
    marked = a.view(R7, SETTINGS).marked
    a.ldx(R1, marked)
    with a.if_(R1, "!=", 0):
        a.call("task_storage_get", MARKS, R9, 0, _CREATE)
        with a.if_(R0, "==", 0):
            a.st(marked, 0)
        with a.else_():
            a.ldx(R1, u32[tag])
            a.stx(a.view(R0, MEMBER).tag, R1)
