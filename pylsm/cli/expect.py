"""``pylsm expect``: allow-lists from recordings, and recordings held against them."""

from __future__ import annotations

import sys

from pylsm.cli.status import LOST, UNEXPECTED, say
from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace, _SubParsersAction

__all__ = ["add_parser"]


def add_parser(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "expect",
        help="make an allow-list from a recording, or hold a recording against one",
        description="Print an allow-list (TOML) of all that recordings touched, for `pylsm run --expect`. Names that "
        "differ from run to run become patterns, as do files read below /usr, /lib, /bin, /sbin, /proc and /sys. With "
        "--check: say what recordings touched outside an allow-list.",
        epilog="exit status: 0; with --check: 3 something is outside, 4 nothing is but events were lost; 125 it cannot "
        "be read.\n\n"
        "examples:\n"
        "  pylsm expect events.jsonl > allow.toml\n"
        "  pylsm expect --fold /var/cache/app monday.jsonl tuesday.jsonl > allow.toml\n"
        "  pylsm expect --check allow.toml events.jsonl",
    )
    parser.add_argument("recording", nargs="+", metavar="FILE", help='recordings ("-": standard input)')
    parser.add_argument("--check", metavar="ALLOW", help="hold the recordings against this allow-list")
    parser.add_argument(
        "--fold", action="append", default=[], metavar="DIR", help="allow everything below DIR; may be repeated"
    )
    parser.add_argument("--exact", action="store_true", help="every name as it was, no patterns but those of --fold")
    parser.set_defaults(handler=_expect, parser=parser)


def _expect(options: Namespace) -> int:
    from pylsm.recording.expect import generate, load
    from pylsm.recording.read import Recording
    from pylsm.recording.touched import Touched

    expectation = load(options.check) if options.check is not None else None
    touched = Touched()
    lost = events = 0
    for path in options.recording:
        recording = Recording(path)
        for values in recording:
            if expectation is not None:
                expectation.add(values)
            else:
                touched.add(values)
        for remark in recording.remarks():
            say(remark)
        lost += recording.lost
        events += recording.events
    if not events:
        raise PylsmError(
            f"{', '.join(options.recording)}: no event",
            hint="record some: pylsm run --format json -o events.jsonl -- CMD",
        )
    if expectation is None:
        text = generate(touched, ", ".join(options.recording), exact=options.exact, fold=options.fold)
        sys.stdout.buffer.write(text.encode())
        return 0
    from pylsm.cli.watch import report_unexpected

    if report_unexpected(expectation):
        return UNEXPECTED
    if lost:
        say(f"error: nothing outside {expectation.path} is recorded, but {lost} events or children were lost")
        return LOST
    return 0
