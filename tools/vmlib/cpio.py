"""Write "newc" cpio archives, the format of an initramfs (Documentation/driver-api/early-userspace)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

__all__ = ["Archive"]

MTIME = 1_767_225_600  # 2026-01-01, for all: equal files make equal archives (and zip has no year 1970)


class Archive:
    """One archive; the kernel unpacks several in a row, so a small one can follow a large one.

    Paths are absolute; missing parents are made; the first entry of a name wins.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._offset = 0
        self._names = {"/"}

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def __contains__(self, path: str) -> bool:
        return path in self._names

    def directory(self, path: str, mode: int = 0o755) -> None:
        if path not in self._names:
            self._entry(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        if path not in self._names:
            self._entry(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        if path not in self._names:
            self._entry(path, stat.S_IFLNK | 0o777, os.fsencode(target))

    def copy(self, path: str | Path) -> str:
        """Copy a file of this machine to the same path, by way of the same symbolic links.

        Returns the path without the links. Links are what makes /bin/sh, libfoo.so.1 and a virtual
        environment's python work inside as they do outside.
        """
        here, *rest = os.path.abspath(path).split("/")
        here = "/"
        while rest:
            here = os.path.join(here, rest.pop(0))
            if os.path.islink(here):
                target = os.readlink(here)
                self.symlink(here, target)
                return self.copy(os.path.join(os.path.dirname(here), target, *rest))
        status = os.stat(here)
        if stat.S_ISDIR(status.st_mode):
            self.directory(here, stat.S_IMODE(status.st_mode))
        elif here not in self._names:
            self.file(here, Path(here).read_bytes(), stat.S_IMODE(status.st_mode))
        return here

    def close(self) -> None:
        """Write the end marker. The underlying file stays open."""
        self._record("TRAILER!!!", 0, b"")
        self._write(bytes(-self._offset % 512))

    def _entry(self, path: str, mode: int, data: bytes) -> None:
        if not path.startswith("/"):
            raise ValueError(f"not an absolute path: {path!r}")
        self.directory(os.path.dirname(path))
        self._names.add(path)
        self._record(path[1:], mode, data)

    def _record(self, name: str, mode: int, data: bytes) -> None:
        # One link each and no inode numbers: equal (device, inode) pairs would mean hard links.
        raw = os.fsencode(name) + b"\0"
        inode = user = group = major = minor = rmajor = rminor = check = 0
        fields = (
            *(inode, mode, user, group, 1, MTIME, len(data)),
            *(major, minor, rmajor, rminor, len(raw), check),
        )
        self._write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        self._align()
        self._write(data)
        self._align()

    def _align(self) -> None:
        self._write(bytes(-self._offset % 4))

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._offset += len(data)
