"""``pylsm schema``: the JSON Schema of our own JSON."""

from __future__ import annotations

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

__all__ = ["add_parser"]


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "schema",
        help="print the JSON Schema of --format json",
        description="Print the JSON Schema (draft 2020-12) of a line of --format json: every kind of event, its "
        "fields, their types and meanings.",
        epilog='Lines have "version": it is raised when a field goes or changes its meaning. New fields and new kinds\n'
        "come under the same version, so a reader has to take those it does not know.\n\n"
        "examples:\n"
        "  pylsm schema > pylsm.schema.json",
    )
    parser.add_argument(
        "--strict", action="store_true", help="one that refuses fields and kinds which this pylsm lacks"
    )
    parser.set_defaults(handler=_schema, parser=parser)


def _schema(options: Namespace) -> int:
    import json

    from pylsm.output.schema import schema

    print(json.dumps(schema(strict=options.strict), indent=2))
    return 0
