"""prctl(2) and system calls without a function in libc, failing with OSError."""

from __future__ import annotations

import os

from pylsm import libc
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["PR_SET_DUMPABLE", "PR_SET_NO_NEW_PRIVS", "check", "prctl", "syscall"]

# include/uapi/linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

_prctl = libc.function("prctl", 5)


def check(result: int) -> int:
    """The result of a libc function.

    Raises:
        OSError: it is -1; with libc's errno.
    """
    if result == -1:
        number = libc.last_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2) with up to four arguments, integers or addresses.

    Raises:
        OSError: as prctl(2) says.
    """
    return check(_prctl(option, *arguments, *[0] * (4 - len(arguments))))


def syscall(number: int, *arguments: int) -> int:
    """A system call by its number; arguments are integers or addresses.

    Raises:
        OSError: as the call says.
    """
    return check(libc.syscall(number, *arguments, *[0] * (6 - len(arguments))))
