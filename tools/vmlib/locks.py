"""Of several tools/vm that want the same thing made, one makes it."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator

from . import cache_directory

__all__ = ["lock"]


@contextlib.contextmanager
def lock(name: str) -> Iterator[None]:
    """Held by one process at a time, on this machine."""
    with open(cache_directory("locks") / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
