"""Allow-lists: what a family may touch, as a TOML file; what it touched besides; a list made from a recording."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from pylsm import toml
from pylsm.errors import PylsmError
from pylsm.recording.patterns import NAMED, PatternError, as_glob, glob, host, normal
from pylsm.recording.touched import CATEGORIES, Touched, touches

__all__ = ["Expectation", "ExpectationError", "generate", "load"]

_VERSION: Final = 1
#: Decisions that are remembered; what is touched again and again is most of it.
_REMEMBERED: Final = 100_000
#: Directories of programs and their data, whose files a generated list does not name one by one.
_FOLDED: Final = re.compile(r"(/(?:usr|lib|lib32|lib64|libx32|bin|sbin|nix/store|proc|sys)/)")


class ExpectationError(PylsmError):
    """An allow-list that cannot be used."""


class Expectation:
    """What may be touched.

    Args:
        allowed: category → patterns; what is touched of a category that is not in it is not looked at.
        path: of the file, for messages.

    Attributes:
        unexpected: what was touched besides.

    Raises:
        ExpectationError: a pattern is none; the message names its list.
    """

    def __init__(self, allowed: Mapping[str, Iterable[str]], path: str = "the allow-list") -> None:
        self.path = path
        self.unexpected = Touched(10_000)
        self.unchecked = tuple(category for category in CATEGORIES if category not in allowed)
        self._matches: dict[str, list[Callable[[str], object]]] = {}
        self._known: dict[tuple[str, str], bool] = {}
        for category, patterns in allowed.items():
            compiled = self._matches[category] = []
            for pattern in patterns:
                try:
                    if category in ("hosts", "listen"):
                        compiled.append(host(pattern))
                    else:
                        absolute = pattern[:1] in ("/", "*", "?", "[", "…") or NAMED.match(pattern)
                        if category != "other" and not absolute:
                            raise PatternError(
                                f"{pattern!r} matches no path: those are absolute",
                                hint=f"'/{pattern}' or '*/{pattern}'",
                            )
                        compiled.append(glob(pattern))
                except PatternError as error:
                    raise ExpectationError(f"{path}: {category}: {error}", hint=error.hint) from None

    def add(self, values: Mapping[str, Any]) -> None:
        """Hold an event against the list."""
        for category, name in touches(values):
            patterns = self._matches.get(category)
            if patterns is None:
                continue
            key = (category, name)
            expected = self._known.get(key)
            if expected is None:
                expected = any(matches(name) for matches in patterns)
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[key] = expected
            if not expected:
                self.unexpected.touch(category, name)


def load(path: str) -> Expectation:
    """Read an allow-list.

    Raises:
        ExpectationError: it cannot be read, is no TOML, or has what no allow-list has.
    """
    try:
        found = toml.load(path)
    except toml.TomlError as error:
        raise ExpectationError(
            f"the allow-list: {error}", hint="`pylsm expect EVENTS.jsonl > allow.toml` makes one"
        ) from None
    return from_dict(found, path)


def from_dict(found: Mapping[str, Any], path: str) -> Expectation:
    """An allow-list from what is in its file.

    Raises:
        ExpectationError: a key, a type or a value that none has.
    """
    allowed: dict[str, list[str]] = {}
    for key, value in found.items():
        if key == "version":
            if value != _VERSION or isinstance(value, bool):
                raise ExpectationError(f"{path}: version is {value!r}; this pylsm knows {_VERSION}")
        elif key not in CATEGORIES:
            import difflib

            near = difflib.get_close_matches(key, CATEGORIES, 1)
            raise ExpectationError(
                f"{path}: there is no list {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint="the lists are " + ", ".join(CATEGORIES),
            )
        elif not isinstance(value, list):
            raise ExpectationError(
                f"{path}: {key} is {value!r}, not a list", hint=f"write {key} = [{json.dumps(value, default=str)}]"
            )
        else:
            for item in value:
                if not isinstance(item, str):
                    raise ExpectationError(f"{path}: {key} has {item!r}, which is not a string")
            allowed[key] = value
    if not allowed:
        raise ExpectationError(
            f"{path} has no list, so everything would be expected", hint="the lists are " + ", ".join(CATEGORIES)
        )
    return Expectation(allowed, path)


def generate(touched: Touched, source: str, *, exact: bool = False, fold: Iterable[str] = ()) -> str:
    """An allow-list of all that was touched, as TOML.

    Args:
        touched: of one recording or more.
        source: where that is from, for a comment.
        exact: every name as it was: no directories folded, nothing taken for random.
        fold: directories of which everything below is allowed.
    """
    lines = [
        f"# What was touched in {_comment(source)}, made by `pylsm expect`: read it before you trust it.",
        "# `pylsm run --expect FILE -- CMD` exits with 3 when CMD touches anything else.",
        "# * matches slashes too. A list that is left out is not checked; an empty one allows nothing.",
        f"version = {_VERSION}",
    ]
    below = tuple(os.path.join(folder, "") for folder in fold)
    for category, (_, many) in CATEGORIES.items():
        globs: dict[str, int] = {}
        for name in touched.names[category]:
            pattern = _pattern(category, name, exact, below)
            globs[pattern] = globs.get(pattern, 0) + 1
        lines += ["", f"# {many}", f"{category} = ["]
        lines += [
            f"  {toml.quote(pattern)}," + (f"  # {count}" if count > 1 else "")
            for pattern, count in sorted(globs.items())
        ]
        lines.append("]")
        if touched.beyond[category]:
            lines.append(f"# incomplete: {touched.beyond[category]} further events touched what there was no room for")
    return "\n".join(lines) + "\n"


def _pattern(category: str, name: str, exact: bool, below: tuple[str, ...]) -> str:
    if category in ("hosts", "listen"):
        return name if exact else normal(name).replace("\1", "*")
    if category in ("read", "write"):
        for folder in below:
            if name.startswith(folder):
                return as_glob(folder) + "*"
    if category == "read" and not exact:
        found = _FOLDED.match(name)
        if found:
            return found[1] + "*"
    return as_glob(name if exact else normal(name))


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
