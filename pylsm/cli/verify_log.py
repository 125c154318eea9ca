"""``pylsm verify-log``: whether a log is whole."""

from __future__ import annotations

import argparse

from pylsm.cli.status import say
from pylsm.errors import PylsmError

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "verify-log",
        help="prove that no event is missing from a log",
        description="Read a log written with --format json --heartbeat SECONDS and say whether every event that was "
        "recorded is in it, and otherwise where how many are missing.",
        epilog="exit status: 0 the log is whole; 1 something is missing; 125 it cannot be read.\n\n"
        "examples:\n"
        "  pylsm run --format json --heartbeat 5 -o events.jsonl -- make test\n"
        "  pylsm verify-log events.jsonl",
    )
    parser.add_argument("file", metavar="FILE", help="the log")
    parser.set_defaults(handler=_verify, parser=parser)


def _verify(options: argparse.Namespace) -> int:
    from pylsm.output.heartbeat import verify

    try:
        with open(options.file, "rb") as file:
            verdict = verify(file)
    except OSError as error:
        raise PylsmError(
            f"cannot read {options.file}: {error.strerror}", hint="name a log written with -o, or the file it went to"
        ) from None
    for sentence in verdict.missing:
        say(sentence)
    state = "not whole" if verdict.missing else "whole"
    print(
        f"{options.file}: {state}: {verdict.events} events, {verdict.heartbeats} heartbeats, "
        f"{verdict.lost} lost in the kernel for want of room"
    )
    return 1 if verdict.missing else 0
