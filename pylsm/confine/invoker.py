"""Who a command runs as: the user that called sudo, with that user's ids and environment."""

from __future__ import annotations

import os

from pylsm.confine.capabilities import CAP_SETGID, CAP_SETUID, clear_ambient, names, permitted
from pylsm.errors import PylsmError
from pylsm.light import NamedTuple

__all__ = ["Invoker", "become", "invoker"]

_VARIABLES = ("SUDO_UID", "SUDO_GID")


class Invoker(NamedTuple):
    """A user.

    Attributes:
        uid, gid: its ids.
        groups: all its groups.
        name: its name, or its uid where it has none.
        environment: what its programs find.
    """

    uid: int
    gid: int
    groups: list[int]
    name: str
    environment: dict[str, str]


def invoker() -> Invoker | None:
    """The user who called sudo; None when this process is not root's or was not started through sudo.

    Raises:
        PylsmError: SUDO_UID or SUDO_GID is no number, or this root may not become that user.
    """
    if os.geteuid() != 0 or _VARIABLES[0] not in os.environ:
        return None
    uid, gid = (_number(name) for name in _VARIABLES)
    if uid == 0:
        return None
    missing = {CAP_SETGID, CAP_SETUID} - permitted()
    if missing:
        raise PylsmError(
            f"this root cannot run a command as the user who called sudo (uid {uid}): "
            f"that takes {' and '.join(names(missing))}",
            hint="give it these, or run the command as root with --root",
        )
    import pwd

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Invoker(uid, gid, [gid], str(uid), _environment(str(uid), "/", "/bin/sh"))
    return Invoker(
        uid,
        gid,
        os.getgrouplist(entry.pw_name, gid),
        entry.pw_name,
        _environment(entry.pw_name, entry.pw_dir, entry.pw_shell),
    )


def become(who: Invoker | None) -> None:
    """Take on the ids of that user, in a child that is about to execute a command; None: keep these.

    Capabilities that this process was given through the ambient set are not passed on either way.

    Raises:
        OSError: it may not.
    """
    clear_ambient()
    if who is not None:
        os.setgroups(who.groups)
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not (value.isascii() and value.isdigit()) or int(value) >= (1 << 32) - 1:
        raise PylsmError(
            f"{name} is {value!r}, which is no id: the command's user is not known",
            hint="run it as root with --root, or call pylsm through sudo",
        )
    return int(value)


def _environment(name: str, home: str, shell: str) -> dict[str, str]:
    """sudo's own environment is the one it was called with; where it cannot be read, ours with the user's names."""
    try:
        with open(f"/proc/{os.getppid()}/comm", "rb") as file:
            if file.read() == b"sudo\n":
                with open(f"/proc/{os.getppid()}/environ", "rb") as file:
                    entries = [entry.partition(b"=") for entry in file.read().split(b"\0") if b"=" in entry]
                if entries:
                    return {os.fsdecode(key): os.fsdecode(value) for key, _, value in entries}
    except OSError:
        pass
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SUDO_")}
    return {**kept, "HOME": home, "SHELL": shell, "USER": name, "LOGNAME": name}
