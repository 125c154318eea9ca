"""Whom to trace, other than by pid: users, cgroups, names, executables, everybody.

Of one kind any may match, of several kinds each has to. Who matches when the audit starts is traced with all its
descendants; who matches later joins in the kernel (`pylsm.audit.programs.select`).
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from pylsm.audit import rules
from pylsm.audit.cgroups import Cgroup
from pylsm.audit.globs import Glob, GlobError, automata
from pylsm.audit.targets import Process, processes
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

    from pylsm.loader import Map

__all__ = ["Executable", "Selection"]

_COMM_BYTES: Final = 15
_ONE: Final = struct.pack("=I", 1)
#: Files that are looked at for a pattern of executables.
_LOOKED_AT: Final = 300_000
_SEARCHED: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NOT_ENTERED: Final = ("/proc", "/sys", "/dev")


class Executable:
    """Files that are executed, by a pattern of their path.

    A name without a slash is looked for in the directories of $PATH. The kernel side knows the files that there are now
    (by device and inode, whatever the path they are executed by).

    Args:
        pattern: as the user wrote it.

    Attributes:
        glob: the pattern.
        files: (device as in the kernel, inode) of each that matches now.

    Raises:
        GlobError: the pattern is none, or too many files would have to be looked at.
    """

    def __init__(self, pattern: str) -> None:
        self.glob = Glob(pattern if "/" in pattern else "*/" + pattern)
        if "/" in pattern and not pattern.startswith(("/", "*")):
            raise GlobError(f"{pattern!r} is not a path from the root", hint=f"give {os.path.abspath(pattern)!r}")
        self.files: set[tuple[int, int]] = set()
        devices = _devices()
        for path in self._paths(pattern):
            with suppress(OSError):
                found = _identity(path, devices)
                if found is not None:
                    self.files.add(found)
        if len(self.files) > rules.EXECUTABLES.max_entries:
            raise GlobError(f"{pattern!r} matches {len(self.files)} executables", hint="give a narrower pattern")

    def _paths(self, pattern: str) -> Iterable[str]:
        if self.glob.literal:
            return [os.fsdecode(self.glob.prefix)]
        if "/" not in pattern:
            search = [*os.environ.get("PATH", os.defpath).split(":"), *_SEARCHED]
            name = Glob(pattern)
            return [
                f"{folder}/{entry}"
                for folder in dict.fromkeys(search)
                if os.path.isdir(folder)
                for entry in os.listdir(folder)
                if name.matches(os.fsencode(entry))
            ]
        return self._walk(os.fsdecode(self.glob.prefix.rpartition(b"/")[0]) or "/")

    def _walk(self, top: str) -> Iterable[str]:
        looked = 0
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if os.path.join(folder, name) not in _NOT_ENTERED]
            looked += len(files)
            if looked > _LOOKED_AT:
                raise GlobError(
                    f"{str(self.glob)!r} would take a look at more than {_LOOKED_AT} files",
                    hint="begin it with the directory that they are in",
                )
            for name in files:
                path = os.path.join(folder, name)
                if self.glob.matches(os.fsencode(path)):
                    yield path

    def runs(self, process: Process) -> bool:
        """Whether the process executes one of them."""
        link = f"/proc/{process.pid}/exe"
        try:
            path = os.fsencode(os.readlink(link))
            return self.glob.matches(path.removesuffix(b" (deleted)")) or _identity(link, _devices()) in self.files
        except OSError:
            return False  # a kernel thread, or it has ended


class Selection:
    """Whom to trace.

    Args:
        uids: real user ids.
        comms: patterns of names; without a wildcard, what is longer than 15 bytes is cut, as the kernel does.
        exes: executables.
        cgroups: with all that is below them; who joins one later is traced too.
        everybody: all processes but this one; all else is without meaning then.

    Raises:
        GlobError: a pattern that no name can match.
        PylsmError: more than the kernel side takes.
    """

    def __init__(
        self,
        *,
        uids: Iterable[int] = (),
        comms: Iterable[Glob] = (),
        exes: Iterable[Executable] = (),
        cgroups: Iterable[Cgroup] = (),
        everybody: bool = False,
    ) -> None:
        self.uids = tuple(dict.fromkeys(uids))
        self.comms = tuple(_name(glob) for glob in comms)
        self.exes = tuple(exes)
        self.cgroups = tuple(dict.fromkeys(cgroups))
        self.everybody = everybody
        self._names = automata(self.comms)
        unified = sum(not cgroup.controller for cgroup in self.cgroups)
        for number, most, what in (
            (len(self.uids), rules.USERS.max_entries, "users"),
            (len(self._names), rules.COMMS.max_entries - 1, "names"),
            (unified, rules.CGROUPS.max_entries, "cgroups"),
            (len(self.cgroups) - unified, rules.CGROUPS_V1.max_entries, "cgroups"),
        ):
            if number > most:
                raise PylsmError(f"too many {what} are named: {number}, there is room for {most}")

    @property
    def select(self) -> tuple[str, ...]:
        """What the programs look at: `Options.select`."""
        if self.everybody:
            return ("all",)
        kinds = ["uid"] if self.uids else []
        kinds += sorted({f"cgroup/{one.controller}".rstrip("/") for one in self.cgroups})
        return (*kinds, *(["comm"] if self.comms else []), *(["exe"] if self.exes else []))

    def find(self) -> list[Process]:
        """Who matches now, but for this process; nobody where everybody is traced anyway."""
        if self.everybody:
            return []
        inside: set[int] = set().union(*(cgroup.processes() for cgroup in self.cgroups))
        return [
            process
            for process in processes()
            if process.pid != os.getpid()
            and (not self.uids or process.uid in self.uids)
            and (not self.cgroups or process.pid in inside)
            and (not self.comms or any(glob.matches(process.comm) for glob in self.comms))
            and (not self.exes or any(exe.runs(process) for exe in self.exes))
        ]

    def fill(self, maps: Mapping[str, Map]) -> None:
        """Tell the kernel side.

        Args:
            maps: of the loaded programs.
        """
        for uid in self.uids:
            maps[rules.USERS.name].update(struct.pack("=I", uid), _ONE)
        for index, names in enumerate(self._names):
            maps[rules.COMMS.name].update(struct.pack("=I", index), names.pack())
        for device, inode in {file for exe in self.exes for file in exe.files}:
            key = rules.EXECUTABLE.pack({"inode": inode, "device": device})
            maps[rules.EXECUTABLES.name].update(key, _ONE)
        unified = [cgroup for cgroup in self.cgroups if not cgroup.controller]
        for index, cgroup in enumerate(unified):
            fd = os.open(cgroup.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                maps[rules.CGROUPS.name].update(struct.pack("=I", index), struct.pack("=I", fd))
            finally:
                os.close(fd)
        others = [cgroup for cgroup in self.cgroups if cgroup.controller]
        if others:
            numbers = _controllers()
            for cgroup in others:
                key = rules.GROUP.pack({"id": cgroup.id, "controller": numbers[cgroup.controller]})
                maps[rules.CGROUPS_V1.name].update(key, _ONE)


def _name(glob: Glob) -> Glob:
    if glob.literal:
        return Glob(b"".join(b"\\" + bytes([byte]) for byte in glob.prefix[:_COMM_BYTES]))
    if glob.width > _COMM_BYTES:
        raise GlobError(
            f"{str(glob)!r} matches no name of a process: the kernel keeps the first {_COMM_BYTES} bytes of them",
            hint="shorten the pattern, or use --exe for the path of the executable",
        )
    return glob


def _controllers() -> dict[str, int]:
    """The kernel's enum cgroup_subsys_id."""
    from pylsm.btf import Btf, Kind

    kernel = Btf.kernel()
    entries = kernel.enumerators(kernel.find("cgroup_subsys_id", Kind.ENUM))
    return {entry.name.removesuffix("_cgrp_id"): entry.value for entry in entries}


def _devices() -> dict[str, int]:
    """Mount id → device of the filesystem as the kernel has it; stat(2) tells another on btrfs and overlayfs."""
    found = {}
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            number, _, device = line.split(b" ", 3)[:3]
            major, _, minor = device.partition(b":")
            found[number.decode()] = int(major) << 20 | int(minor)
    return found


def _identity(path: str, devices: Mapping[str, int]) -> tuple[int, int] | None:
    """(device as in the kernel, inode) of an executable file; None for any other."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
            return None
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            fields: Sequence[str] = [line.partition(":")[2].strip() for line in file if line.startswith("mnt_id:")]
        plain = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
        return devices.get(fields[0] if fields else "", plain), found.st_ino
    finally:
        os.close(fd)
