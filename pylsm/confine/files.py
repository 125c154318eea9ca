"""Files that a privileged process writes, in directories that others write to as well."""

from __future__ import annotations

import os
import stat
from errno import EISDIR, ELOOP, ENOENT

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["UntrustedPath", "open_output"]

_MOST_LINKS: Final = 40  # as many as the kernel follows (MAXSYMLINKS)


class UntrustedPath(PylsmError):
    """A path that somebody else can lead elsewhere."""


def open_output(path: str, *, append: bool = False) -> int:
    """Open a file to write to, made with mode 0600 where there is none; emptied unless ``append``.

    A symbolic link is followed only if root or this user made it, wherever in the path it is. A file that is there must
    be root's or this user's and have one name only: writing to any other would be writing what somebody else chose.

    Args:
        path: the file; a FIFO, a device and /dev/stdout will do.
        append: keep what is in it.

    Returns:
        A descriptor, close-on-exec.

    Raises:
        UntrustedPath: a link or a file in the way is somebody else's.
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | (os.O_APPEND if append else 0)
    if _is_descriptor(path):
        return os.open(path, flags)
    directory, name = _parent(path)
    try:
        try:
            return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=directory)
        except FileExistsError:
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            _require_own(path, found.st_uid, "file")
            if found.st_nlink > 1:
                raise UntrustedPath(
                    f"{path} is not written to: it has {found.st_nlink} names (hard links)",
                    hint="remove it or name another file",
                )
            if not append:
                os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_descriptor(path: str) -> bool:
    """A name of one of this process's own descriptors: a link without a target in the file system."""
    directory, _, name = path.rpartition("/")
    if directory in ("/dev/fd", "/proc/self/fd"):
        return name.isascii() and name.isdigit()
    return directory == "/dev" and name in ("stdin", "stdout", "stderr")


def _parent(path: str) -> tuple[int, str]:
    """An open directory and the name in it that ``path`` means; each link is looked at before it is followed."""
    rest = [part for part in path.split("/") if part not in ("", ".")]
    if not rest or path.endswith("/"):
        number = EISDIR if rest else ENOENT
        raise OSError(number, os.strerror(number))
    where = _directory("/" if path.startswith("/") else ".")
    links = 0
    try:
        while True:
            part = rest.pop(0)
            try:
                target = os.readlink(part, dir_fd=where)
            except OSError:
                target = None  # no link, or nothing
            if target is not None:
                _require_own(path, os.stat(part, dir_fd=where, follow_symlinks=False).st_uid, f"symbolic link {part!r}")
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(ELOOP, os.strerror(ELOOP))
                rest[:0] = [step for step in target.split("/") if step not in ("", ".")]
                following = _directory("/") if target.startswith("/") else os.dup(where)
                if not rest:
                    os.close(following)
                    raise OSError(EISDIR, os.strerror(EISDIR))
            elif not rest:
                return where, part
            else:
                # If it became a link since it was looked at, this fails.
                following = _directory(part, where)
            os.close(where)
            where = following
    except BaseException:
        os.close(where)
        raise


def _directory(name: str, within: int | None = None) -> int:
    return os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)


def _require_own(path: str, owner: int, what: str) -> None:
    if owner not in (0, os.geteuid()):
        raise UntrustedPath(
            f"{path} is not written to: the {what} belongs to uid {owner}, who could have put it there to mislead",
            hint="remove it, name another file, or write to standard output and redirect that",
        )
