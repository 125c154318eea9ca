"""tools/vm: run a command of this checkout, with this Python, under another kernel.

`arch` says what differs between architectures, `debian` is apt with a configuration of its own, `kernels`
fetches kernels, `userland` the Python and tools of another architecture, `cpio` writes archives, `python` finds
what this interpreter needs, `image` packs it all, `modules` adds kernel modules, `machine` runs QEMU and listens,
`guest_init` is process 1 inside, `cli` is the command line.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CHECKOUT", "MachineError", "cache_directory"]

CHECKOUT = Path(__file__).resolve().parents[2]


class MachineError(Exception):
    """The machine, not the command in it, failed: said in one message, answered with exit status 125."""


def cache_directory(name: str) -> Path:
    """A directory below the user's cache, made when missing."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(root) / "pylsm" / name
    path.mkdir(parents=True, exist_ok=True)
    return path
