"""Many programs, one table: how often each verdict came, and the seed that got it first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pylsm.asm.program import Program
from pylsm.research.outcome import Outcome, try_load

__all__ = ["Campaign", "Tally", "campaign"]


class Tally(NamedTuple):
    """One class of outcome: how many programs, and the first one's seed and outcome."""

    programs: int
    seed: int
    first: Outcome


class Campaign(NamedTuple):
    """The result of `campaign`: classes in descending frequency, and seconds in all."""

    tallies: dict[str, Tally]
    programs: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Programs made, loaded and classified in a minute."""
        return self.programs / self.seconds * 60 if self.seconds else 0.0

    def __str__(self) -> str:
        lines = [
            f"{tally.programs:>8,}  {tally.programs / self.programs:6.1%}  seed {tally.seed:<8}  {kind}"
            for kind, tally in self.tallies.items()
        ]
        lines.append(f"{self.programs:>8,}  programs in {self.seconds:.1f} s: {self.per_minute:,.0f} a minute")
        return "\n".join(lines)


def campaign(
    make: Callable[[int], Program],
    seeds: Iterable[int],
    judge: Callable[[Program], Outcome] = try_load,
) -> Campaign:
    """Judge one program per seed.

    Args:
        make: seed → program, such as `pylsm.asm.generate.generate`.
        seeds: which.
        judge: program → outcome; by default the running kernel's verifier.
    """
    found: dict[str, Tally] = {}
    programs = 0
    start = time.perf_counter()
    for seed in seeds:
        outcome = judge(make(seed))
        programs += 1
        known = found.get(outcome.kind)
        found[outcome.kind] = known._replace(programs=known.programs + 1) if known else Tally(1, seed, outcome)
    seconds = time.perf_counter() - start
    return Campaign(dict(sorted(found.items(), key=lambda item: -item[1].programs)), programs, seconds)
