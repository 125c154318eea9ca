"""The command line: arguments and exit statuses, nothing else."""

from __future__ import annotations

import gc
import os
import sys
from errno import EMFILE, ENFILE
from importlib import import_module

import pylsm
from pylsm.cli.arguments import Declaration
from pylsm.cli.status import REFUSED, USAGE, complain
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import Any

__all__ = ["main", "parser_for"]

#: Commands in the order of the help text → the module that has them.
_COMMANDS = {
    "run": "run",
    "attach": "attach",
    "top": "top",
    "detach": "detach",
    "check": "check",
    "verify-log": "verify_log",
    "report": "report",
    "diff": "diff",
    "expect": "expect",
    "ship": "ship",
    "query": "query",
    "schema": "schema",
    "asm": "asm",
    "disasm": "asm",
    "build": "build",
    "btf": "btf",
    "print": "print",
}
#: Those that start an audit and follow it.
_FOLLOWING = ("run", "attach")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        The exit status.
    """
    _hold_standard_descriptors()
    # What a start makes is there to stay: looking for garbage in it finds none. `Follower.run` looks for its own.
    gc.disable()
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    finally:
        gc.enable()


def _main(arguments: Sequence[str]) -> int:
    try:
        options: Any = _declared(arguments).read(arguments)
        if options is None:
            parser = parser_for(arguments)
            options = parser.parse_args(arguments)
            if options.command_name is None:
                parser.print_help(sys.stderr)
                return USAGE
        if getattr(options, "config", None) is not None or getattr(options, "print_config", False):
            from pylsm.cli.config import read

            options = read(parser_for(()), arguments)
        options.line = arguments
        if options.command_name not in _FOLLOWING:
            return _printed(options)
        return int(options.handler(options))
    except PylsmError as error:
        complain(error)
        return REFUSED
    except OSError as error:
        if error.errno not in (EMFILE, ENFILE):
            raise
        complain(PylsmError(f"cannot go on: {error.strerror}", hint="raise `ulimit -n`"))
        return REFUSED
    except KeyboardInterrupt:
        return 128 + 2


def _printed(options: Any) -> int:
    """The status of a command that prints what it has to say, and ends as others do when its reader goes away."""
    gc.enable()
    try:
        status = int(options.handler(options))
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still to be written, when this process ends
        return 128 + 13  # SIGPIPE


def _hold_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming files of ours where the caller has closed them; using them fails as before."""
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number: this one


def _declared(arguments: Sequence[str]) -> Declaration:
    """The command that is named first, and no more of the others than their help needs."""
    declared = Declaration("pylsm")
    declared.add_argument("--version", action="version", version=f"pylsm {pylsm.__version__}")
    # The name is given so that argparse need not format a usage to find it.
    commands = declared.add_subparsers(dest="command_name", metavar="COMMAND", title="commands", prog="pylsm")
    first = arguments[0] if arguments else ""
    for module in dict.fromkeys([_COMMANDS[first]] if first in _COMMANDS else _COMMANDS.values()):
        import_module(f"pylsm.cli.{module}").add_parser(commands)
    return declared


def parser_for(arguments: Sequence[str]) -> ArgumentParser:
    """The same for argparse."""
    from pylsm.cli.parser import parser_of

    return parser_of(
        _declared(arguments),
        description="Show every outbound connection attempt and every file that a process family opens, from the "
        "kernel's own LSM hooks. Observe-only: nothing is ever denied.",
        epilog="Each command has its own --help. Most need root.",
    )
