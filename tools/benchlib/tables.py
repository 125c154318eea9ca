"""Tables: the same rows for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Table", "markdown", "text"]


class Table(NamedTuple):
    """A table.

    Attributes:
        title: what it shows.
        header: column names; the first column is left-aligned, all others are right-aligned.
        rows: cells as text.
        notes: sentences that belong below it.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def text(table: Table) -> str:
    """For a terminal."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    out = [table.title, "-" * len(table.title)]
    for line in lines:
        cells = [cell.ljust(width) if not i else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
        out.append("  ".join(cells).rstrip())
    return "\n".join([*out, *(f"  {note}" for note in table.notes)]) + "\n"


def markdown(table: Table) -> str:
    """For a document, without the title."""
    out = [
        "| " + " | ".join(table.header) + " |",
        "|---" + "|---:" * (len(table.header) - 1) + "|",
        *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows),
    ]
    return "\n".join([*out, "", *table.notes]).rstrip() + "\n"
