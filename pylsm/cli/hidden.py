"""Processes that this one may not look into: said, with the capability that it takes, not passed over in silence."""

from __future__ import annotations

import os
from collections.abc import Iterable

from pylsm.cli.status import say
from pylsm.confine.capabilities import CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, names, permitted

__all__ = ["warn_of_hidden"]

#: What is read of /proc/PID, and what it takes where that process is another user's (proc(5)).
_TAKES = {"exe": (CAP_SYS_PTRACE,), "fd": (CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE)}
#: Pids that are named.
_NAMED = 5


def warn_of_hidden(pids: Iterable[int], entry: str, so: str) -> None:
    """Say of which processes an entry in /proc may not be read.

    Args:
        pids: as /proc shows them here.
        entry: "exe", or "fd" for what they hold.
        so: what is not known of them for that reason.
    """
    refused = [pid for pid in pids if _refused(pid, entry)]
    if not refused:
        return
    missing = names(set(_TAKES[entry]) - permitted())
    shown = ", ".join(map(str, refused[:_NAMED])) + (", …" if len(refused) > _NAMED else "")
    many = "processes" if len(refused) > 1 else "process"
    takes = f"that takes {' and '.join(missing)}" if missing else "a security module refuses it"
    say(f"warning: {so} of {len(refused)} {many} ({shown}): they may not be looked into; {takes}")


def _refused(pid: int, entry: str) -> bool:
    try:
        if entry == "exe":
            os.readlink(f"/proc/{pid}/exe")
        else:
            os.listdir(f"/proc/{pid}/fd")
            from pylsm.audit.network import namespace_of

            namespace_of(f"/proc/{pid}", "net")
    except PermissionError:
        return True
    except OSError:
        return False  # it has ended, or is the kernel's
    return False
