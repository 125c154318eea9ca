"""Who did it, besides pid and name: a table of processes, fed by the records of fork, exec and exit, and by /proc.

The records of connects and opens stay as small as they are: what is said of a process here is what it was when it was
attached, forked or executed a program last. A process that changes its cgroup or its network namespace in between is
shown where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from pylsm.audit.cgroups import container_of
from pylsm.audit.events import Context, Destination, Event, Exec, Exit, Fork, set_context
from pylsm.audit.network import Routes, namespace_of, scope_of
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["READABLE", "Processes"]

#: What is read after the attach: where cgroups made meanwhile are looked up.
READABLE: Final = ("/sys/fs/cgroup",)
_CGROUPS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_MAX_DESTINATIONS = 65_536


class _Process:
    """What is known of a process; None: nothing."""

    __slots__ = ("cgroup_id", "container", "exe", "net_ns", "ppid", "shown", "uid")

    def __init__(
        self,
        ppid: int | None = None,
        exe: bytes | None = None,
        cgroup_id: int | None = None,
        container: str | None = None,
        net_ns: int | None = None,
    ) -> None:
        self.ppid = ppid
        self.exe = exe
        self.cgroup_id = cgroup_id
        self.container = container
        self.net_ns = net_ns
        self.uid = -1  # of `shown`
        self.shown = Context(None, None, None, None, None, None)


class Processes:
    """The table.

    Args:
        routes: of network namespaces, by which source address and interface of a destination are found.
    """

    def __init__(self, routes: Routes | None = None) -> None:
        self._known: dict[int, _Process] = {}
        self._stranger = _Process()
        self._users = _users()
        self._containers: dict[int, str | None] = {}
        self._routes = routes or Routes()
        self._where: dict[tuple[int | None, bytes], tuple[str | None, str | None, str]] = {}

    def seed(self, pid: int) -> None:
        """Take a running process from /proc, by its pid in the initial pid namespace, which has to be that of /proc."""
        process = _Process()
        for read in (_read_stat, _read_exe, _read_cgroup, _read_net_ns):
            try:
                read(process, f"/proc/{pid}")
            except (OSError, ValueError, IndexError):
                continue  # ended, or not to be looked into: that is left unknown
        if process.cgroup_id is not None:
            self._containers.setdefault(process.cgroup_id, process.container)
        if process.net_ns is not None:
            self._routes.learn(process.net_ns, f"/proc/{pid}/ns/net")
        self._known[pid] = process

    def join(self, events: Iterable[Event]) -> None:
        """Give each event its context, in the order in which they come."""
        known, stranger = self._known, self._stranger
        for event in events:
            kind = type(event)
            pid = event.pid
            if kind is Exec:
                self._exec(pid, event)  # type: ignore[arg-type]
            elif kind is Fork:
                self._fork(pid, event)  # type: ignore[arg-type]
            process = known.get(pid, stranger)
            uid = event.uid
            if process.uid != uid:
                process.uid = uid
                process.shown = Context(
                    process.ppid,
                    process.exe,
                    self._users.get(uid),
                    process.cgroup_id,
                    process.container,
                    process.net_ns,
                )
            where = self._to(process.net_ns, event) if isinstance(event, Destination) else None
            set_context(event, (process.shown, where))
            if kind is Exit:
                known.pop(pid, None)

    def _exec(self, pid: int, event: Exec) -> None:
        self._known[pid] = _Process(
            event.ppid, event.exe, event.cgroup_id, self._container(event.cgroup_id), event.net_ns
        )

    def _fork(self, pid: int, event: Fork) -> None:
        parent = self._known.get(pid, self._stranger)
        self._known[event.child_pid] = _Process(
            event.child_ppid, parent.exe, parent.cgroup_id, parent.container, parent.net_ns
        )

    def _container(self, cgroup_id: int) -> str | None:
        if cgroup_id not in self._containers:
            found = dict(_all_cgroups())
            self._containers.update(found)
            self._containers.setdefault(cgroup_id, None)
        return self._containers[cgroup_id]

    def _to(self, net_ns: int | None, event: Destination) -> tuple[str | None, str | None, str]:
        """(source address, interface, scope) of a destination."""
        key = (net_ns, event.address)
        found = self._where.get(key)
        if found is None:
            if len(self._where) >= _MAX_DESTINATIONS:
                self._where.clear()
            found = self._where[key] = (*self._routes.to(net_ns, event.address), scope_of(event.address))
        return found


def _read_stat(process: _Process, directory: str) -> None:
    with open(f"{directory}/stat", "rb") as file:
        process.ppid = int(file.read().rpartition(b")")[2].split()[1])


def _read_exe(process: _Process, directory: str) -> None:
    process.exe = os.readlink(os.fsencode(f"{directory}/exe"))


def _read_net_ns(process: _Process, directory: str) -> None:
    process.net_ns = namespace_of(directory, "net")


def _read_cgroup(process: _Process, directory: str) -> None:
    with open(f"{directory}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    process.container = next((name for name in (container_of(line[2]) for line in lines) if name), None)
    for number, _, path in lines:
        if number == "0":
            for root in _CGROUPS:
                if os.path.exists(f"{root}/cgroup.procs") or root != _CGROUPS[0]:
                    process.cgroup_id = os.stat(root + path).st_ino
                    return


def _all_cgroups() -> Iterable[tuple[int, str | None]]:
    """(id, container) of all cgroups of version 2."""
    root = next((root for root in _CGROUPS if os.path.exists(f"{root}/cgroup.procs")), None)
    if root is None:
        return
    for folder, _, _ in os.walk(root):
        try:
            yield os.stat(folder).st_ino, container_of(folder)
        except OSError:
            continue


def _users() -> dict[int, str]:
    """uid → name, of this host."""
    found: dict[int, str] = {}
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, uid = line.split(":")[:3] if line.count(":") >= 2 else ("", "", "")
                if uid.isdecimal():
                    found.setdefault(int(uid), name)
    except OSError:
        pass
    return found
