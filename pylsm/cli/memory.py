"""How much memory the cgroups of this process allow it (cgroups(7))."""

from __future__ import annotations

from contextlib import suppress

__all__ = ["limit"]


def limit() -> int:
    """Bytes: the least that its memory cgroup and those above it allow; 0 for no limit, or where none is to be seen."""
    least = 0
    with suppress(OSError, ValueError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            if controllers in ("", "memory"):
                for found in _limits(path, unified=not controllers):
                    least = min(least, found) if least else found
    return least


def _limits(path: str, *, unified: bool) -> list[int]:
    """What each directory from this one up allows, if it says so."""
    top, name = ("/sys/fs/cgroup", "memory.max") if unified else ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
    found = []
    path = path.rstrip("/")
    while True:
        found += _number(f"{top}{path}/{name}")
        if not path:
            return found
        path = path.rpartition("/")[0]


def _number(path: str) -> list[int]:
    """What a file says, nothing where there is none, as at the top, or for "max"."""
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return [int(file.read())]
    return []
