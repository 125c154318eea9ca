"""Options from a file: every flag has its field in a ``pylsm.toml``, flags win, ``--print-config`` shows the result.

The fields are the options that the command line declares, under their long names with ``_`` for ``-``, and their values
go through the same checks: nothing is said twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pylsm import toml
from pylsm.cli.arguments import BadValue
from pylsm.errors import PylsmError

__all__ = ["ENABLE", "ConfigError", "Setting", "configurable", "field_of", "fields", "read", "settings", "shared"]

#: Options that are about the configuration itself, or belong to argparse.
_NOT_FIELDS = ("help", "config", "print_config")
ENABLE = "enable_lsm_audit"


class ConfigError(PylsmError):
    """A configuration that cannot be used; says file, field and value."""


class Setting(NamedTuple):
    """A field's value, as the file has it and as its option's own conversion does."""

    value: object
    converted: object


class _Origin(NamedTuple):
    value: object
    where: str


def field_of(action: argparse.Action) -> str | None:
    """The name of an option's field, None for what has none."""
    names = [name[2:].replace("-", "_") for name in action.option_strings if name.startswith("--")]
    return names[0] if names and names[0] not in _NOT_FIELDS else None


def fields(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The fields of a command, in the order of its help."""
    return {name: action for action in parser._actions for name in [field_of(action)] if name is not None}


def configurable(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands of a parser that take ``--config``, by name."""
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {
        name: command
        for name, command in commands.choices.items()
        if any("--config" in action.option_strings for action in command._actions)
    }


def shared(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The fields that a file may have: those of all commands that take ``--config``."""
    return {name: action for command in configurable(parser).values() for name, action in fields(command).items()}


def settings(table: Mapping[str, object], path: str, known: Mapping[str, argparse.Action]) -> dict[str, Setting]:
    """What a file sets, by field.

    Args:
        table: that is in it.
        path: of it, for messages.
        known: the fields that it may have.

    Raises:
        ConfigError: an unknown field, a value that its option refuses.
    """
    found = {}
    # Who is configured by a file has not asked for an audit by hand: the file has to.
    for name, value in {ENABLE: False, **table}.items():
        if name not in known:
            raise _unknown(path, name, known)
        found[name] = Setting(value, _convert(path, name, value, known[name]))
    return found


def read(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line with the file that it names: what the line does not say, the file says.

    The commands that take ``--config`` share a file: a field of another one is passed over.

    Args:
        parser: of all commands.
        arguments: the line.

    Raises:
        ConfigError: an unknown field, a value that its option refuses.
        TomlError: see `pylsm.toml.load`.
    """
    plain = parser.parse_args(arguments)
    commands = configurable(parser)
    own = fields(commands[plain.command_name])
    path: str | None = plain.config
    given = _given(parser, commands[plain.command_name], arguments)
    found: dict[str, object] = {}
    if path is not None:
        for name, (value, converted) in settings(toml.load(path), path, shared(parser)).items():
            if name in own and own[name].dest not in given:
                own[name].default = converted
                found[name] = value
    options = parser.parse_args(arguments)
    if options.print_config:
        _print(own, given, found, path)
        raise SystemExit(0)
    return options


def _given(
    parser: argparse.ArgumentParser, command: argparse.ArgumentParser, arguments: Sequence[str]
) -> dict[str, object]:
    """What the line says, as it says it: options by ``dest``, their values before any conversion."""
    saved = [(action, action.default, action.type) for action in command._actions]
    try:
        for action in command._actions:
            action.default, action.type = argparse.SUPPRESS, None
        return vars(parser.parse_args(arguments))
    finally:
        for action, default, kind in saved:
            action.default, action.type = default, kind


def _convert(path: str, name: str, value: object, action: argparse.Action) -> object:
    """A field's value, as the option's own conversion has it."""
    if action.nargs == 0:  # a switch
        if not isinstance(value, bool):
            raise _wrong(path, name, value, "true or false is wanted")
        return value
    if isinstance(action, argparse._AppendAction):
        items = value if isinstance(value, list) else [value]
        return [_scalar(path, name, item, action) for item in items]
    return _scalar(path, name, value, action)


def _scalar(path: str, name: str, value: object, action: argparse.Action) -> object:
    if value == action.default and type(value) is type(action.default):
        return value  # as it is without a file, which its conversion need not take
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _wrong(path, name, value, f"{'text' if action.type is None else 'text or a number'} is wanted")
    if action.type is None and not isinstance(value, str):
        raise _wrong(path, name, value, "text is wanted")
    converted: object = str(value)
    if action.type is not None:
        try:
            converted = action.type(str(value))  # type: ignore[operator]
        except (BadValue, ValueError, TypeError) as error:
            raise _wrong(path, name, value, str(error)) from None
    if action.choices is not None and converted not in action.choices:
        raise _wrong(path, name, value, "one of " + ", ".join(map(str, action.choices)) + " is wanted")
    return converted


def _wrong(path: str, name: str, value: object, why: str) -> ConfigError:
    return ConfigError(
        f"{path}: field {name!r} = {_show(value)}: {why}", hint="`pylsm attach --print-config` shows every field"
    )


def _show(value: object) -> str:
    try:
        return toml.quote(value) if not isinstance(value, dict) else "a table"
    except (TypeError, ValueError):
        return repr(value)


def _unknown(path: str, name: str, known: Mapping[str, object]) -> ConfigError:
    from difflib import get_close_matches

    near = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "`pylsm attach --print-config` shows every field"
    return ConfigError(f"{path}: there is no field {name!r}", hint=hint)


def _print(
    own: Mapping[str, argparse.Action], given: Mapping[str, object], found: Mapping[str, object], path: str | None
) -> None:
    """The configuration that results, as a file that gives it again."""
    for name, action in own.items():
        if action.dest in given:
            origin = _Origin(given[action.dest], "the command line")
        elif name in found:
            origin = _Origin(found[name], toml.quote(path))
        else:
            origin = _Origin(action.default, "default")
        unset = origin.value is None or origin.value == []
        line = f"# {name} =" if unset else f"{name} = {toml.quote(origin.value)}"
        print(f"{line:<40} # {'not set' if unset else origin.where}")
