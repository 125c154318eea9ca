"""The fallback: raw tracepoints at the entry and exit of system calls, where LSM programs cannot be attached.

Weaker than the hooks: it sees system calls, not what the kernel does (no io_uring, no 32-bit calls, no file that execve
itself opens), and reads a connect's address before the kernel does.
"""

from __future__ import annotations

from pylsm.arch import Architecture, with_registers
from pylsm.asm import R0, R1, R2, R3, R6, R8, R9, Asm, Label, Program, View, u64
from pylsm.asm.typed import Typed
from pylsm.audit.programs.common import KERNEL, Probe, field_of
from pylsm.audit.programs.file_open import open_walker, walk_new
from pylsm.audit.programs.socket_connect import READ, record_connect
from pylsm.audit.records import KIND_CONNECT
from pylsm.audit.sources import PLAIN, Options

__all__ = ["OPENS", "ignore_compat", "socket_behind", "sys_enter", "sys_exit", "sys_exit_walker"]

#: The calls that open a file and return its descriptor.
OPENS = ("open", "creat", "openat", "open_by_handle_at", "openat2")
_SOCKADDR_STORAGE = 128  # bytes; connect takes no longer address
_SOCKFS = 0x534F434B
_FMODE_PATH = 0x4000  # O_PATH: the LSM hook does not see it either


def sys_enter(
    *,
    arch: Architecture | None = None,
    call: str = "connect",
    kind: int = KIND_CONNECT,
    options: Options = PLAIN,
) -> Program:
    """``sys_enter(regs, id)``: connect, with the address as user space gave it, even if the call never returns.

    Args:
        arch: the machine, by default this one.
        call, kind: another call that is given an address in the same way, and its kind of record.
        options: what was asked for.
    """
    arch = arch or with_registers()
    a = Asm("raw_tp/sys_enter", name="sys_enter" if call == "connect" else f"sys_enter_{call}", types=KERNEL)
    untouched = a.label("other call")
    a.ldx(R0, u64[R1 + 8])
    a.jne(R0, arch.call(call), untouched)
    probe = Probe(a, verdict=None, select=options.by_event)
    word, address = a.stack(8, "word"), a.stack(READ, "address")
    probe.require_traced()
    ignored = a.label("ignored")
    a.ldx(R8, u64[R6])
    regs = a.typed(R8, "pt_regs")
    ignore_compat(probe, arch, word, ignored)
    a.probe_load(R9, field_of(regs, arch.call_arguments[2]), word)
    a.jump32(R9, ">", _SOCKADDR_STORAGE, ignored)  # refused before any hook
    for offset in range(0, READ, 8):
        a.st(u64[address + offset], 0)
    a.probe_load(R3, field_of(regs, arch.call_arguments[1]), word)
    a.mov32(R2, R9)
    with a.if_(R2, ">", READ):
        a.mov(R2, READ)
    a.call("probe_read_user", address, None, None)
    with a.if_(R0, "!=", 0):
        probe.leave("unreadable")
    record_connect(probe, address, kind, options)
    a.bind(ignored)
    probe.finish("ignored")
    a.bind(untouched)
    a.mov(R0, 0)
    a.exit_()
    return a.build()


def sys_exit(*, typed_task: bool = True, arch: Architecture | None = None, options: Options = PLAIN) -> Program:
    """``sys_exit(regs, ret)``: the file behind the descriptor that an open has just returned.

    Args:
        typed_task: see `file_open`.
        arch: the machine, by default this one.
        options: what was asked for.
    """
    arch = arch or with_registers()
    a = Asm("raw_tp/sys_exit", types=KERNEL)
    untouched, wanted, ignored, unreadable = (
        a.label(name) for name in ("other call", "an open", "ignored", "unreadable")
    )
    word = a.stack(8, "word")
    probe = Probe(a, verdict=None, typed_task=typed_task, select=options.by_event)
    a.ldx(R9, u64[R6 + 8])
    a.jslt(R9, 0, untouched)
    a.ldx(R8, u64[R6])
    a.probe_load(R1, field_of(a.typed(R8, "pt_regs"), arch.call_number), word)
    for name in OPENS:
        if arch.call(name) >= 0:
            a.jeq(R1, arch.call(name), wanted)
    a.bind(untouched)
    a.mov(R0, 0)
    a.exit_()

    a.bind(wanted)
    probe.require_traced()
    ignore_compat(probe, arch, word, ignored)
    _find_returned(probe, word, unreadable)
    file = a.typed(R9, "file")
    a.probe_load(R1, file.f_mode, word)
    a.jset(R1, _FMODE_PATH, ignored)
    walk_new(probe, file, lambda dst, field: a.probe_load(dst, field, word), word, options=options)
    a.bind(unreadable)
    probe.leave("unreadable")
    a.bind(ignored)
    probe.finish("ignored")
    return a.build()


def sys_exit_walker(*, typed_task: bool = True, atomics: bool = True, options: Options = PLAIN) -> Program:
    """The walker of `sys_exit`; for the arguments see `open_walker`."""
    a = Asm("raw_tp/sys_exit", name="sys_exit_walk", types=KERNEL)
    return open_walker(
        a, _find_returned, "walk", may_miss=True, typed_task=typed_task, atomics=atomics, options=options
    )


def _find_returned(probe: Probe, word: View, missing: Label) -> None:
    """The file behind the descriptor that the call returns, to r9; clobbers r0-r5 and r8."""
    a = probe.a
    a.ldx(R9, u64[R6 + 8])
    task = probe.current_task(R8)
    fdt = a.probe_load(R8, task.files.fdt, word)
    assert fdt is not None
    a.probe_load(R1, fdt.max_fds, word)
    a.jge(R9, R1, missing)
    a.probe_load(R3, fdt.fd, word)
    a.lsh(R9, 3)
    a.add(R3, R9)
    a.call("probe_read_kernel", word, 8, None)
    a.ldx(R9, u64[word])
    a.jeq(R9, 0, missing)


def ignore_compat(probe: Probe, arch: Architecture, word: View, ignored: Label) -> None:
    """Jump to ``ignored`` for a 32-bit call; clobbers r0-r5."""
    a = probe.a
    field, bits = arch.compat
    a.call("get_current_task")
    a.mov(R3, R0)
    a.probe_load(R1, field_of(a.typed(R3, "task_struct"), field), word)
    a.jset(R1, bits, ignored)


def socket_behind(probe: Probe, word: View, other: Label) -> Typed:
    """r8 = the ``struct sock`` of the descriptor in r9; goes to ``other`` where it is that of no socket. Clobbers r0-r5
    and r9."""
    a = probe.a
    a.and_(R9, 0x7FFFFFFF)
    probe.current_task(R8)
    fdt = a.probe_load(R8, a.typed(R8, "task_struct").files.fdt, word)
    assert fdt is not None
    a.probe_load(R1, fdt.max_fds, word)
    a.jge(R9, R1, other)
    a.probe_load(R3, fdt.fd, word)
    a.lsh(R9, 3)
    a.add(R3, R9)
    a.call("probe_read_kernel", word, 8, None)
    a.ldx(R9, u64[word])
    a.jeq(R9, 0, other)
    file = a.typed(R9, "file")
    a.probe_load(R1, file.f_inode.i_sb.s_magic, word)
    a.jne(R1, _SOCKFS, other)
    sock = a.probe_load(R8, file.private_data.sk, word)
    assert sock is not None
    return sock
