"""What options that name processes other than by pid stand for."""

from __future__ import annotations

from pylsm.audit.cgroups import resolve, resolve_container
from pylsm.audit.globs import Glob
from pylsm.audit.selection import Executable, Selection
from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import TypeVar

    _T = TypeVar("_T")

__all__ = ["named", "selection", "unmatched"]

#: The options, and where argparse puts what they are given.
_OPTIONS = {"--comm": "comm", "--exe": "exe", "--uid": "uid", "--cgroup": "cgroup", "--container": "container"}


def named(options: Namespace) -> str:
    """What is given, as it was."""
    given = [f"{option} {value}" for option, name in _OPTIONS.items() for value in getattr(options, name)]
    return " ".join(given)


def selection(options: Namespace) -> Selection:
    """Those that are named.

    Raises:
        PylsmError: a value that stands for nothing; the message names option and value.
    """
    if options.all:
        if named(options):
            options.parser.error(f"--all is everybody: not with {named(options)}")
        return Selection(everybody=True)
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
