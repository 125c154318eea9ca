"""What a family touched, as text for people: short however much it is."""

from __future__ import annotations

from collections.abc import Mapping

from pylsm.output.escape import escape
from pylsm.recording.touched import CATEGORIES, Touched

__all__ = ["shown", "summary"]

#: Lines of a category.
_LINES = 20


def shown(name: str) -> str:
    """A name that no terminal is fooled by."""
    try:
        return escape(name.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # a lone surrogate, which JSON can say, and which is in no name
        return escape(name.encode("utf-8", "surrogatepass"))


def summary(touched: Touched) -> list[str]:
    """Lines: for each category how many, and which; files of one directory together when there are many."""
    lines = []
    for category, (one, many) in CATEGORIES.items():
        names = touched.names[category]
        if not names and category in ("run", "listen", "other"):
            continue
        beyond = touched.beyond[category]
        more = f" or more ({beyond} further events)" if beyond else ""
        lines.append(f"{len(names)}{more} {one if len(names) == 1 else many}")
        if len(names) <= _LINES:
            lines += [f"  {shown(name)}{_times(count)}" for name, count in names.items()]
        elif category in ("read", "write"):
            lines += _directories(names)
        else:
            first = list(names.items())[:_LINES]
            lines += [f"  {shown(name)}{_times(count)}" for name, count in first]
            lines.append(f"  … and {len(names) - _LINES} more")
    return lines


def _times(count: int) -> str:
    return f"  ({count} times)" if count > 1 else ""


def _directories(names: Mapping[str, int]) -> list[str]:
    """At most `_LINES` lines: the deepest directories are folded into those above until they fit."""
    folders: dict[str, int] = {}
    for name in names:
        folder = name.rpartition("/")[0] + "/"
        folders[folder] = folders.get(folder, 0) + 1
    while len(folders) > _LINES:
        depth = max(folder.count("/") for folder in folders)
        if depth <= 1:
            break
        folded: dict[str, int] = {}
        for folder, count in folders.items():
            above = folder[:-1].rpartition("/")[0] + "/" if folder.count("/") == depth else folder
            folded[above] = folded.get(above, 0) + count
        folders = folded
    most = sorted(folders.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"  {shown(folder)}  {count} file{'' if count == 1 else 's'}" for folder, count in most[:_LINES]]
    left = sum(count for _, count in most[_LINES:])
    return lines + ([f"  … and {left} more"] if left else [])
