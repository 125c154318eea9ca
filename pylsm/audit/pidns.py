"""Pids of this process's pid namespace → tgids of the initial one, which is what the kernel side compares.

On the host they are the same. Inside a container the kernel has to be asked, by a task iterator.
"""

from __future__ import annotations

import functools
import os
import struct

from pylsm.audit.targets import NoSuchProcess, in_initial_pid_namespace
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING
from pylsm.loader import BpfError, LoadedProgram
from pylsm.loader.link import Link

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["from_initial", "initial_tgid", "to_initial"]


def to_initial(pids: Iterable[int]) -> list[int]:
    """The tgids in the initial pid namespace of processes named by their pids here; those that ended are left out."""
    if in_initial_pid_namespace():
        return list(pids)
    table = _table()
    return [table[pid] for pid in pids if pid in table]


def from_initial(tgids: Iterable[int]) -> list[int]:
    """The inverse of `to_initial`: pids here of processes named by their tgids in the initial pid namespace."""
    if in_initial_pid_namespace():
        return list(tgids)
    wanted = set(tgids)
    return [pid for pid, tgid in _table().items() if tgid in wanted]


def initial_tgid() -> int:
    """This process's tgid in the initial pid namespace."""
    found = to_initial([os.getpid()])
    if not found:
        raise NoSuchProcess(f"the kernel does not list this process, {os.getpid()}, in its own pid namespace")
    return found[0]


def _table() -> dict[int, int]:
    return dict(struct.iter_unpack("=II", _iterator().read()))


@functools.cache
def _iterator() -> Link:
    """The task iterator, kept for the life of this process: loading another takes a privilege it may have given up."""
    from pylsm.audit.programs.task_iter import pid_table

    namespace = os.stat("/proc/self/ns/pid").st_ino
    try:
        with LoadedProgram.load(pid_table(namespace), maps={}) as program:
            return program.attach()
    except BpfError as error:
        raise PylsmError(
            f"pylsm runs inside a pid namespace and this kernel refuses the task iterator that translates pids: "
            f"{error}",
            hint="run pylsm in the host's pid namespace, and name processes by their pids there",
        ) from error
