"""The targets of issue 5, held against a result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from tools.benchlib.stats import TIMES, sample

__all__ = ["Verdict", "body", "helper", "judge"]

#: The C probe's sizes that the budgets refer to (clang 14 -O2 -mcpu=v3): hook → instructions, verified instructions.
C_PROBE = {"socket_connect": (183, 425), "file_open": (196, 229)}
_SIZE = {"socket_connect": 0.6, "file_open": 0.8}
#: (what, workload, which of our probes, at most this share of the C probe's cost)
_HOOKS = (
    ("untraced open", "same, untraced", "pylsm", 0.25),
    ("untraced connect", "connect, untraced", "pylsm", 0.25),
    ("traced repeat open", "same, traced", "pylsm", 0.5),
    ("traced new file, full path", "new, traced", "pylsm", 1.0),
    ("traced connect", "connect, traced", "pylsm", 0.6),
)


class Verdict(NamedTuple):
    """A target and what was measured: ``value`` is to be at most (or at least) ``limit``."""

    section: str
    what: str
    value: float
    limit: float
    unit: str = TIMES
    at_least: bool = False

    @property
    def ok(self) -> bool:
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def row(self) -> tuple[str, str, str, str]:
        sign = "≥" if self.at_least else "≤"
        return self.what, _number(self.value, self.unit), f"{sign} {_number(self.limit, self.unit)}", self.word

    @property
    def word(self) -> str:
        return "ok" if self.ok else "MISSED"


def _number(value: float, unit: str) -> str:
    if unit == TIMES:
        return f"{value:.2f}{TIMES}"
    return (f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.2f}") + (unit and " " + unit)


def body(cost: dict[str, dict[str, list[float]]], probe: str, cell: str) -> float:
    """What a probe adds to an empty program, in guest instructions: of runs that nothing interrupted."""
    workload = cell.split(",")[0]
    return min(cost[probe][cell]) - min(cost["empty"][f"{workload}, untraced"])


def helper(result: dict[str, Any], *parts: str) -> float:
    """What calls of the helpers of these parts (`tools.benchlib.helpers`) add to an empty program."""
    cost: float = min(result["helpers"][" ".join(parts)]) - min(result["cost"]["empty"]["new, untraced"])
    return cost


def judge(results: dict[str, Any]) -> list[Verdict]:
    """All targets that the sections in ``results`` tell something about."""
    verdicts: list[Verdict] = []
    for name, check in (
        ("hooks", _hooks),
        ("startup", _startup),
        ("reader", _reader),
        ("burst", _burst),
    ):
        if name in results and "failed" not in results[name]:
            verdicts += check(results[name])
    return verdicts


def _hooks(result: dict[str, Any]) -> Iterator[Verdict]:
    for hook, (slots, verified) in C_PROBE.items():
        info = result["programs"]["pylsm"][hook]
        yield Verdict("hooks", f"{hook}: instructions, over C's {slots}", info["slots"] / slots, _SIZE[hook])
        yield Verdict("hooks", f"{hook}: verified, over C's {verified}", info["verified"] / verified, _SIZE[hook])
    cost = result["cost"]
    if "c" in cost:
        for what, cell, probe, limit in _HOOKS:
            yield Verdict("hooks", f"{what}, over C", body(cost, probe, cell) / body(cost, "c", cell), limit)
        if "helpers" in result:
            last = body(cost, "pylsm", "new, traced") - helper(result, "path") + helper(result, "component")
            what = "traced new file, d_path's cost replaced by that of the last component, over C"
            yield Verdict("hooks", what, last / body(cost, "c", "new, traced"), 0.6)


def _startup(result: dict[str, Any]) -> Iterator[Verdict]:
    starts = {name: sample(each["ms"]) for name, each in result["starts"].items() if "ms" in each}
    warm, cold = starts["pylsm, warm"], starts["pylsm, cold"]
    if "C, libbpf" in starts:
        yield Verdict("startup", "warm start, over the C loader", warm.over(starts["C, libbpf"]), 1.0)
        yield Verdict("startup", "cold start, over the C loader", cold.over(starts["C, libbpf"]), 2.0)
    for name, limit in (("bpftrace", 1.0), ("BCC", 0.1)):
        if name in starts:
            yield Verdict("startup", f"cold start, over {name}", cold.over(starts[name]), limit)
    for name in ("warm", "cold"):
        peak = max(result["starts"][f"pylsm, {name}"]["rss_kb"])
        yield Verdict("startup", f"peak RSS of a {name} start", peak / 1024, 20, "MB")


def _reader(result: dict[str, Any]) -> Iterator[Verdict]:
    yield Verdict("reader", "records/s to events", sample(result["decode"]["pylsm"]).median, 1e6, "/s", True)
    for medium, rates in result["lines"].items():
        yield Verdict("reader", f"lines/s to JSON, {medium}", sample(rates).median, 3e5, "/s", True)
    yield Verdict("reader", "CPU of an idle agent", round(result["idle_percent"], 2), 0.05, "%")


def _burst(result: dict[str, Any]) -> Iterator[Verdict]:
    for where, bursts in result.items():
        lost = sum(each["lost"] for each in bursts.values())
        opens = sum(each["opens"] for each in bursts.values())
        yield Verdict("burst", f"records lost, {len(bursts)} bursts of together {opens:,} opens, {where}", lost, 0, "")
