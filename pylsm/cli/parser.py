"""argparse's parser of what was declared (`pylsm.cli.arguments`): for help, and for every line that is not plain."""

from __future__ import annotations

import argparse
import os

from pylsm.cli.arguments import BadValue, Declaration, wrong_usage
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

__all__ = ["Parser", "parser_of"]


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


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are `wrong_usage`, and whose types may raise `BadValue`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        wrong_usage(self.prog, message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except BadValue as wrong:
            raise argparse.ArgumentError(action, str(wrong)) from None


def parser_of(declared: Declaration, **options: Any) -> Parser:
    """The parser of a whole command line.

    Args:
        declared: its arguments and commands.
        **options: of argparse.ArgumentParser.
    """
    parser = Parser(prog=declared.prog, **options)
    declared.repeat(parser)
    return parser
