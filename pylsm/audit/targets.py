"""Which processes: pids as the user sees them → tgids as the kernel side sees them.

The kernel side compares tgids of the initial pid namespace, where a number means one process only. A user inside a
container counts differently: see `pylsm.audit.pidns`.
"""

from __future__ import annotations

import os
from errno import ESRCH

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "NoSuchProcess",
    "Process",
    "descendants",
    "has_ended",
    "in_initial_pid_namespace",
    "lives",
    "pids_of_all",
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


def pids_of_all() -> list[int]:
    """The pids of all processes that /proc shows, zombies too."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def processes() -> Iterator[Process]:
    """All processes that /proc shows; those that end meanwhile are left out."""
    for pid in pids_of_all():
        found = _read(pid)
        if found is not None:
            yield found


def lives(pid: int) -> bool:
    """Whether there is such a process and it can still do something."""
    return _parent(pid) is not None


def has_ended(pid: int) -> bool:
    """Whether all threads of a process have ended; needs no sight of it in /proc."""
    import select

    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        return error.errno == ESRCH
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)  # pidfd_open(2): readable when it has
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)


def descendants(roots: Iterable[int]) -> set[int]:
    """The pids of ``roots`` and of all their descendants that live now.

    One that gets another parent just then may be missing; to be sure, look again.
    """
    roots = list(roots)
    before = _turnover()
    try:
        found = _reached(roots, _children)
    except OSError:  # no such list (CONFIG_PROC_CHILDREN), or one of them ended
        found = None
    # proc(5): the lists of children are whole only while no child ends. Then all processes are asked for their parents.
    if found is None or _turnover() != before:
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        found = _reached(roots, lambda pid: children.get(pid, ()))
    return found


def _reached(roots: list[int], children: Callable[[int], Iterable[int]]) -> set[int]:
    found: set[int] = set()
    work = roots[:]
    while work:
        pid = work.pop()
        if pid not in found:
            found.add(pid)
            work.extend(children(pid))
    return found


def _turnover() -> bytes:
    """Changes whenever a process or a thread is started, or is gone: their number, and the latest pid (proc(5))."""
    *_, tasks, latest = _contents("/proc/loadavg").split()
    return tasks.partition(b"/")[2] + b" " + latest


def _children(pid: int) -> list[int]:
    """The children of a process that live, as the kernel lists those of each of its threads."""
    threads = os.listdir(f"/proc/{pid}/task")
    listed = b" ".join(_contents(f"/proc/{pid}/task/{thread}/children") for thread in threads)
    return [child for child in map(int, listed.split()) if lives(child)]


def _contents(path: str) -> bytes:
    """A file of /proc, in fewer calls than `open` needs."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _parents() -> Iterator[tuple[int, int]]:
    """(pid, its parent's) of all processes, zombies left out; from what is the cheapest to read of each."""
    for pid in pids_of_all():
        parent = _parent(pid)
        if parent is not None:
            yield pid, parent


def _parent(pid: int) -> int | None:
    """The parent's pid of a process that lives; None for one that has ended."""
    try:
        fields = _contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # A zombie can do nothing any more, unless only its first thread has ended.
    if len(fields) <= _THREADS or (fields[0] in (b"Z", b"X") and int(fields[_THREADS]) <= 1):
        return None
    return int(fields[1])


def _read(pid: int) -> Process | None:
    try:
        status = _contents(f"/proc/{pid}/status")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)
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
