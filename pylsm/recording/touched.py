"""What a family touched: names in a few categories, whatever kinds of events said so.

Names are str with the bytes that are no UTF-8 as surrogates (`os.fsdecode`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["CATEGORIES", "CUT", "Touched", "name_of", "touches"]

#: Categories → what they are called, one of them and many.
CATEGORIES: Final = {
    "hosts": ("host", "hosts"),
    "read": ("file read", "files read"),
    "write": ("file written", "files written"),
    "run": ("command run", "commands run"),
    "listen": ("address listened on", "addresses listened on"),
    "other": ("other act", "other acts"),
}
#: What stands before a path whose front is not known; no path that is whole begins so.
CUT: Final = "…/"
#: Names kept of each category.
_LIMIT: Final = 100_000

_QUIET = frozenset(("exit", "fork", "heartbeat"))
_WRITES = frozenset(("unlink", "rename", "mkdir", "chmod"))


def name_of(values: Mapping[str, Any], field: str) -> str:
    """A field that holds bytes, exactly: as `os.fsdecode` gives them."""
    exact = values.get(field + "_hex")
    if isinstance(exact, str):
        try:
            return bytes.fromhex(exact).decode("utf-8", "surrogateescape")
        except ValueError:
            pass
    return str(values.get(field, ""))


def touches(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(category, name) of all that an event touched.

    Args:
        values: of a line of ``--format json``, of any kind: of one that is not known what its fields tell.
    """
    event = values["event"]
    if event in _QUIET:
        return
    if "dst_ip" in values:
        yield "hosts", _endpoint(values, "dst_ip", "dport")
    elif event == "exec":
        yield "run", _path(values, "path")
    elif event in ("bind", "listen") and "src_ip" in values:
        yield "listen", _endpoint(values, "src_ip", "sport")
    elif event == "open" and "path" in values:
        mode = values.get("mode", "r")
        if mode != "w":
            yield "read", _path(values, "path")
        if "w" in mode:
            yield "write", _path(values, "path")
    elif event in _WRITES and "path" in values:
        yield "write", _path(values, "path")
        if "new_path" in values:
            yield "write", name_of(values, "new_path")
    elif event == "mmap" and values.get("path"):
        yield "read", _path(values, "path")
    else:
        words = [str(event)]
        for field in ("protection", "command", "signal_number", "source", "path", "name"):
            if values.get(field) not in (None, ""):
                words.append(name_of(values, field))
        yield "other", " ".join(words)


def _endpoint(values: Mapping[str, Any], address: str, port: str) -> str:
    host, number = values[address], values.get(port, 0)
    shown = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    protocol = values.get("protocol")
    return f"{shown}/{protocol}" if protocol and protocol != "tcp" else shown


def _path(values: Mapping[str, Any], field: str) -> str:
    """A path; one whose front is missing is not taken for the whole path that its rest could be."""
    path = name_of(values, field)
    if values.get("truncated") or values.get("basename"):
        return CUT + path.lstrip("/")
    return path


class Touched:
    """Counts of all that was touched, of each category up to a number of names.

    Attributes:
        names: category → name → how often.
        beyond: category → how many events touched what there was no room for.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self.names: dict[str, dict[str, int]] = {category: {} for category in CATEGORIES}
        self.beyond: dict[str, int] = dict.fromkeys(CATEGORIES, 0)
        self._limit = limit

    def add(self, values: Mapping[str, Any]) -> None:
        """Take an event into account."""
        for category, name in touches(values):
            self.touch(category, name)

    def touch(self, category: str, name: str) -> None:
        """Count one name."""
        names = self.names[category]
        if name in names:
            names[name] += 1
        elif len(names) < self._limit:
            names[name] = 1
        else:
            self.beyond[category] += 1
