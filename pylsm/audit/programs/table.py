"""Which program records which kind of event: a row for each, as `pylsm.audit.events.KINDS` has one class for each."""

from __future__ import annotations

from collections.abc import Callable

from pylsm.asm import Program
from pylsm.audit.programs import acts, places, syscalls
from pylsm.audit.programs.file_open import file_open, file_walker
from pylsm.audit.programs.hooks import Hook
from pylsm.audit.programs.processes import record_exec, record_exit, record_fork
from pylsm.audit.programs.socket_connect import socket_bind, socket_connect
from pylsm.audit.programs.socket_sendmsg import sendto_call, socket_sendmsg
from pylsm.audit.records import KIND_BIND
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

    from pylsm.audit.sources import Options, Variant

__all__ = ["ALL", "HOOKED", "ROWS", "SYSCALLS", "Row"]

#: The sources that stand where the kernel asks its security modules; and the one that sees system calls.
HOOKED: Final = ("lsm", "fentry", "kprobe")
SYSCALLS: Final = ("raw_tracepoint",)
ALL: Final = (*HOOKED, *SYSCALLS)


class Row(NamedTuple):
    """The program of a kind of event.

    Attributes:
        event: the kind's name.
        hook: where it is entered: a security hook, without "security_", or a tracepoint.
        sources: names of the sources that it belongs to.
        make: the program, for a way to be entered, a variant and what was asked for.
        walker: the program that this one calls for a path, where it calls one.
        tracepoint: ``hook`` is a tracepoint for every source.
    """

    event: str
    hook: str
    sources: tuple[str, ...]
    make: Callable[[Hook, Variant, Options], Program]
    walker: Callable[[Hook, Variant, Options], Program] | None = None
    tracepoint: bool = False


def _connect(hook: Hook, variant: Variant, options: Options) -> Program:
    return socket_connect(hook, typed_task=variant.typed_task, options=options)


def _open(hook: Hook, variant: Variant, options: Options) -> Program:
    return file_open(variant.path, hook, typed_task=variant.typed_task, options=options)


def _sendto(hook: Hook, variant: Variant, options: Options) -> Program:
    return socket_sendmsg(hook, typed_task=variant.typed_task, options=options)


def _open_walker(hook: Hook, variant: Variant, options: Options) -> Program:
    return file_walker(
        variant.path, hook, typed_task=variant.typed_task, atomics=variant.fetching_atomics, options=options
    )


def _open_call(hook: Hook, variant: Variant, options: Options) -> Program:
    return syscalls.sys_exit(typed_task=variant.typed_task, options=options)


def _open_call_walker(hook: Hook, variant: Variant, options: Options) -> Program:
    return syscalls.sys_exit_walker(typed_task=variant.typed_task, atomics=variant.fetching_atomics, options=options)


def _sendto_call(hook: Hook, variant: Variant, options: Options) -> Program:
    return sendto_call(typed_task=variant.typed_task, options=options)


def _bind(hook: Hook, variant: Variant, options: Options) -> Program:
    return socket_bind(hook, typed_task=variant.typed_task, options=options)


def _bind_call(hook: Hook, variant: Variant, options: Options) -> Program:
    return syscalls.sys_enter(call="bind", kind=KIND_BIND, options=options)


ROWS: Final = (
    Row("connect", "socket_connect", HOOKED, _connect),
    Row("connect", "sys_enter", SYSCALLS, lambda hook, variant, options: syscalls.sys_enter(options=options)),
    Row("open", "file_open", HOOKED, _open, _open_walker),
    Row("open", "sys_exit", SYSCALLS, _open_call, _open_call_walker),
    Row("sendto", "socket_sendmsg", HOOKED, _sendto),
    Row("sendto", "sys_enter", SYSCALLS, _sendto_call),
    Row("exec", "sched_process_exec", ALL, record_exec, tracepoint=True),
    Row("exit", "sched_process_exit", ALL, record_exit, tracepoint=True),
    Row("fork", "sched_process_fork", ALL, record_fork, tracepoint=True),
    Row("bind", "socket_bind", HOOKED, _bind),
    Row("bind", "sys_enter", SYSCALLS, _bind_call),
    Row("listen", "socket_listen", HOOKED, acts.socket_listen),
    Row("listen", "sys_enter", SYSCALLS, acts.listen_call),
    Row("unlink", "path_unlink", HOOKED, places.path_unlink),
    Row("unlink", "path_rmdir", HOOKED, places.path_rmdir),
    Row("rename", "path_rename", HOOKED, places.path_rename),
    Row("mkdir", "path_mkdir", HOOKED, places.path_mkdir),
    Row("chmod", "path_chmod", HOOKED, places.path_chmod),
    Row("mmap", "mmap_file", HOOKED, places.mmap_file),
    Row("ptrace", "ptrace_access_check", HOOKED, acts.ptrace_access_check),
    Row("kill", "task_kill", HOOKED, acts.task_kill),
    Row("mount", "sb_mount", HOOKED, places.sb_mount),
    Row("mount", "move_mount", HOOKED, places.move_mount),
    Row("module", "kernel_module_request", HOOKED, places.kernel_module_request),
    Row("module", "module_load", ALL, places.module_load, tracepoint=True),
    Row("bpf", "bpf", HOOKED, acts.bpf),
    Row("bpf", "sys_enter", SYSCALLS, acts.bpf_call),
)
