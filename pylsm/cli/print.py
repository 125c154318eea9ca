"""``pylsm print``: files to be installed beside pylsm."""

from __future__ import annotations

import pkgutil
import sys

from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_parser"]

_FILES = {
    "bash": "bash/pylsm",
    "zsh": "zsh/_pylsm",
    "man": "man/pylsm.1",
    "unit": "pylsm.service",
    "config": "pylsm.toml",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "print",
        help="print a file to install: shell completion, man page, systemd unit, configuration",
        description="Print a file that belongs beside pylsm on a host.",
        epilog="examples:\n"
        "  pylsm print bash > /etc/bash_completion.d/pylsm\n"
        "  pylsm print zsh > /usr/local/share/zsh/site-functions/_pylsm\n"
        "  pylsm print man > /usr/local/share/man/man1/pylsm.1\n"
        "  pylsm print unit > /etc/systemd/system/pylsm.service\n"
        "  pylsm print config > /etc/pylsm.toml",
    )
    parser.add_argument("file", choices=tuple(_FILES), help="which")
    parser.set_defaults(handler=_print, parser=parser)


def _print(options: argparse.Namespace) -> int:
    data = pkgutil.get_data("pylsm", f"share/{_FILES[options.file]}")
    assert data is not None
    sys.stdout.write(data.decode())
    return 0
