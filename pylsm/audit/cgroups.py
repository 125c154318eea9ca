"""Cgroups by the names that people have for them: a path, a systemd unit, a container.

Sources: cgroups(7), the kernel's cgroup-v2.rst; the names that container runtimes give to cgroups are those of docker,
containerd, CRI-O, podman (libpod), LXC and systemd-nspawn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Final

__all__ = ["Cgroup", "CgroupError", "container_of", "resolve", "resolve_container"]

#: Of hierarchies of version 1: the controller's name → that in the kernel's enum cgroup_subsys_id, best known first.
_CONTROLLERS: Final = {
    "pids": "pids",
    "memory": "memory",
    "cpu": "cpu",
    "cpuacct": "cpuacct",
    "cpuset": "cpuset",
    "blkio": "io",
    "devices": "devices",
    "freezer": "freezer",
    "net_cls": "net_cls",
    "net_prio": "net_prio",
    "perf_event": "perf_event",
    "hugetlb": "hugetlb",
    "rdma": "rdma",
    "misc": "misc",
}
_UNITS: Final = ("", ".service", ".scope", ".slice")

# A monitor's cgroup (crio-conmon-ID.scope) is not the container's.
_BY_ID: Final = re.compile(r"(?:docker-|cri-containerd-|crio-|libpod-|nerdctl-)?([0-9a-f]{64})(?:\.scope)?\Z")
_BY_NAME: Final = (
    re.compile(r"lxc\.payload\.(.+)\Z"),
    re.compile(r"machine-(.+)\.scope\Z"),
    re.compile(r"systemd-nspawn@(.+)\.service\Z"),
)
_DOCKER: Final = "/var/lib/docker/containers"
_PODMAN: Final = (
    "/var/lib/containers/storage/overlay-containers/containers.json",
    "~/.local/share/containers/storage/overlay-containers/containers.json",
)


class CgroupError(PylsmError):
    """A cgroup or a container that is not there, or cannot be told from others."""


class Cgroup(NamedTuple):
    """A cgroup.

    Attributes:
        path: its directory.
        id: the inode number of that, which is the kernel's number of the cgroup in its hierarchy.
        controller: as in the kernel's enum cgroup_subsys_id, of a hierarchy of version 1; "" in the unified one.
    """

    path: str
    id: int
    controller: str

    @property
    def exists(self) -> bool:
        """It is still there; one that was made anew with its name is another."""
        try:
            return os.stat(self.path).st_ino == self.id
        except OSError:
            return False

    def processes(self) -> set[int]:
        """The pids of the processes in it and below it, as seen here."""
        found: set[int] = set()
        for folder, _, _ in os.walk(self.path):
            try:
                with open(f"{folder}/cgroup.procs") as file:
                    found.update(int(line) for line in file)
            except (OSError, ValueError):
                continue  # gone meanwhile, or of threads: the processes stand in the one above
        return found - {0}  # of another pid namespace


class _Hierarchy(NamedTuple):
    root: str  # where it is mounted
    controller: str  # "" unified, "name=…" for one without controllers


def resolve(text: str) -> Cgroup:
    """The cgroup that is meant: a directory, a path from the root of a hierarchy, or the name of a systemd unit.

    Raises:
        CgroupError: there is none, or there are several.
    """
    hierarchies = _hierarchies()
    if not text.strip("/") and text != "/":
        raise CgroupError(f"{text!r} is no cgroup", hint="give a path below /sys/fs/cgroup, or the name of a unit")
    for hierarchy in sorted(hierarchies, key=lambda one: -len(one.root)):
        path = os.path.realpath(text)
        if (path + "/").startswith(hierarchy.root + "/") and os.path.isdir(path):
            return _cgroup(path, hierarchy, text)
    paths = [
        (path, hierarchy)
        for hierarchy in hierarchies
        for path in [os.path.normpath(f"{hierarchy.root}/{text}")]
        if os.path.isdir(path) and (path + "/").startswith(hierarchy.root + "/")
    ]
    if paths:
        return _cgroup(*paths[0], text)
    if "/" in text:
        raise _missing(text, hierarchies)
    for hierarchy in hierarchies:
        found = [path for path in _below(hierarchy) if os.path.basename(path) in [text + unit for unit in _UNITS]]
        if len(found) > 1:
            raise CgroupError(
                f"{text!r} can be {', '.join(found[:5])}{' and others' if len(found) > 5 else ''}", hint="give the path"
            )
        if found:
            return _cgroup(found[0], hierarchy, text)
    raise _missing(text, hierarchies)


def _missing(text: str, hierarchies: list[_Hierarchy]) -> CgroupError:
    from difflib import get_close_matches

    names: dict[str, str] = {}
    for hierarchy in hierarchies:
        for path in _below(hierarchy):
            names.setdefault(path if "/" in text else os.path.basename(path), path)
    near = get_close_matches(text, names, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`systemd-cgls` or `ls /sys/fs/cgroup` shows what there is"
    return CgroupError(f"there is no cgroup {text!r}", hint=hint)


def _cgroup(path: str, hierarchy: _Hierarchy, text: str) -> Cgroup:
    if hierarchy.controller.startswith("name="):
        raise CgroupError(
            f"{text!r} is a cgroup of the hierarchy {hierarchy.controller}, which has no controller: the kernel side "
            "cannot tell who is in it",
            hint="name the same group in another hierarchy, for example below /sys/fs/cgroup/pids",
        )
    return Cgroup(path, os.stat(path).st_ino, hierarchy.controller)


def _hierarchies() -> list[_Hierarchy]:
    """All that are mounted, in the order in which a name is looked up in them."""
    found: dict[tuple[int, str], _Hierarchy] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.rstrip("\n").partition(" - ")
            kind, _, options = right.split(" ", 2)
            root = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4])
            if kind == "cgroup2":
                found[0, root] = _Hierarchy(root, "")
            elif kind == "cgroup":
                given = options.split(",")
                rank = [(number, name) for number, name in enumerate(_CONTROLLERS, 1) if name in given]
                if rank:
                    found[rank[0][0], root] = _Hierarchy(root, _CONTROLLERS[rank[0][1]])
                else:
                    name = next((option for option in given if option.startswith("name=")), "name=?")
                    found[len(_CONTROLLERS) + 1, root] = _Hierarchy(root, name)
    if not found:
        raise CgroupError("no cgroups are mounted here", hint="mount -t cgroup2 none /sys/fs/cgroup")
    return [found[key] for key in sorted(found)]


def _below(hierarchy: _Hierarchy) -> Iterator[str]:
    for folder, _, _ in os.walk(hierarchy.root):
        if folder != hierarchy.root:
            yield folder


# ---- containers ----------------------------------------------------------------------------------------------------


def container_of(path: str) -> str | None:
    """The container that a cgroup is of, by the path of the cgroup: its id, or the name where its runtime has none.

    Args:
        path: for example as /proc/PID/cgroup has it.
    """
    parts = path.split("/")
    for index in range(len(parts) - 1, -1, -1):
        part = parts[index]
        by_id = _BY_ID.match(part)
        if by_id:
            return by_id[1]
        for pattern in _BY_NAME:
            by_name = pattern.match(part)
            if by_name:
                return _unescape(by_name[1])
        if index and parts[index - 1] == "lxc":
            return part
    return None


def _unescape(name: str) -> str:
    r"""As systemd-escape --unescape for a name: \x2d is a dash."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), name)


def resolve_container(text: str) -> Cgroup:
    """The cgroup of a running container, by its name or by the beginning of its id.

    Names are those in the cgroups themselves (LXC, systemd-nspawn) and those that docker and podman keep on disk.

    Raises:
        CgroupError: none runs, or several are meant.
    """
    running: dict[str, tuple[str, _Hierarchy]] = {}
    for hierarchy in _hierarchies():
        if hierarchy.controller.startswith("name="):
            continue
        for path in _below(hierarchy):
            found = container_of(path)
            # The topmost directory of it; what the runtime makes below is in it.
            if found is not None and container_of(os.path.dirname(path)) != found:
                running.setdefault(found, (path, hierarchy))
    names = {name: id for id, name in _names()}
    if text in names:
        wanted = [names[text]]
        if wanted[0] not in running:
            raise CgroupError(f"container {text!r} ({wanted[0][:12]}) is not running", hint="start it first")
    elif text in running:
        wanted = [text]
    else:
        wanted = [id for id in running if text and id.startswith(text.lower()) and len(id) == 64]
    if len(wanted) > 1:
        raise CgroupError(
            f"{text!r} can be any of {len(wanted)} containers: {', '.join(id[:16] for id in sorted(wanted)[:5])}",
            hint="give more of the id",
        )
    if not wanted:
        from difflib import get_close_matches

        by_id = {id: name for name, id in names.items()}
        known = [by_id.get(id, id[:12]) for id in running]
        near = get_close_matches(text, known, 3, 0.5) or sorted(known)[:8]
        raise CgroupError(
            f"no running container has the name or the id {text!r}",
            hint=f"running are: {', '.join(near)}" if near else "no cgroup here is a container's",
        )
    path, hierarchy = running[wanted[0]]
    return _cgroup(path, hierarchy, text)


def _names(docker: str = _DOCKER, podman: Iterable[str] = _PODMAN) -> Iterator[tuple[str, str]]:
    """(id, name) of the containers that docker and podman keep; what cannot be read is passed over."""
    import json

    try:
        ids = os.listdir(docker)
    except OSError:
        ids = []
    for id in ids:
        try:
            with open(f"{docker}/{id}/config.v2.json", encoding="utf-8") as file:
                name = json.load(file)["Name"]
            yield id, str(name).lstrip("/")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    for path in podman:
        try:
            with open(os.path.expanduser(path), encoding="utf-8") as file:
                for row in json.load(file):
                    for name in row.get("names") or ():
                        yield str(row["id"]), str(name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
