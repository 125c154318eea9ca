"""What a process does to others, or asks of the kernel by a number: one record of two numbers (ACT)."""

from __future__ import annotations

from collections.abc import Callable

from pylsm.arch import with_registers
from pylsm.asm import R0, R1, R3, R6, R8, R9, Asm, Label, Program, Register, View, u32, u64
from pylsm.audit.programs.common import KERNEL, Probe, field_of
from pylsm.audit.programs.hooks import Hook, at_entry
from pylsm.audit.programs.syscalls import ignore_compat, socket_behind
from pylsm.audit.records import ACT, KIND_BPF, KIND_KILL, KIND_LISTEN, KIND_PTRACE, LISTEN
from pylsm.light import TYPE_CHECKING
from pylsm.record import Record

if TYPE_CHECKING:
    from pylsm.audit.sources import Options, Variant

__all__ = ["bpf", "bpf_call", "listen_call", "ptrace_access_check", "socket_listen", "task_kill"]

_PTRACE_MODE_ATTACH = 2  # include/linux/ptrace.h
_AF_INET, _AF_INET6 = 2, 10


def ptrace_access_check(hook: Hook, variant: Variant, options: Options) -> Program:
    """``ptrace_access_check(child, mode)``: to look into a process as ptrace does; to read its /proc is no such thing,
    and a run for that ends before it is counted."""
    a = hook.asm("ptrace_access_check")
    other = a.label("no attachment")
    probe = _probe(a, hook, variant, options, 2)
    hook.argument(a, R1, 1, None)
    a.and_(R1, _PTRACE_MODE_ATTACH)
    a.jeq(R1, 0, other)
    probe.require_traced()
    hook.argument(a, R9, 0, None)
    _act(probe, KIND_PTRACE, target=R9)
    _leave_uncounted(a, other, hook, 2)
    return a.build()


def task_kill(hook: Hook, variant: Variant, options: Options) -> Program:
    """``task_kill(p, info, sig, cred)``: a signal to a process."""
    a = hook.asm("task_kill")
    probe = _probe(a, hook, variant, options, 4)
    probe.require_traced()
    hook.argument(a, R9, 0, None)
    _act(probe, KIND_KILL, target=R9, number=lambda: hook.argument(a, R1, 2, None))
    return a.build()


def bpf(hook: Hook, variant: Variant, options: Options) -> Program:
    """``security_bpf(cmd, attr, size)``: bpf(2). At function entry for LSM hooks too: from 6.15 on it has an argument
    more, and where the verdict lies is known at an LSM hook only by how many there are."""
    hook = at_entry(hook)
    a = hook.asm("bpf")
    probe = _probe(a, hook, variant, options, None)
    probe.require_traced()
    a.mov(R9, 0)
    _act(probe, KIND_BPF, number=lambda: hook.argument(a, R1, 0, None))
    return a.build()


def bpf_call(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sys_enter(regs, id)``: bpf(2)."""
    a, probe, other, word = _call("bpf", variant, options)
    command = field_of(a.typed(R9, "pt_regs"), with_registers().call_arguments[0])
    _act(probe, KIND_BPF, number=lambda: a.probe_load(R1, command, word))
    _leave_uncounted(a, other, hook, None)
    return a.build()


def socket_listen(hook: Hook, variant: Variant, options: Options) -> Program:
    """``socket_listen(sock, backlog)``: a socket that is to be connected to."""
    a = hook.asm("socket_listen")
    word = a.stack(8, "word")
    probe = _probe(a, hook, variant, options, 2)
    probe.require_traced()
    hook.argument(a, R8, 0, None)
    a.probe_load(R8, a.typed(R8, "socket").sk, word)
    hook.argument(a, R9, 1, None)
    _listen(probe, word, a.label("no socket"))
    return a.build()


def listen_call(hook: Hook, variant: Variant, options: Options) -> Program:
    """``sys_enter(regs, id)``: listen(2)."""
    a, probe, other, word = _call("listen", variant, options)
    arch = with_registers()
    kept, ignored = a.stack(8, "backlog"), a.label("no socket")
    regs = a.typed(R9, "pt_regs")
    a.probe_load(R1, field_of(regs, arch.call_arguments[1]), word)
    a.stx(u64[kept], R1)
    a.probe_load(R9, field_of(regs, arch.call_arguments[0]), word)
    socket_behind(probe, word, ignored)
    a.ldx(R9, u64[kept])
    _listen(probe, word, ignored)
    _leave_uncounted(a, other, hook, None)
    return a.build()


def _probe(a: Asm, hook: Hook, variant: Variant, options: Options, verdict: int | None) -> Probe:
    marks = hook.typed and variant.typed_task
    return Probe(
        a, verdict if hook.verdict else None, typed_task=variant.typed_task, marks=marks, select=options.by_event
    )


def _call(name: str, variant: Variant, options: Options) -> tuple[Asm, Probe, Label, View]:
    """A program at the entry of system calls, up to where it is that call, of a traced process: registers in r9."""
    arch = with_registers()
    a = Asm("raw_tp/sys_enter", name=f"sys_enter_{name}", types=KERNEL)
    other, compat, mine = a.label("other call"), a.label("32-bit call"), a.label("64-bit call")
    word = a.stack(8, "word")
    a.ldx(R0, u64[R1 + 8])
    a.jne(R0, arch.call(name), other)
    probe = Probe(a, None, typed_task=variant.typed_task, select=options.by_event)
    probe.require_traced()
    ignore_compat(probe, arch, word, compat)
    a.ja(mine)
    a.bind(compat)
    probe.leave("ignored")
    a.bind(mine)
    a.ldx(R9, u64[R6])
    return a, probe, other, word


def _reserve(probe: Probe, kind: int, layout: Record, kept: View) -> View:
    """r8 = a record with its header, in the ring; r9 is kept. Clobbers r0-r5."""
    a = probe.a
    a.stx(u64[kept], R9)
    record = probe.reserve(layout, kind)
    a.ldx(R9, u64[kept])
    return record


def _act(
    probe: Probe, kind: int, *, target: Register | None = None, number: Callable[[], object] | None = None
) -> None:
    """Record an act, and end.

    Args:
        target: r9, with the task that it is done to.
        number: puts the number of interest into r1; may clobber r0-r5.
    """
    a = probe.a
    word, kept = a.stack(8, "act word"), a.stack(8, "act kept")
    record = _reserve(probe, kind, ACT, kept)
    if number is None:
        a.st(record.number, 0)
    else:
        number()
        a.stx(record.number, R1)
    if target is None:
        a.st(record.target, 0)
    else:
        a.probe_load(R1, a.typed(target, "task_struct").tgid, word)
        a.stx(record.target, R1)
    a.call("ringbuf_submit", R8, 0)
    probe.finish("recorded")


def _listen(probe: Probe, word: View, ignored: Label) -> None:
    """Record that the socket in r8 listens, with the backlog in r9, and end; ``ignored`` is bound here."""
    a = probe.a
    kept, sock_kept = a.stack(8, "listen kept"), a.stack(8, "socket")
    internet, done = a.label("of the internet"), a.label("done")
    sock = a.typed(R8, "sock")
    common = getattr(sock, "__sk_common")
    a.probe_load(R1, common.skc_family, word)
    a.stx(u64[sock_kept], R8)
    a.jeq(R1, _AF_INET, internet)
    a.jne(R1, _AF_INET6, ignored)
    a.bind(internet)
    record = _reserve(probe, KIND_LISTEN, LISTEN, kept)
    a.stx(record.backlog, R9)
    a.ldx(R9, u64[sock_kept])
    common = getattr(a.typed(R9, "sock"), "__sk_common")
    a.probe_load(R1, common.skc_num, word)
    a.stx(record.port, R1)
    a.probe_load(R1, common.skc_family, word)
    a.stx(record.family, R1)
    a.st(u64[record["address"]], 0)
    a.st(u64[record["address"] + 8], 0)
    is4 = a.label("IPv4")
    a.jeq(R1, _AF_INET, is4)
    a.address(R3, common.skc_v6_rcv_saddr)
    a.call("probe_read_kernel", record["address"], 16, None)
    a.ja(done)
    a.bind(is4)
    a.probe_load(R1, common.skc_rcv_saddr, word)
    a.stx(u32[record["address"]], R1)
    a.bind(done)
    a.call("ringbuf_submit", R8, 0)
    probe.leave("recorded")
    a.bind(ignored)
    probe.finish("ignored")


def _leave_uncounted(a: Asm, label: Label, hook: Hook, verdict: int | None) -> None:
    a.bind(label)
    if hook.verdict and verdict is not None:
        a.ldx(R0, u64[R6 + 8 * verdict])
    else:
        a.mov(R0, 0)
    a.exit_()
