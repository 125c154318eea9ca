"""Where a spool lies, and who delivers from it: a user without privileges, who shares the directory by its group."""

from __future__ import annotations

import os
import pwd
import stat
from contextlib import suppress

from pylsm.confine.capabilities import CAP_CHOWN, CAP_SETGID, CAP_SETUID, permitted
from pylsm.light import TYPE_CHECKING, NamedTuple
from pylsm.ship.spool import SpoolError

if TYPE_CHECKING:
    from typing import Final

__all__ = ["Courier", "courier", "default_directory", "make_directory"]

#: The users that deliver for root, the first that there is.
_USERS: Final = ("pylsm", "nobody")


class Courier(NamedTuple):
    """Who delivers.

    Attributes:
        uid, gid: its ids; -1: this process's own.
        name: of the user.
    """

    uid: int
    gid: int
    name: str


def courier(name: str | None = None) -> Courier:
    """Who delivers for this process: for root another user, for anybody else, and for a root that may not change its
    user (in a systemd unit), itself.

    Args:
        name: a user, in place of "pylsm" or, where there is none of that name, "nobody".

    Raises:
        SpoolError: there is no such user, or this process cannot become it.
    """
    if os.geteuid() != 0:
        if name is not None:
            raise SpoolError(f"only root can deliver as {name}", hint="leave --sink-user out")
        return Courier(-1, -1, "")
    if not {CAP_CHOWN, CAP_SETGID, CAP_SETUID} <= permitted():
        if name is not None:
            raise SpoolError(
                f"this root cannot deliver as {name}", hint="it lacks one of CAP_SETUID, CAP_SETGID and CAP_CHOWN"
            )
        return Courier(-1, -1, "")
    for candidate in (name,) if name is not None else _USERS:
        try:
            found = pwd.getpwnam(candidate)
        except KeyError:
            continue
        return Courier(found.pw_uid, found.pw_gid, candidate)
    raise SpoolError(
        f"there is no user {name or ' or '.join(_USERS)} to deliver as",
        hint="useradd --system --no-create-home pylsm makes one",
    )


def default_directory() -> str:
    """/var/lib/pylsm/spool for root, below the state directory of anybody else."""
    if os.geteuid() == 0:
        return "/var/lib/pylsm/spool"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "pylsm", "spool")


def make_directory(directory: str, who: Courier) -> str:
    """Make the directory of a spool, or see that one can be trusted.

    Args:
        directory: its path; those above it are made as well.
        who: delivers from it.

    Returns:
        Its absolute path.

    Raises:
        SpoolError: it cannot be made, or others may write to it.
    """
    directory = os.path.abspath(directory)
    hint = "give --spool a directory of its own, in one that only you can write to"
    try:
        os.makedirs(os.path.dirname(directory), 0o755, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        found = os.stat(directory, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            raise SpoolError(f"the spool {directory} is no directory", hint=hint)
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
            whose = f"belongs to uid {found.st_uid}" if found.st_uid != os.geteuid() else "can be written to by anybody"
            raise SpoolError(f"the spool {directory} {whose}", hint=hint)
        if who.gid >= 0 and (found.st_gid != who.gid or stat.S_IMODE(found.st_mode) != 0o2770):
            # Files made in it get its group, by which the one who delivers reads and removes them.
            os.chown(directory, -1, who.gid)
            os.chmod(directory, 0o2770)
            for name in os.listdir(directory):
                os.chown(os.path.join(directory, name), -1, who.gid, follow_symlinks=False)
    except OSError as error:
        raise SpoolError(f"the spool {directory} cannot be made: {error.strerror}", hint=hint) from None
    return directory
