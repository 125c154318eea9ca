"""Pinning objects to paths of a BPF filesystem, and opening what is pinned, with a sentence for each way to fail."""

from __future__ import annotations

import os
import sys
from errno import EACCES, EEXIST, EISDIR, ENOENT, EPERM
from struct import calcsize

from pylsm.libc import Memory, function
from pylsm.loader.attr import Cmd, PinAttr
from pylsm.loader.bpf import bpf, bpf_errno, failure, object_kind
from pylsm.loader.errors import BpfError, PinError

__all__ = ["is_bpf_filesystem", "open_pinned", "pin"]

#: f_type of statfs(2) for bpffs (include/uapi/linux/magic.h).
BPF_FS_MAGIC = 0xCAFE4A11

_KIND_WORDS = {"bpf-map": "map", "bpf-prog": "program", "bpf_link": "link", "bpf-link": "link"}


def pin(fd: int, path: str | os.PathLike[str], label: str) -> None:
    """Pin the object ``fd`` at ``path`` (BPF_OBJ_PIN); it lives on until the path is removed (`os.unlink`).

    Raises:
        PinError: the path exists, is not on a BPF filesystem, its directory does not exist, or may not be written.
    """
    name = os.fspath(path)
    encoded = _c_string(name)
    attr = PinAttr(pathname=encoded.address, bpf_fd=fd)
    result = bpf_errno(Cmd.OBJ_PIN, attr)
    if result >= 0:
        return
    directory = os.path.dirname(name) or "."
    if not os.path.isdir(directory):
        raise _refused(f"cannot pin {label} to {name}: there is no directory {directory}", ENOENT, Cmd.OBJ_PIN)
    if os.path.lexists(name):
        raise _refused(
            f"cannot pin {label} to {name}: something is there already",
            EEXIST,
            Cmd.OBJ_PIN,
            "remove it (nothing else is lost if another process has it open) or choose another path",
        )
    if not is_bpf_filesystem(directory):
        raise _refused(
            f"cannot pin {label} to {name}: {directory} is not on a BPF filesystem", EPERM, Cmd.OBJ_PIN, _MOUNT_HINT
        )
    if "." in os.path.basename(name) and result == -EPERM:
        raise _refused(f"cannot pin {label} to {name}: a BPF filesystem takes no dots in names", EPERM, Cmd.OBJ_PIN)
    raise failure(Cmd.OBJ_PIN, -result, f"pin {label} to {name}")


def open_pinned(path: str | os.PathLike[str], kind: str) -> int:
    """Open what is pinned at ``path``; a new descriptor of an object of ``kind`` ("map", "program" or "link").

    Raises:
        PinError: no such path, a directory, not on a BPF filesystem, not a BPF object, or one of another kind.
    """
    name = os.fspath(path)
    if not os.path.lexists(name):
        raise _refused(f"{name} does not exist: no {kind} is pinned there", ENOENT, Cmd.OBJ_GET, _LOOK_HINT)
    if os.path.isdir(name):
        raise _refused(f"{name} is a directory, not a pinned {kind}", EISDIR, Cmd.OBJ_GET, _LOOK_HINT)
    if is_bpf_filesystem(name) is False:
        raise _refused(f"{name} is no pinned {kind}: it is not on a BPF filesystem", EACCES, Cmd.OBJ_GET, _MOUNT_HINT)
    encoded = _c_string(name)
    try:
        fd = bpf(Cmd.OBJ_GET, PinAttr(pathname=encoded.address), f"open the {kind} pinned at {name}")
    except BpfError as error:
        # ENOENT: the kernel's own maps.debug and progs.debug, which are nobody's to open.
        if error.errno == ENOENT or (error.errno == EACCES and os.geteuid() == 0):
            raise _refused(
                f"{name} is a file of the BPF filesystem but no {kind}", EACCES, Cmd.OBJ_GET, _LOOK_HINT
            ) from error
        raise
    found = _KIND_WORDS.get(object_kind(fd), "")
    if found and found != kind:
        os.close(fd)
        raise _refused(f"{name} is a pinned {found}, not a {kind}", EACCES, Cmd.OBJ_GET, _LOOK_HINT)
    return fd


_LOOK_HINT = "bpftool -f map show lists maps with the paths they are pinned at"
_MOUNT_HINT = "use a path below /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)"


def is_bpf_filesystem(path: str) -> bool | None:
    """Whether ``path`` is on a BPF filesystem (statfs(2)); None where that cannot be told."""
    # struct statfs is at most 120 bytes; f_type is its first word on every Linux architecture.
    buffer, name = Memory(512), _c_string(path)
    if function("statfs", 2)(name.address, buffer.address) != 0:
        return None
    return int.from_bytes(buffer[: calcsize("l")], sys.byteorder) & 0xFFFFFFFF == BPF_FS_MAGIC


def _c_string(path: str) -> Memory:
    return Memory(os.fsencode(path) + b"\0")


def _refused(message: str, errno: int, command: Cmd, hint: str = "") -> PinError:
    return PinError(message, errno=errno, command=command, hint=hint)
