"""``pylsm diff``: what one run touched that another did not."""

from __future__ import annotations

from pylsm.cli.status import complain, say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

__all__ = ["add_parser"]

_TROUBLE = 2


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "diff",
        help="what one recording touched that another did not",
        description="Compare two recordings (--format json): hosts, files read, files written, commands run. What "
        "differs from run to run is taken out of names: pids in /proc, names of temporary files that mktemp, Python "
        "and gcc make, ephemeral ports of loopback addresses.",
        epilog="exit status: 0 the same was touched; 1 not the same; 2 it could not be told.\n\n"
        "examples:\n"
        "  pylsm diff before.jsonl after.jsonl\n"
        "  pylsm diff --only hosts --new old.jsonl new.jsonl     (what new hosts does this dependency talk to?)\n"
        "  pylsm diff --ignore '/var/cache/*' --json a.jsonl b.jsonl",
    )
    parser.add_argument("first", metavar="A", help='the recording to compare with ("-": standard input)')
    parser.add_argument("second", metavar="B", help="the recording that is compared")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="GLOB",
        help="leave out names that match, as they are shown (* matches slashes too); may be repeated",
    )
    parser.add_argument(
        "--only",
        metavar="KIND,...",
        help="compare only these: hosts, read, write, run, listen, other",
    )
    parser.add_argument("--new", action="store_true", help="only what B touched and A did not")
    parser.add_argument("--exact", action="store_true", help="names as they are: pids and random names differ")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(handler=_diff, parser=parser)


def _diff(options: Namespace) -> int:
    try:
        return _compare(options)
    except PylsmError as error:
        complain(error)
        return _TROUBLE


def _compare(options: Namespace) -> int:
    import json

    from pylsm.recording.diff import Side, difference
    from pylsm.recording.read import Recording
    from pylsm.recording.summary import shown
    from pylsm.recording.touched import CATEGORIES

    only = [name.strip() for name in (options.only or ",".join(CATEGORIES)).split(",") if name.strip()]
    for name in only:
        if name not in CATEGORIES:
            options.parser.error(f"--only: there is no {name!r}: choose from {', '.join(CATEGORIES)}")
    if options.first == options.second == "-":
        options.parser.error("only one of the recordings can be standard input")
    sides = []
    for path in (options.first, options.second):
        side = Side(exact=options.exact, ignored=options.ignore)
        recording = Recording(path)
        for values in recording:
            side.add(values)
        for remark in recording.remarks():
            say(remark)
        if not recording.events:
            raise PylsmError(
                f"{path} has no event, so there is nothing to compare",
                hint="record one: pylsm run --format json -o events.jsonl -- CMD",
            )
        if not side.complete:
            raise PylsmError(
                f"{path} touches too much to compare: more than a million names of a kind", hint="--ignore some"
            )
        sides.append(side)
    found = difference(*sides, categories=only, only_new=options.new)
    if options.json:
        print(
            json.dumps({"version": 1, "differs": bool(found), **found.to_dict()}, indent=2).replace("\x7f", "\\u007f")
        )
    elif found:
        print(f"--- {options.first}\n+++ {options.second}")
        print("\n".join(found.lines(shown)))
    return 1 if found else 0
