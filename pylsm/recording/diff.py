"""What one recording touched that another did not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pylsm.recording.patterns import glob, normal, shown_normal
from pylsm.recording.touched import CATEGORIES, Touched, touches

__all__ = ["Difference", "Side", "difference"]


class Side:
    """One of the two: all names that its events touched.

    Args:
        exact: names as they are, nothing taken out that differs from run to run.
        ignored: globs of names to be left out, as they are shown.
        limit: names of a category that are kept.

    Raises:
        PatternError: a glob is none.
    """

    def __init__(self, *, exact: bool = False, ignored: Iterable[str] = (), limit: int = 1_000_000) -> None:
        self.touched = Touched(limit)
        self._exact = exact
        self._ignored = [glob(pattern) for pattern in ignored]

    def add(self, values: Mapping[str, Any]) -> None:
        """Take an event into account."""
        for category, name in touches(values):
            shown = name if self._exact else shown_normal(normal(name))
            if not any(matches(shown) for matches in self._ignored):
                self.touched.touch(category, shown)

    @property
    def complete(self) -> bool:
        """There was room for every name."""
        return not any(self.touched.beyond.values())


class Difference:
    """Names by category, with how often they were touched.

    Attributes:
        gone: what only the first touched.
        new: what only the second touched.
    """

    def __init__(self, gone: dict[str, dict[str, int]], new: dict[str, dict[str, int]]) -> None:
        self.gone = gone
        self.new = new

    def __bool__(self) -> bool:
        return any(self.gone.values()) or any(self.new.values())

    def lines(self, show: Callable[[str], str]) -> list[str]:
        """For people: a heading for each category, + for what is new, - for what is gone."""
        lines = []
        for category, (_, many) in CATEGORIES.items():
            gone, new = self.gone.get(category, {}), self.new.get(category, {})
            if not gone and not new:
                continue
            lines.append(f"@@ {many}: {len(new)} new, {len(gone)} gone @@")
            for name, sign, count in sorted(
                [(name, "-", count) for name, count in gone.items()]
                + [(name, "+", count) for name, count in new.items()]
            ):
                lines.append(f"{sign} {show(name)}{f'  ({count} times)' if count > 1 else ''}")
        return lines

    def to_dict(self) -> dict[str, dict[str, list[str]]]:
        """For programs: category → {"new": names, "gone": names}, sorted."""
        return {
            category: {"new": sorted(self.new.get(category, ())), "gone": sorted(self.gone.get(category, ()))}
            for category in CATEGORIES
        }


def difference(
    first: Side, second: Side, *, categories: Iterable[str] = CATEGORIES, only_new: bool = False
) -> Difference:
    """Compare two recordings.

    Args:
        first, second: with all their events.
        categories: those to be compared.
        only_new: leave out what only the first touched.
    """
    gone, new = {}, {}
    for category in categories:
        one, other = first.touched.names[category], second.touched.names[category]
        new[category] = {name: count for name, count in other.items() if name not in one}
        gone[category] = {} if only_new else {name: count for name, count in one.items() if name not in other}
    return Difference(gone, new)
