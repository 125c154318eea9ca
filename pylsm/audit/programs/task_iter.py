"""``iter/task``: every process with its pid in a given pid namespace and its tgid in the initial one."""

from __future__ import annotations

from pylsm.asm import R0, R1, R3, R6, R7, R8, R9, Asm, Program, u32, u64
from pylsm.btf import declare

__all__ = ["pid_table"]

_MAX_LEVEL = 32  # MAX_PID_NS_LEVEL (include/linux/pid_namespace.h)

_KERNEL = declare(
    {
        "bpf_iter_meta": {"seq": "struct seq_file *"},
        "task_struct": {"pid": "int", "tgid": "int", "thread_pid": "struct pid *"},
        "pid": {"level": "unsigned int", "numbers": "struct upid[1]"},
        "upid": {"nr": "int", "ns": "struct pid_namespace *"},
        "pid_namespace": {"ns": "struct ns_common"},
        "ns_common": {"inum": "unsigned int"},
    }
)


def pid_table(namespace: int) -> Program:
    """Writes two u32 per process: its pid in the namespace, its tgid in the initial namespace.

    Args:
        namespace: inode number of the pid namespace, as ``stat /proc/self/ns/pid`` gives it.
    """
    a = Asm("iter/task", types=_KERNEL)
    word, row = a.stack(8, "word"), a.stack(8, "row")
    out = a.label("out")
    found = a.label("found")
    a.mov(R6, R1)
    a.ldx(R9, u64[R6 + 8])
    a.jeq(R9, 0, out)  # the end of the iteration
    task = a.typed(R9, "task_struct")
    a.load(R7, task.tgid)
    a.load(R1, task.pid)
    a.jne(R1, R7, out)  # a thread
    a.stx(u32[row + 4], R7)
    a.probe_load(R8, task.thread_pid, word)
    pid = a.typed(R8, "pid")
    a.probe_load(R7, pid.level, word)
    a.address(R8, pid.numbers)
    upid = a.typed(R8, "upid")
    with a.loop(R9, _MAX_LEVEL + 1):
        a.jgt(R9, R7, out)  # not in this namespace
        a.probe_load(R3, upid.ns, word)
        a.probe_load(R1, a.typed(R3, "pid_namespace").ns.inum, word)
        a.lddw(R3, namespace)
        a.jeq(R1, R3, found)
        a.ld_type(R1, "upid", "size")
        a.add(R8, R1)
    a.ja(out)
    a.bind(found)
    a.probe_load(R1, upid.nr, word)
    a.stx(u32[row], R1)
    a.ldx(R3, u64[R6])
    a.load(R1, a.typed(R3, "bpf_iter_meta").seq)
    a.call("seq_write", None, row, 8)
    a.bind(out)
    a.mov(R0, 0)
    a.exit_()
    return a.build()
