"""Exit statuses and messages, the same for every subcommand."""

from __future__ import annotations

import sys

from pylsm.errors import PylsmError
from pylsm.light import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Final

__all__ = ["CANNOT_EXECUTE", "LOST", "NOT_FOUND", "REFUSED", "UNEXPECTED", "USAGE", "complain", "say"]

USAGE: Final = 2
#: The family touched what --expect does not allow.
UNEXPECTED: Final = 3
#: Events were lost, and --on-loss exit or --expect was given.
LOST: Final = 4
#: pylsm's own failure: refused, or failed to attach (as env, timeout and chroot use it)
REFUSED: Final = 125
CANNOT_EXECUTE: Final = 126
NOT_FOUND: Final = 127


def say(message: str) -> None:
    """A line on standard error; lost without a word when nobody listens there."""
    if sys.stderr is None:  # closed before Python started
        return
    try:
        sys.stderr.write(f"pylsm: {message}\n")
        sys.stderr.flush()
    except OSError:
        pass


def complain(error: PylsmError) -> None:
    """What went wrong, and the next step."""
    say(f"error: {error}")
    if error.hint:
        say(f"hint: {error.hint}")
