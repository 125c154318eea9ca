"""Which program records which kind of event: a row for each, as `pylsm.audit.events.KINDS` has one class for each."""

from __future__ import annotations

from collections.abc import Callable

from pylsm.asm import Program
from pylsm.audit.programs import syscalls
from pylsm.audit.programs.file_open import file_open, path_walker
from pylsm.audit.programs.hooks import Hook
from pylsm.audit.programs.socket_connect import socket_connect
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

    from pylsm.audit.sources import Options, Variant

__all__ = ["HOOKED", "ROWS", "SYSCALLS", "Row"]

#: The sources that stand where the kernel asks its security modules; and the one that sees system calls.
HOOKED: Final = ("lsm", "fentry", "kprobe")
SYSCALLS: Final = ("raw_tracepoint",)


class Row(NamedTuple):
    """The program of a kind of event.

    Attributes:
        event: the kind's name.
        hook: where it is entered: a security hook, without "security_", or a tracepoint.
        sources: names of the sources that it belongs to.
        make: the program, for a way to be entered, a variant and what was asked for.
        walker: the program that this one calls for a path, where it calls one.
    """

    event: str
    hook: str
    sources: tuple[str, ...]
    make: Callable[[Hook, Variant, Options], Program]
    walker: Callable[[Hook, Variant, Options], Program] | None = None


def _connect(hook: Hook, variant: Variant, options: Options) -> Program:
    return socket_connect(hook, typed_task=variant.typed_task, options=options)


def _open(hook: Hook, variant: Variant, options: Options) -> Program:
    return file_open(
        variant.path, hook, typed_task=variant.typed_task, atomics=variant.fetching_atomics, options=options
    )


def _open_walker(hook: Hook, variant: Variant, options: Options) -> Program:
    verdict = 1 if hook.verdict else None
    return path_walker(
        hook.section("file_open"), "file_open_walk", verdict, typed_task=variant.typed_task, options=options
    )


def _open_call(hook: Hook, variant: Variant, options: Options) -> Program:
    return syscalls.sys_exit(typed_task=variant.typed_task, atomics=variant.fetching_atomics, options=options)


def _open_call_walker(hook: Hook, variant: Variant, options: Options) -> Program:
    return path_walker("raw_tp/sys_exit", "sys_exit_walk", typed_task=variant.typed_task, options=options)


ROWS: Final = (
    Row("connect", "socket_connect", HOOKED, _connect),
    Row("connect", "sys_enter", SYSCALLS, lambda hook, variant, options: syscalls.sys_enter(options=options)),
    Row("open", "file_open", HOOKED, _open, _open_walker),
    Row("open", "sys_exit", SYSCALLS, _open_call, _open_call_walker),
)
