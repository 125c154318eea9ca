"""TOML, with errors that name the file: for the files that an operator writes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from pylsm.errors import PylsmError

__all__ = ["TomlError", "load", "loads", "quote"]

#: No file of ours needs more; what is larger is another file.
_LARGEST = 1 << 20


class TomlError(PylsmError):
    """A file that cannot be read, or is no TOML."""


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The table in a file.

    Raises:
        TomlError: it cannot be read, or see `loads`.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        raise TomlError(f"cannot read {name}: {error.strerror}", hint="name a TOML file that you may read") from None
    if len(data) > _LARGEST:
        raise TomlError(f"{name} is larger than {_LARGEST:,} bytes", hint="name a TOML file")
    try:
        return loads(data.decode(), name)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TomlError(f"{name}, line {line}: not UTF-8", hint="TOML files are UTF-8") from None


def loads(text: str, name: str = "text") -> dict[str, Any]:
    """The table in a text.

    Args:
        name: of it, for messages.

    Raises:
        TomlError: it is no TOML (the message has line and column), an integer has more than 64 bits, or Python is older
            than 3.11 and has no tomli.
    """
    try:
        parser: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    except ModuleNotFoundError:
        raise TomlError(
            f"cannot read {name}: this Python is older than 3.11 and has no tomli",
            hint="pip install 'pylsm[toml]', or use pylsm.pyz, which has it",
        ) from None
    try:
        table: dict[str, Any] = parser.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; a number of more digits than Python reads is a plain one
        raise TomlError(f"{name} is not TOML: {error}", hint="https://toml.io has the rules") from None
    except RecursionError:
        raise TomlError(f"{name} is not TOML: nested too deeply", hint="https://toml.io has the rules") from None
    _require_numbers(table, name)
    return table


def _require_numbers(table: dict[str, Any], name: str) -> None:
    """Refuse what TOML's 64 bits do not hold: Python reads more digits in hexadecimal than it prints."""
    waiting: list[Any] = [table]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise TomlError(f"{name} is not TOML: an integer has more than 64 bits", hint="write a smaller number")


def quote(value: object) -> str:
    """A value as TOML writes it: bool, int, float, str, or a list of these."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(quote, value)) + "]"
    return '"' + "".join(_SHORT.get(c) or (c if c.isprintable() else _escaped(ord(c))) for c in str(value)) + '"'


_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}


def _escaped(number: int) -> str:
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
