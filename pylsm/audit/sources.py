"""Where events come from: the same records by different programs, best first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from pylsm.asm import Program
from pylsm.audit.programs import family, syscalls
from pylsm.audit.programs.file_open import file_open
from pylsm.audit.programs.socket_connect import socket_connect

__all__ = ["SOURCES", "Source", "Variant"]


class Variant(NamedTuple):
    """What programs may use of a kernel; the first variant that the verifier takes is used."""

    name: str
    path: str
    typed_task: bool
    fetching_atomics: bool


class Source(NamedTuple):
    """A way to see events.

    Attributes:
        name: as given to ``--source``.
        blind_spots: what it cannot see, for the operator.
        variants: in the order they are tried.
        programs: the hook programs of a variant; the family's come before them.
    """

    name: str
    blind_spots: tuple[str, ...]
    variants: tuple[Variant, ...]
    programs: Callable[[Variant], list[Program]]


def _lsm(variant: Variant) -> list[Program]:
    return [socket_connect(), file_open(variant.path, typed_task=variant.typed_task, atomics=variant.fetching_atomics)]


def _raw_tracepoint(variant: Variant) -> list[Program]:
    return [syscalls.sys_enter(), syscalls.sys_exit(typed_task=variant.typed_task, atomics=variant.fetching_atomics)]


def family_programs() -> list[Program]:
    """The programs that keep the family: attached before any process is added to it."""
    return [family.sched_process_fork(), family.sched_process_exit()]


SOURCES: Final = (
    Source(
        "lsm",
        (
            "opens and connects that fail before the kernel's security hooks (no such file, mode bits)",
            "O_PATH opens (they give no access; re-opening through /proc/self/fd is seen)",
            "sendto and sendmsg without connect, TCP Fast Open among them",
        ),
        (
            Variant("d_path", "d_path", True, True),
            # before 6.1 the verifier refuses bpf_d_path in this hook; before 5.12 there are no fetching atomics
            Variant("walk", "walk", False, False),
        ),
        _lsm,
    ),
    Source(
        "raw_tracepoint",
        (
            *syscalls.BLIND_SPOTS,
            "opens that fail, O_PATH opens",
            "sendto and sendmsg without connect, TCP Fast Open among them",
        ),
        (Variant("walk", "walk", True, True), Variant("walk-5.10", "walk", False, False)),
        _raw_tracepoint,
    ),
)
