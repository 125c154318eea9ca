"""What processes begin and end as: programs at the scheduler's tracepoints, the same for all sources."""

from __future__ import annotations

from pylsm.asm import R0, R1, R3, R6, R7, R8, R9, Asm, Program, u64
from pylsm.audit.programs import texts
from pylsm.audit.programs.common import KERNEL, Probe
from pylsm.audit.programs.hooks import Hook
from pylsm.audit.records import (
    ARGUMENTS_MOST,
    EXEC,
    EXIT,
    FLAG_ARGUMENTS,
    FORK,
    INTERPRETER_MOST,
    KIND_EXEC,
    KIND_EXIT,
    KIND_FORK,
    NAME_MOST,
)
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from pylsm.audit.sources import Options, Variant

__all__ = ["record_exec", "record_exit", "record_fork"]

_SIGNAL_GROUP_EXIT = 4  # include/linux/sched/signal.h


def _begin(tracepoint: str, name: str, hook: Hook, variant: Variant, options: Options) -> tuple[Asm, Probe]:
    marks = hook.typed and variant.typed_task
    a = Asm(f"{'tp_btf' if marks else 'raw_tp'}/{tracepoint}", name=name, types=KERNEL)
    return a, Probe(a, None, typed_task=variant.typed_task, marks=marks, select=options.by_event)


def record_exec(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sched_process_exec(task, old_pid, bprm)``: the task is a new program, whose arguments are on its stack."""
    a, probe = _begin("sched_process_exec", "exec", hook, variant, options)
    word, kept = a.stack(8, "word"), a.stack(8, "kept")
    resumed, no_script, all_there, some = (
        a.label(name) for name in ("resumed", "no script", "all there", "some missing")
    )
    probe.require_traced()
    scratch, event = texts.begin(probe, KIND_EXEC, EXEC, resumed, atomics=variant.fetching_atomics)
    task = probe.current_task(R9)
    for field, to in (
        (task.real_parent.tgid, event.ppid),
        (task.nsproxy.mnt_ns.ns.inum, event.mnt_ns),
        (task.nsproxy.net_ns.ns.inum, event.net_ns),
        (task.cred.euid.val, event.euid),
    ):
        probe.read_task(R1, field, word)
        a.stx(to, R1)
    a.call("get_current_cgroup_id")
    a.stx(event.cgroup, R0)
    a.st(u64[event["path_size"]], 0)  # and those of name and interpreter
    a.ldx(R3, u64[R6 + 16])
    a.probe_load(R1, a.typed(R3, "linux_binprm").file, word)
    a.stx(scratch.file, R1)
    a.bind(resumed)
    texts.path(probe, "exec", event, EXEC, word)
    a.stx(event.path_size, R9)

    # A script has become its interpreter: the names of the two differ.
    a.ldx(R7, u64[R6 + 16])
    bprm = a.typed(R7, "linux_binprm")
    a.probe_load(R0, bprm.filename, word)
    a.stx(u64[kept], R0)
    a.probe_load(R7, bprm.interp, word)
    a.ldx(R3, u64[kept])
    a.jeq(R7, R3, no_script)
    texts.append(probe, event, EXEC, R3, NAME_MOST)
    a.stx(event.name_size, R0)
    texts.append(probe, event, EXEC, R7, INTERPRETER_MOST)
    a.stx(event.interpreter_size, R0)
    a.bind(no_script)

    # Arguments lie one behind the other, each with its NUL.
    a.call("get_current_task")
    a.mov(R7, R0)
    mm = a.probe_load(R7, a.typed(R7, "task_struct").mm, word)
    assert mm is not None
    a.probe_load(R0, mm.arg_start, word)
    a.stx(u64[kept], R0)
    a.probe_load(R7, mm.arg_end, word)
    a.ldx(R3, u64[kept])
    a.sub(R7, R3)
    a.jeq(R7, 0, all_there)
    with a.if_(R7, ">", ARGUMENTS_MOST):
        a.mov(R7, ARGUMENTS_MOST)
        a.ldx(R1, event.flags)
        a.or_(R1, FLAG_ARGUMENTS)
        a.stx(event.flags, R1)
    a.address(R1, event["texts"])
    a.add(R1, R9)
    a.call("probe_read_user", None, R7, None)
    a.jne(R0, 0, some)
    a.add(R9, R7)
    a.ja(all_there)
    a.bind(some)
    a.ldx(R1, event.flags)
    a.or_(R1, FLAG_ARGUMENTS)
    a.stx(event.flags, R1)
    a.bind(all_there)
    texts.send(probe, event, EXEC)
    probe.finish("recorded")
    return a.build()


def record_exit(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sched_process_exit(task)``: the last thread of a process ends; attached before the program of the family that
    takes it out."""
    a, probe = _begin("sched_process_exit", "exit", hook, variant, options)
    word = a.stack(8, "word")
    thread, group = a.label("not the last thread"), a.label("whole group")
    task = probe.current_task(R9)
    probe.read_task(R1, task.signal.live.counter, word)
    a.jne(R1, 0, thread)
    probe.require_traced()
    event = probe.reserve(EXIT, KIND_EXIT)
    task = probe.current_task(R9)
    probe.read_task(R1, task.group_leader.start_boottime, word)
    a.stx(event.began, R1)
    # As wait_task_zombie has it: the code of the whole group, or else that of its leader.
    probe.read_task(R1, task.signal.group_exit_code, word)
    a.stx(event.code, R1)
    probe.read_task(R1, task.signal.flags, word)
    a.jset(R1, _SIGNAL_GROUP_EXIT, group)
    probe.read_task(R1, task.group_leader.exit_code, word)
    a.stx(event.code, R1)
    a.bind(group)
    a.call("ringbuf_submit", R8, 0)
    probe.finish("recorded")
    a.bind(thread)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def record_fork(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sched_process_fork(parent, child)``: runs in the parent before the child is woken, for threads too."""
    a, probe = _begin("sched_process_fork", "fork", hook, variant, options)
    word = a.stack(8, "word")
    thread = a.label("a thread")
    a.ldx(R9, u64[R6 + 8])
    a.call("get_current_pid_tgid")
    a.rsh(R0, 32)
    a.mov(R7, R0)
    a.probe_load(R1, a.typed(R9, "task_struct").tgid, word)
    a.jeq(R1, R7, thread)
    probe.require_traced()
    event = probe.reserve(FORK, KIND_FORK)
    a.ldx(R9, u64[R6 + 8])
    child = a.typed(R9, "task_struct")
    a.probe_load(R1, child.tgid, word)
    a.stx(event.child, R1)
    a.probe_load(R1, child.real_parent.tgid, word)
    a.stx(event.parent, R1)
    a.call("ringbuf_submit", R8, 0)
    probe.finish("recorded")
    a.bind(thread)
    a.mov(R0, 0)
    a.exit_()
    return a.build()
