"""The bpf(2) system call: one function that fails with an explained exception, one that fails with a number."""

from __future__ import annotations

import os
from errno import EAGAIN, EINTR, EMFILE, ENFILE, EPERM

from pylsm.arch import call_number
from pylsm.libc import Memory, Structure, last_errno, syscall
from pylsm.light import TYPE_CHECKING
from pylsm.loader.attr import BtfLoadAttr, Cmd
from pylsm.loader.errors import BpfError, errno_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    _H = TypeVar("_H", bound="Handle")

__all__ = ["Handle", "bpf", "bpf_errno", "failure", "kernel_release", "load_btf", "object_kind"]

#: How often a call that a signal interrupted is repeated. PROG_LOAD answers EAGAIN whenever a signal is pending, and
#: Python's own handler runs between two calls, so that a few repetitions always suffice unless signals never stop.
RETRIES = 16

_NUMBER = call_number("bpf")
_syscall: Callable[..., int] = syscall

#: Commands that are charged to RLIMIT_MEMLOCK before Linux 5.11, and then fail with EPERM.
_CHARGED = (Cmd.MAP_CREATE, Cmd.PROG_LOAD, Cmd.BTF_LOAD)


def kernel_release() -> tuple[int, int]:
    """(major, minor) of the running kernel: (6, 1)."""
    major, minor = os.uname().release.split(".")[:2]
    digits = len(minor) - len(minor.lstrip("0123456789"))  # "7.3-rc1", "6.1+"
    return int(major), int(minor[:digits] or 0)


def bpf_errno(cmd: Cmd, attr: Structure) -> int:
    """bpf(2) without an exception: its result, or the negative errno.

    For commands where failing is an ordinary answer (ENOENT of a lookup). EINTR and EAGAIN are retried, at most
    ``RETRIES`` times; before Linux 5.11 an EPERM for lack of RLIMIT_MEMLOCK is retried under a raised limit.
    """
    result = _call(cmd, attr)
    if result == -EPERM and cmd in _CHARGED:
        from pylsm.loader.memlock import raised_memlock

        with raised_memlock() as was_raised:
            if was_raised:
                result = _call(cmd, attr)
    return result


def _call(cmd: Cmd, attr: Structure) -> int:
    address, size = attr.address, len(attr)
    for _ in range(RETRIES):
        result = _syscall(_NUMBER, cmd, address, size, 0, 0, 0)
        if result >= 0:
            return result
        number = last_errno()
        if number != EINTR and number != EAGAIN:
            break
    return -number


def bpf(cmd: Cmd, attr: Structure, purpose: str = "") -> int:
    """bpf(2).

    Args:
        cmd: the command.
        attr: its structure of `pylsm.loader.attr`; what the kernel writes back is found in it.
        purpose: what it is for, to follow "cannot " in the message: "create map 'events'".

    Returns:
        A new file descriptor (close-on-exec) or 0, as the command has it.

    Raises:
        BpfError: naming command, purpose and errno, with a hint.
    """
    result = bpf_errno(cmd, attr)
    if result < 0:
        raise failure(cmd, -result, purpose)
    return result


def failure(cmd: Cmd, number: int, purpose: str = "") -> BpfError:
    """The exception for a command that failed with errno ``number``."""
    if number in (EMFILE, ENFILE):
        # Without a free descriptor no further module can be imported.
        advice = "too many open files: raise `ulimit -n`"
    else:
        from pylsm.loader.hints import hint

        advice = hint(cmd, number)
    message = f"cannot {purpose or 'do it'}: BPF_{cmd.name}: {errno_name(number)}"
    return BpfError(message, errno=number, command=cmd, hint=advice)


def object_kind(fd: int) -> str:
    """What a descriptor is: "bpf-map", "bpf-prog", "bpf_link" or "bpf-link" …, "" for anything that is not BPF's."""
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    return target[len("anon_inode:") :].strip("[]") if target.startswith("anon_inode:") else ""


class Handle:
    """A file descriptor of a BPF object, closed once: by `close`, at the end of a ``with`` block, or with the object.

    Args:
        fd: the descriptor.
        owned: whether closing the handle closes it.
        label: how messages speak of it: "map 'events'".
    """

    __slots__ = ("__weakref__", "_fd", "_owned", "label")

    def __init__(self, fd: int, *, owned: bool = True, label: str = "BPF object") -> None:
        self._fd = fd
        self._owned = owned
        self.label = label

    def fileno(self) -> int:
        """The file descriptor.

        Raises:
            ValueError: it is closed.
        """
        if self._fd < 0:
            raise ValueError(f"{self.label} is closed")
        return self._fd

    @property
    def fd(self) -> int:
        """The same as `fileno`."""
        return self.fileno()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def close(self) -> None:
        """Close the descriptor; the kernel frees the object when nobody else holds it. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0 and self._owned:
            os.close(fd)

    def __enter__(self: _H) -> _H:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # Only for objects whose __init__ ran; an error here could be reported to nobody.
        if getattr(self, "_fd", -1) >= 0:
            try:  # noqa: SIM105 (contextlib is not worth its import here)
                self.close()
            except OSError:
                pass

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}, {'closed' if self.closed else f'fd {self._fd}'}>"


def load_btf(data: bytes) -> tuple[Handle | None, str]:
    """Load BTF (BPF_BTF_LOAD): the handle, or None and what the kernel said about it."""
    types = Memory(data)
    attr = BtfLoadAttr(btf=types.address, btf_size=len(data))
    result = bpf_errno(Cmd.BTF_LOAD, attr)
    if result >= 0:
        return Handle(result, label="BTF"), ""
    log = Memory(1 << 16)
    attr.btf_log_buf, attr.btf_log_size, attr.btf_log_level = log.address, len(log), 1
    again = bpf_errno(Cmd.BTF_LOAD, attr)
    if again >= 0:
        return Handle(again, label="BTF"), ""
    last = log.text().decode(errors="replace").strip().rsplit("\n", 1)[-1]
    return None, f"BPF_BTF_LOAD: {errno_name(-result)}" + (f": {last}" if last else "")
