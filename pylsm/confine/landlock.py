"""Landlock: which files can still be opened (Documentation/userspace-api/landlock.rst; Linux 5.13)."""

from __future__ import annotations

import os
import stat
import struct
import sys

from pylsm.confine.kernel import syscall
from pylsm.libc import Memory
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

__all__ = ["restrict"]

# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1

# include/uapi/linux/landlock.h: bits of access to files. IOCTL_DEV (bit 15) is left alone: what is open is in use.
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OF_FILES: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE
_MAKE_AND_REMOVE = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13  # remove directories, files; make both; rename across
_BIND_AND_CONNECT_TCP = 3
_SCOPE_ABSTRACT_UNIX, _SCOPE_SIGNAL = 1, 2

#: Where shared libraries of Python modules lie that are imported late.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
#: What is read while an audit runs: whether processes live, whose terminal this is.
_ALWAYS = ("/proc", "/dev/tty", "/dev/null", "/etc/localtime", "/usr/share/zoneinfo")


def restrict(
    *, readable: Iterable[str] = (), writable: Iterable[str] = (), network: bool = False, signals: bool = False
) -> int:
    """Forbid this thread to open anything but Python's own modules, /proc, and what is given.

    Descriptors that are open stay as they are. no_new_privs must be set.

    Args:
        readable: files and directories that can still be opened for reading; those that do not exist are left out.
        writable: directories in which files can be made, written, renamed and removed.
        network: TCP stays allowed, and abstract unix sockets.
        signals: processes outside can still be sent signals.

    Returns:
        The kernel's ABI version.

    Raises:
        OSError: ENOSYS, or EOPNOTSUPP: this kernel has no Landlock, or it is not among the active LSMs.
    """
    abi = syscall(_CREATE_RULESET, 0, 0, _CREATE_RULESET_VERSION)
    handled = (1 << 13) - 1 | (1 << 13 if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    attributes = [handled]
    if abi >= 4:
        attributes.append(0 if network else _BIND_AND_CONNECT_TCP)
    if abi >= 6:
        attributes.append((0 if network else _SCOPE_ABSTRACT_UNIX) | (0 if signals else _SCOPE_SIGNAL))
    packed = Memory(struct.pack(f"={len(attributes)}Q", *attributes))
    ruleset = syscall(_CREATE_RULESET, packed.address, len(packed), 0)
    try:
        read = _READ_FILE | _READ_DIR
        for path in {*readable, *_python(), *_LIBRARIES, *_ALWAYS}:
            _allow(ruleset, path, read & handled)
        for path in writable:
            _allow(ruleset, path, (read | _WRITE_FILE | _TRUNCATE | _MAKE_AND_REMOVE) & handled)
        syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return abi


def _python() -> Iterator[str]:
    """Where modules come from; our own also where they were found from the current directory (``python -c``)."""
    yield os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    yield from (os.path.abspath(entry) for entry in sys.path if entry != "")


def _allow(ruleset: int, path: str, access: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            access &= _OF_FILES
        rule = Memory(struct.pack("=Qi", access, fd))
        syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule.address, 0)
    finally:
        os.close(fd)
