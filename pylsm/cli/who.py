"""Options that name processes other than by pid, and what they stand for."""

from __future__ import annotations

from pylsm.cli.options import user
from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace, _ArgumentGroup
    from collections.abc import Callable
    from typing import TypeVar

    from pylsm.audit.selection import Selection

    _T = TypeVar("_T")

__all__ = ["add_selectors", "anybody", "named", "selection", "unmatched"]

#: The options, in the order of their help, and where argparse puts what they are given.
_OPTIONS = {"--comm": "comm", "--exe": "exe", "--uid": "uid", "--cgroup": "cgroup", "--container": "container"}


def add_selectors(group: _ArgumentGroup) -> None:
    """Add them to the options that name processes."""
    group.add_argument(
        "--comm",
        action="append",
        default=[],
        metavar="GLOB",
        help="processes by name, such as nginx or 'php-*'; those too that execute a program of that name later",
    )
    group.add_argument(
        "--exe",
        action="append",
        default=[],
        metavar="PATH",
        help="processes by their executable, such as /usr/bin/ssh or '/opt/agent/*'; those too that execute it later",
    )
    group.add_argument(
        "--uid",
        "--user",
        type=user,
        action="append",
        default=[],
        metavar="USER",
        help="processes of this user, by uid or name, those that start later included",
    )
    group.add_argument(
        "--cgroup",
        action="append",
        default=[],
        metavar="PATH",
        help="processes in this cgroup or below it, those that join later included: a directory, a path such as "
        "/system.slice/ssh.service, or the name of a systemd unit",
    )
    group.add_argument(
        "--container",
        action="append",
        default=[],
        metavar="ID|NAME",
        help="the processes of a running container (docker, podman, containerd, CRI-O, LXC, nspawn)",
    )
    group.add_argument("--all", action="store_true", help="every process of this machine but pylsm: expect a lot")


def anybody(options: Namespace) -> bool:
    """One of them is given."""
    return options.all or any(getattr(options, name) for name in _OPTIONS.values())


def named(options: Namespace) -> str:
    """What is given, as it was."""
    given = [f"{option} {value}" for option, name in _OPTIONS.items() for value in getattr(options, name)]
    return " ".join(given)


def selection(options: Namespace) -> Selection | None:
    """What is given, None for nothing.

    Raises:
        PylsmError: a value that stands for nothing; the message names option and value.
    """
    if not anybody(options):
        return None
    from pylsm.audit.selection import Selection

    if options.all:
        if any(getattr(options, name) for name in _OPTIONS.values()):
            options.parser.error(f"--all is everybody: not with {named(options)}")
        return Selection(everybody=True)
    from pylsm.audit.cgroups import resolve, resolve_container
    from pylsm.audit.globs import Glob
    from pylsm.audit.selection import Executable

    cgroups = _each("--cgroup", options.cgroup, resolve) + _each("--container", options.container, resolve_container)
    exes = _each("--exe", options.exe, Executable)
    for exe in exes:
        if not exe.files:
            say(f"warning: --exe {exe.glob} is no executable file now; what is put there later is not noticed")
    # By itself first: so that the message names the one that is wrong.
    comms = _each("--comm", options.comm, lambda text: Selection(comms=[Glob(text)]).comms[0])
    return Selection(uids=options.uid, comms=comms, exes=exes, cgroups=cgroups)


def _each(option: str, values: list[str], make: Callable[[str], _T]) -> list[_T]:
    made = []
    for value in values:
        try:
            made.append(make(value))
        except PylsmError as error:
            raise PylsmError(f"{option}: {error}", hint=error.hint) from None
    return made


def unmatched(options: Namespace) -> None:
    """Say that nobody matches so far."""
    say(f"warning: no process matches {named(options)} now; those that match later are traced")
