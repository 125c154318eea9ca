"""``pylsm report``: a recording as one page for a browser."""

from __future__ import annotations

from pylsm.cli.status import say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

__all__ = ["add_parser"]


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "report",
        help="make a page for a browser from a recording",
        description="Make one self-contained HTML page from a recording (--format json): what was touched, the "
        "process tree, a timeline, destinations by network, files by directory, every event, with search. It loads "
        "nothing from elsewhere and can be sent as it is. What was lost is said at its top.",
        epilog="exit status: 0; 125 the recording cannot be read or has no event.\n\n"
        "examples:\n"
        "  pylsm run --format json --heartbeat 5 -o events.jsonl -- make test\n"
        "  pylsm report events.jsonl -o report.html",
    )
    parser.add_argument("file", metavar="FILE", help='the recording ("-": standard input)')
    parser.add_argument("-o", "--output", metavar="FILE", help="write the page to FILE (default: standard output)")
    parser.add_argument(
        "--max-events",
        type=_positive,
        default=500_000,
        metavar="N",
        help="events on the page; those behind are counted only (default: 500000)",
    )
    parser.set_defaults(handler=_report, parser=parser)


def _positive(text: str) -> int:
    from pylsm.cli.options import positive

    return positive(text)


def _report(options: Namespace) -> int:
    from pylsm.cli.sink import Sink
    from pylsm.recording.read import Recording
    from pylsm.recording.report import page

    recording = Recording(options.file)
    text, shown = page(recording, options.max_events)
    for remark in recording.remarks():
        say(remark)
    if not shown:
        raise PylsmError(
            f"{options.file} has no event, so there is nothing to report",
            hint="record one: pylsm run --format json -o events.jsonl -- CMD",
        )
    with Sink(options.output) as sink:
        sink.write([text])
    return 0
