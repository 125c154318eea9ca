"""``pylsm detach``: end an audit that ``attach --pin`` left in the kernel."""

from __future__ import annotations

import argparse

from pylsm.cli.status import say

__all__ = ["add_parser"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "detach",
        help="end an audit that attach --pin left in the kernel",
        description="Detach the programs pinned in DIR by `pylsm attach --pin DIR` and remove what is pinned there, "
        "records that nobody has read included; also what is left of a directory that is damaged or unfinished. What "
        "pylsm did not make is left alone, and named.",
        epilog="exit status: 0 all removed, 125 something is left (the message says what)\n\n"
        "example:\n  pylsm detach /sys/fs/bpf/audit",
    )
    parser.add_argument("directory", metavar="DIR", help="the directory that --pin was given")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing when all went well")
    parser.set_defaults(handler=_detach)


def _detach(options: argparse.Namespace) -> int:
    from pylsm.audit.pinned import remove

    removed = remove(options.directory)
    if not options.quiet:
        links = sum(entry.startswith("link-") for entry in removed)
        say(f"{options.directory}: {links} program{'s' * (links != 1)} detached, {len(removed)} pins removed")
    return 0
