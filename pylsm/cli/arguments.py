"""Arguments, declared once in argparse's own words, and read without argparse where a line is plain.

Importing argparse and making a parser of it costs more than starting Python does. So what a command's ``add_parser`` is
handed is a `Declaration`, which only notes what is called on it. From the notes `Declaration.read` reads a line whose
options are whole words with sound values. All else (help, a mistake, an abbreviation) it leaves to argparse, for which
`Declaration.repeat` repeats the notes on a parser of argparse's. tests/unit/test_cli_arguments.py compares the two.
"""

from __future__ import annotations

import sys

from pylsm.cli.status import USAGE
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Final, NoReturn

__all__ = ["REMAINDER", "SUPPRESS", "BadValue", "Declaration", "Options", "wrong_usage"]

#: argparse's own words for "all that follows" and "not in the help".
REMAINDER: Final = "..."
SUPPRESS: Final = "==SUPPRESS=="


class BadValue(Exception):
    """Raised by an argument's ``type``: what is wrong with the value, as argparse.ArgumentTypeError says it."""


class Options:
    """The values, as attributes."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def wrong_usage(prog: str, message: str) -> NoReturn:
    """A mistake is one line, with the next step; the full usage is for --help."""
    if sys.stderr is not None:
        sys.stderr.write(f"{prog}: error: {message} (see {prog} --help)\n")
    raise SystemExit(USAGE)


class Declaration:
    """What is declared of a parser, a group of its arguments, or its commands.

    Args:
        prog: what the user has typed to get here.
    """

    def __init__(self, prog: str) -> None:
        self.prog = prog
        #: method of argparse's, its arguments, what it was declared to return
        self._notes: list[tuple[str, tuple[Any, ...], dict[str, Any], Declaration | None]] = []

    # ---- declaring, as in argparse -------------------------------------------------------------------------------

    def add_argument(self, *names: str, **how: Any) -> None:
        """An option or a positional argument."""
        self._notes.append(("add_argument", names, how, None))

    def set_defaults(self, **values: Any) -> None:
        """Values that no argument gives."""
        self._notes.append(("set_defaults", (), values, None))

    def add_argument_group(self, *title: str, **how: Any) -> Declaration:
        """Arguments under a heading of the help."""
        return self._child("add_argument_group", title, how)

    def add_mutually_exclusive_group(self, **how: Any) -> Declaration:
        """Arguments of which one can be given."""
        return self._child("add_mutually_exclusive_group", (), how)

    def add_subparsers(self, **how: Any) -> Declaration:
        """Commands."""
        return self._child("add_subparsers", (), how)

    def add_parser(self, name: str, **how: Any) -> Declaration:
        """A command."""
        return self._child("add_parser", (name,), how, f"{self.prog} {name}")

    def _child(self, method: str, names: tuple[str, ...], how: dict[str, Any], prog: str = "") -> Declaration:
        child = Declaration(prog or self.prog)
        self._notes.append((method, names, how, child))
        return child

    def repeat(self, parser: Any) -> None:
        """Declare the same to argparse."""
        for method, names, how, child in self._notes:
            made = getattr(parser, method)(*names, **how)
            if child is not None:
                child.repeat(made)

    # ---- using ---------------------------------------------------------------------------------------------------

    def error(self, message: str) -> NoReturn:
        """Refuse a line: exit with `USAGE`."""
        wrong_usage(self.prog, message)

    def get_default(self, name: str) -> Any:
        """What an argument is when it is not given."""
        return _Reader(self).values[name]

    def read(self, line: Sequence[str]) -> Options | None:
        """The values of a plain line; None where argparse has to read it."""
        for method, _, how, child in self._notes:
            if method == "add_subparsers" and child is not None and line:
                chosen = child._command(line[0])
                values = chosen and _Reader(chosen).read(line[1:])
                return Options({**values, how["dest"]: line[0]}) if values else None
        return None

    def _command(self, name: str) -> Declaration | None:
        return next((child for _, names, _, child in self._notes if names == (name,)), None)


class _Reader:
    """Reads one line of a command."""

    def __init__(self, declared: Declaration) -> None:
        self.values: dict[str, Any] = {}
        self.rest = ""  # the positional argument that takes all that follows
        self.plain = True
        self._options: dict[str, tuple[str, dict[str, Any]]] = {}
        self._required: set[str] = set()
        self._exclusive: list[set[str]] = []
        self._take(declared, None)

    def _take(self, declared: Declaration, together: set[str] | None) -> None:
        for method, names, how, child in declared._notes:
            if method == "add_argument":
                self._argument(names, how, together)
            elif method == "set_defaults":
                self.values.update(how)
            elif method == "add_argument_group" and child is not None:
                self._take(child, together)
            elif method == "add_mutually_exclusive_group" and child is not None and not how:
                self._exclusive.append(set())
                self._take(child, self._exclusive[-1])
            else:
                self.plain = False

    def _argument(self, names: tuple[str, ...], how: dict[str, Any], together: set[str] | None) -> None:
        action = how.get("action", "store")
        first = names[0]
        if first[0] != "-":
            self.rest = first
            self.plain = self.plain and how.get("nargs") == REMAINDER
            self.values[first] = []
            return
        dest = how.get("dest") or next((name for name in names if name[:2] == "--"), first).lstrip("-").replace(
            "-", "_"
        )
        default = how.get("default", False if action == "store_true" else None)
        known = action in ("store", "store_true", "append") and "nargs" not in how and "const" not in how
        self.plain = self.plain and known and not (isinstance(default, str) and "type" in how)
        self.values[dest] = default
        if how.get("required"):
            self._required.add(dest)
        if together is not None:
            together.add(dest)
        for name in names:
            self._options[name] = (dest, how)

    def read(self, line: Sequence[str]) -> dict[str, Any] | None:
        """The values, or None where the line, or what is declared, is not plain."""
        if not self.plain:
            return None
        given: set[str] = set()
        at = 0
        while at < len(line):
            word = line[at]
            if word == "--" or word[:1] != "-" or word == "-":
                if not self.rest:
                    return None
                self.values[self.rest] = list(line[at:])
                break
            name, equals, value = word.partition("=")
            if name not in self._options or (equals and name[:2] != "--"):
                return None
            dest, how = self._options[name]
            at += 1
            given.add(dest)
            if how.get("action") == "store_true":
                if equals:
                    return None
                self.values[dest] = True
                continue
            if not equals:
                if at == len(line) or (line[at][:1] == "-" and line[at] != "-"):
                    return None
                value = line[at]
                at += 1
            try:
                read = how["type"](value) if "type" in how else value
            except Exception:  # argparse will ask again, and say what is wrong
                return None
            if read not in how.get("choices", (read,)) or not value:
                return None
            self.values[dest] = [*self.values[dest], read] if how.get("action") == "append" else read
        if self._required - given or any(len(group & given) > 1 for group in self._exclusive):
            return None
        return self.values
