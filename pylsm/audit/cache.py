"""Images on disk: what was prepared once for this kernel need not be prepared at every start.

An image is believed only if nobody else can have written it: the directory belongs to this user or to root, is no link
and nobody else may write to it; so does the file. It is used only for the kernel it was prepared on (its build id), by
the very source files that it was prepared from (`stamp`), for the same machine and the same request: all
of that is in its key. What does not fit is ignored, and prepared again.

The directory is ``/var/cache/pylsm`` for root, ``~/.cache/pylsm`` for others, or what PYLSM_CACHE says: a path, or
nothing for no cache at all.
"""

from __future__ import annotations

import os
import sys

import pylsm
from pylsm.light import TYPE_CHECKING
from pylsm.loader.image import Image, ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cache", "directory", "kernel_build_id", "stamp"]

#: An image of an audit is some 40 kB.
_LARGEST = 1 << 24
_OTHERS_WRITE = 0o022
_NOTES = "/sys/kernel/notes"
_NT_GNU_BUILD_ID = 3
#: The packages whose code decides what is in an image.
_PACKAGES = ("", "asm", "audit", "audit/programs", "btf", "loader")


class Cache:
    """Images by name.

    Args:
        folder: where they lie; by default `directory`. None is no cache.

    Attributes:
        folder: the same.
        used: names of the images that were read.
        written: names of the images that were written.
        ignored: name → why an image that is there was not used, or why it could not be written.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = directory() if folder is None else folder or None
        self.used: list[str] = []
        self.written: list[str] = []
        self.ignored: dict[str, str] = {}
        self._key: bytes | None = None

    def load(self, name: str, request: Sequence[object]) -> Image | None:
        """The image ``name``, if it was prepared here for this request; None otherwise.

        Args:
            name: a file name.
            request: all that the image depends on besides kernel, machine and source files.
        """
        if self.folder is None:
            return None
        try:
            image = Image.decode(self._read(name), self._for(request))
        except FileNotFoundError:
            return None
        except (OSError, ImageError) as error:
            self.ignored[name] = str(error)
            return None
        self.used.append(name)
        return image

    def store(self, name: str, request: Sequence[object], image: Image) -> None:
        """Keep an image. A failure is noted in ``ignored``: it is only a cache."""
        if self.folder is None:
            return
        try:
            self._write(name, image.encode(self._for(request)))
        except (OSError, ImageError) as error:
            self.ignored[name] = str(error)
        else:
            self.written.append(name)

    def _for(self, request: Sequence[object]) -> bytes:
        if self._key is None:
            machine = os.uname()
            kernel = kernel_build_id().hex() or f"{machine.release} {machine.version}"
            self._key = f"pylsm {pylsm.__version__}\n{kernel}\n{machine.machine} {sys.byteorder}\n{stamp()}\n".encode()
        return self._key + repr(tuple(request)).encode()

    def _open(self, make: bool) -> int:
        assert self.folder is not None
        if make:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _require_ours(fd, self.folder)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _read(self, name: str) -> bytes:
        folder = self._open(make=False)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
        try:
            size = _require_ours(fd, name)
            if size > _LARGEST:
                raise ImageError(f"{size} bytes are no image")
            return os.read(fd, size)
        finally:
            os.close(fd)

    def _write(self, name: str, data: bytes) -> None:
        folder = self._open(make=True)
        try:
            beside = f".{name}.{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(beside, flags, 0o600, dir_fd=folder)
            try:
                with open(fd, "wb") as file:
                    file.write(data)
                os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                os.unlink(beside, dir_fd=folder)
                raise
        finally:
            os.close(folder)


def _require_ours(fd: int, name: str) -> int:
    """Refuse what somebody else may have written; its size."""
    found = os.fstat(fd)
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
        raise ImageError(
            f"{name} belongs to uid {found.st_uid}, mode {found.st_mode & 0o7777:04o}: somebody else may write it"
        )
    return found.st_size


def directory() -> str | None:
    """Where images lie; None for nowhere."""
    chosen = os.environ.get("PYLSM_CACHE")
    if chosen is not None:
        return chosen or None
    if os.geteuid() == 0:
        return "/var/cache/pylsm"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "pylsm") if base.startswith("/") else None


def kernel_build_id(path: str = _NOTES) -> bytes:
    """The running kernel's build id, b"" where it does not say.

    Source: the ELF notes that the kernel was linked with: for each, three words (lengths of name and contents, type),
    then both, filled up to 4 bytes.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            notes = file.read()
    except OSError:
        return b""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = (int.from_bytes(notes[at + n : at + n + 4], sys.byteorder) for n in (0, 4, 8))
        contents = at + 12 + (name_size + 3 & -4)
        if kind == _NT_GNU_BUILD_ID and notes[at + 12 : at + 16] == b"GNU\0":
            return notes[contents : contents + size]
        at = contents + (size + 3 & -4)
    return b""


def stamp() -> str:
    """The state of the source files that images are prepared from.

    Where pylsm is installed, files change by being replaced, which their directory's ctime shows. In a checkout they
    are edited: each one's size and time. Where pylsm runs from an archive: the archive's.
    """
    root = os.path.dirname(pylsm.__file__)
    rows = []
    try:
        checkout = os.path.exists(f"{root}/../pyproject.toml")
        for package in _PACKAGES:
            if not checkout:
                found = os.stat(f"{root}/{package}")
                rows.append(f"{package} {found.st_dev} {found.st_ino} {found.st_ctime_ns}")
                continue
            with os.scandir(f"{root}/{package}") as entries:
                for entry in entries:
                    if entry.name.endswith(".py"):
                        found = entry.stat()
                        rows.append(f"{package}/{entry.name} {found.st_size} {found.st_mtime_ns}")
    except NotADirectoryError:
        archive = root
        while not os.path.exists(archive):
            archive = os.path.dirname(archive)
        found = os.stat(archive)
        return f"{archive} {found.st_size} {found.st_mtime_ns}"
    return "\n".join([root, *sorted(rows)])
