"""What is looked at besides the lines: ``--summary`` and ``--expect``."""

from __future__ import annotations

from collections.abc import Iterable

from pylsm.audit.events import Event
from pylsm.audit.session import Counts
from pylsm.cli.status import LOST, UNEXPECTED, say
from pylsm.output.jsonl import to_dict
from pylsm.recording.expect import Expectation
from pylsm.recording.summary import shown, summary
from pylsm.recording.touched import CATEGORIES, Touched

__all__ = ["Watch", "report_unexpected"]

#: Names of a kind that are told one by one.
_TOLD = 50


class Watch:
    """Keeps what was touched.

    Args:
        touched: where all of it is counted, or None.
        expectation: what is held against, or None.
    """

    def __init__(self, touched: Touched | None, expectation: Expectation | None) -> None:
        self._touched = touched
        self._expectation = expectation

    def add(self, events: Iterable[Event]) -> None:
        """Take events into account."""
        for event in events:
            values = to_dict(event)
            if self._touched is not None:
                self._touched.add(values)
            if self._expectation is not None:
                self._expectation.add(values)

    def conclude(self, counts: Counts) -> int:
        """Say what was touched, and what was not expected.

        Returns:
            The exit status that this asks for: `UNEXPECTED`; `LOST` when nothing unexpected was seen, but not all was
            seen; 0 otherwise.
        """
        if self._touched is not None:
            for line in summary(self._touched):
                say(line)
        if self._expectation is None:
            return 0
        if report_unexpected(self._expectation):
            return UNEXPECTED
        unseen = counts.lost + counts.unreadable + counts.family_full + counts.skipped
        if self._expectation.unchecked:
            say(f"not looked at, since {self._expectation.path} has no list: {', '.join(self._expectation.unchecked)}")
        if unseen:
            say(f"error: nothing outside {self._expectation.path} was seen, but {unseen} events or children were not")
            return LOST
        return 0


def report_unexpected(expectation: Expectation) -> bool:
    """Say what is outside an allow-list; whether anything is."""
    unexpected = expectation.unexpected
    total = sum(map(len, unexpected.names.values()))
    if not total:
        return False
    say(f"error: {total} {'thing' if total == 1 else 'things'} touched outside {expectation.path}:")
    for category, (one, _) in CATEGORIES.items():
        for name, count in list(unexpected.names[category].items())[:_TOLD]:
            say(f"  {one}: {shown(name)}{f'  ({count} times)' if count > 1 else ''}")
        more = len(unexpected.names[category]) - _TOLD
        if more > 0:
            say(f"  … and {more} more of this kind")
        if unexpected.beyond[category]:
            say(f"  … and {unexpected.beyond[category]} further events")
    say(f"hint: add to {expectation.path} what is meant to be touched; `pylsm expect RECORDING` prints such lists")
    return True
