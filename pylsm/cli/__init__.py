"""The command line: arguments and exit statuses, nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from errno import EMFILE, ENFILE
from importlib import import_module

import pylsm
from pylsm.cli.status import REFUSED, USAGE, complain
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["main"]

#: Commands in the order of the help text → the module that has them.
_COMMANDS = {
    "run": "run",
    "attach": "attach",
    "detach": "detach",
    "check": "check",
    "verify-log": "verify_log",
    "schema": "schema",
    "asm": "asm",
    "disasm": "asm",
    "build": "build",
    "btf": "btf",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; by default those of this process.

    Returns:
        The exit status.
    """
    _hold_standard_descriptors()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments)
    options = parser.parse_args(arguments)
    if options.command_name is None:
        parser.print_help(sys.stderr)
        return USAGE
    try:
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


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps each line of a description or an epilog by itself, but leaves indented lines (examples) as they are."""

    def __init__(self, prog: str) -> None:
        # One is made for each option that is added, to try its metavar; argparse would import shutil for the width.
        super().__init__(prog, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        import textwrap

        lines = text.splitlines()
        return "\n".join(line if line[:1] in ("", " ") else textwrap.fill(line, width) for line in lines)


def _columns() -> int:
    """Width of the terminal, as shutil.get_terminal_size says it."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


class _Parser(argparse.ArgumentParser):
    """A mistake is one line, with the next step; the full usage is for --help."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _hold_standard_descriptors() -> None:
    """Keep 0, 1 and 2 from becoming files of ours where the caller has closed them; using them fails as before."""
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, flags)  # the lowest free number: this one


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pylsm",
        description="Show every outbound connection attempt and every file that a process family opens, from the "
        "kernel's own LSM hooks. Observe-only: nothing is ever denied.",
        epilog="Each command has its own --help. Most need root.",
    )
    parser.add_argument("--version", action="version", version=f"pylsm {pylsm.__version__}")
    # The name is given so that argparse need not format a usage to find it, for which it imports what no start needs.
    commands = parser.add_subparsers(
        dest="command_name", metavar="COMMAND", title="commands", parser_class=_Parser, prog="pylsm"
    )
    # Only what is used is imported: a command is named first, or help for all of them is wanted.
    first = arguments[0] if arguments else ""
    for module in dict.fromkeys([_COMMANDS[first]] if first in _COMMANDS else _COMMANDS.values()):
        import_module(f"pylsm.cli.{module}").add_parser(commands)
    return parser
