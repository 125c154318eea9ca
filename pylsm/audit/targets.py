"""Which processes: pids as the user sees them → tgids as the kernel side sees them.

The kernel side compares tgids of the initial pid namespace, where a number means one process only. A user inside a
container counts differently: see `pylsm.audit.pidns`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from pylsm.errors import PylsmError
from pylsm.light import NamedTuple

__all__ = [
    "NoSuchProcess",
    "Process",
    "descendants",
    "in_initial_pid_namespace",
    "lives",
    "processes",
    "resolve",
]

#: Place of num_threads among the fields of /proc/PID/stat behind the name, which may hold anything (proc(5)).
_THREADS = 17
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO (include/linux/proc_ns.h)


class NoSuchProcess(PylsmError):
    """A pid that is nobody's, or no longer."""


class Process(NamedTuple):
    """A process as /proc shows it: pids are those of the pid namespace that /proc was mounted in."""

    pid: int
    parent: int
    uid: int
    comm: bytes
    #: its pids, from the namespace of /proc to its own
    namespace_pids: tuple[int, ...]


def in_initial_pid_namespace() -> bool:
    """Whether pids here are the kernel's own."""
    return os.stat("/proc/self/ns/pid").st_ino == _INITIAL_PID_NAMESPACE


def resolve(pid: int) -> Process:
    """The process that a pid, or the id of one of its threads, belongs to.

    Raises:
        NoSuchProcess: there is none; if the number is a pid inside a container, the message says whose.
    """
    found = _read(pid)
    if found is not None:
        return found
    inside = [p for p in processes() if pid in p.namespace_pids[1:]]
    if inside:
        whose = ", ".join(f"{p.pid} ({p.comm.decode(errors='backslashreplace')})" for p in inside)
        raise NoSuchProcess(
            f"no process has pid {pid} here; inside another pid namespace it is process {whose}",
            hint="name it by the pid it has here, for example -p " + str(inside[0].pid),
        )
    raise NoSuchProcess(f"no process has pid {pid}", hint="ps -e lists the processes and their pids")


def processes() -> Iterator[Process]:
    """All processes that /proc shows; those that end meanwhile are left out."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            found = _read(int(entry))
            if found is not None:
                yield found


def lives(pid: int) -> bool:
    """Whether there is such a process and it can still do something."""
    return _read(pid) is not None


def descendants(roots: Iterable[int]) -> set[int]:
    """The pids of ``roots`` and of all their descendants that live now."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    work = list(roots)
    while work:
        pid = work.pop()
        if pid not in found:
            found.add(pid)
            work.extend(children.get(pid, ()))
    return found


def _parents() -> Iterator[tuple[int, int]]:
    """(pid, its parent's) of all processes, zombies left out; from what is the cheapest to read of each."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb", buffering=0) as file:
                fields = file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if len(fields) > _THREADS and (fields[0] not in (b"Z", b"X") or int(fields[_THREADS]) > 1):
            yield int(entry), int(fields[1])


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/status", "rb") as status:
            fields = dict(line.split(b":", 1) for line in status.read().splitlines() if b":" in line)
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie can do nothing any more, unless only its first thread has ended.
    if fields[b"State"].split()[0] in (b"Z", b"X") and int(fields[b"Threads"]) <= 1:
        return None
    return Process(
        int(fields[b"Tgid"]),
        int(fields[b"PPid"]),
        int(fields[b"Uid"].split()[0]),
        _unescape(fields[b"Name"].strip(b"\t")),
        tuple(int(n) for n in fields.get(b"NSpid", fields[b"Tgid"]).split()),
    )


def _unescape(name: bytes) -> bytes:
    # /proc/PID/status escapes exactly these two (fs/proc/array.c, proc_task_name).
    return name.replace(b"\\n", b"\n").replace(b"\\\\", b"\\")
