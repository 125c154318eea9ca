"""prctl(2) and system calls without a function in libc, failing with OSError."""

from __future__ import annotations

import ctypes
import os

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, Final

__all__ = ["PR_SET_DUMPABLE", "PR_SET_NO_NEW_PRIVS", "check", "libc", "prctl", "syscall"]

# include/uapi/linux/prctl.h
PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long


def check(result: int) -> int:
    """The result of a libc function.

    Raises:
        OSError: it is -1; with libc's errno.
    """
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, *arguments: Any) -> int:
    """prctl(2) with up to four arguments, integers or pointers.

    Raises:
        OSError: as prctl(2) says.
    """
    padded = [*arguments, *[0] * (4 - len(arguments))]
    return check(int(libc.prctl(option, *(ctypes.c_ulong(a) if isinstance(a, int) else a for a in padded))))


def syscall(number: int, *arguments: Any) -> int:
    """A system call by its number; arguments are integers or pointers.

    Raises:
        OSError: as the call says.
    """
    return check(
        int(libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)))
    )
