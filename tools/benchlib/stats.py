"""Several runs of one measurement: the median, with how far the others lie from it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["TIMES", "Sample", "sample"]

#: The sign of a ratio.
TIMES = "\N{MULTIPLICATION SIGN}"


class Sample(NamedTuple):
    """The median of some runs, the lowest and the highest of them."""

    median: float
    low: float
    high: float
    runs: int

    @property
    def spread(self) -> float:
        """Half the distance between lowest and highest, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def over(self, other: Sample) -> float:
        """The ratio of the medians."""
        return self.median / other.median if other.median else float("inf")

    def __str__(self) -> str:
        number = f"{self.median:,.0f}" if self.median >= 100 else f"{self.median:.3g}"
        return f"{number} ±{self.spread:.1%}"


def sample(values: Sequence[float]) -> Sample:
    """The sample of these runs; at least one."""
    return Sample(statistics.median(values), min(values), max(values), len(values))
