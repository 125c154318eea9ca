"""Pictures as SVG, written by hand: bars, distributions, curves. Readable on a light and on a dark page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Line", "bars", "curves"]

_WIDTH = 760
_COLOURS = ("#2f6fde", "#7aa7f0", "#e07b39", "#3f9e5a", "#9a5fc0", "#8a8a8a")
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#777}.t{font-size:14px;font-weight:600}"
    ".g{stroke:#999;stroke-opacity:.25}.m{stroke:#d33;stroke-dasharray:4 3}</style>"
)


class Line(NamedTuple):
    """A curve: its name and its points."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(title: str, groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Horizontal bars in groups: each group's name, and (name, value) of its bars."""
    names = list(dict.fromkeys(name for _, items in groups for name, _ in items))
    top = max(value for _, items in groups for _, value in items) or 1
    out: list[str] = []
    left, right, y = 190, 90, 50
    for index, name in enumerate(names):
        x = left + index % 3 * 190
        row = 34 + index // 3 * 16
        out.append(f'<rect x="{x}" y="{row - 9}" width="10" height="10" fill="{_COLOURS[index % len(_COLOURS)]}"/>')
        out.append(f'<text x="{x + 15}" y="{row}">{escape(name)}</text>')
        y = row + 16
    for group, items in groups:
        out.append(f'<text x="{left - 8}" y="{y + 8 * len(items) + 4}" text-anchor="end">{escape(group)}</text>')
        for name, value in items:
            width = max(1.0, value / top * (_WIDTH - left - right))
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            out.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="13" fill="{colour}"/>')
            out.append(f'<text x="{left + width + 5:.1f}" y="{y + 11}">{_short(value)}</text>')
            y += 16
        y += 12
    out.append(f'<text x="{left}" y="{y + 6}">{escape(unit)}</text>')
    return _page(title, y + 18, out)


def curves(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    log_x: bool = True,
    log_y: bool = False,
    mark: float | None = None,
) -> str:
    """Curves over a common axis; from zero where the scale has one. ``mark`` is a value on y to be seen."""
    left, right, top, bottom, height = 80, 20, 66, 50, 380
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + ([mark] if mark is not None else [])
    x_low, x_high = min(xs), max(xs)
    y_low = min(y for y in ys if y > 0) if log_y else 0.0
    y_high = max(ys) * (1 if log_y else 1.08)

    def place(value: float, low: float, high: float, log: bool) -> float:
        if log:
            value, low, high = (math.log10(max(each, 1e-12)) for each in (value, low, high))
        return (value - low) / ((high - low) or 1)

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + place(x, x_low, x_high, log_x) * (_WIDTH - left - right)
        return across, height - bottom - place(y, y_low, y_high, log_y) * (height - top - bottom)

    out = []
    for tick in _ticks(y_low, y_high, log_y):
        _, y = at(x_low, tick)
        out.append(f'<line class="g" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    for tick in _ticks(x_low, x_high, log_x):
        x, _ = at(tick, y_high)
        out.append(f'<line class="g" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>')
        out.append(f'<text x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">{_short(tick)}</text>')
    if mark is not None:
        _, y = at(x_low, mark)
        out.append(f'<line class="m" x1="{left}" x2="{_WIDTH - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    for index, line in enumerate(lines):
        colour = _COLOURS[index % len(_COLOURS)]
        path = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in line.points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line.points) <= 20:
            for x, y in (at(*point) for point in line.points):
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        across, row = left + index % 4 * 165, 38 + index // 4 * 16
        out.append(f'<rect x="{across}" y="{row - 9}" width="10" height="10" fill="{colour}"/>')
        out.append(f'<text x="{across + 15}" y="{row}">{escape(line.name)}</text>')
    middle = (left + _WIDTH - right) / 2
    out.append(f'<text x="{middle}" y="{height - 12}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f"translate(14 {height / 2}) rotate(-90)"
    out.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>')
    return _page(title, height, out)


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        if last > first:
            return [10.0**power for power in range(first, last + 1)]
        return [low, high]
    step = 10 ** math.floor(math.log10((high - low) or 1))
    for factor in (0.2, 0.5, 1):
        if (high - low) / (step * factor) <= 8:
            step *= factor
            break
    return [low + step * index for index in range(int((high - low) / step + 1e-9) + 1)]


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:.3g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.3g}k"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _page(title: str, height: float, content: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" '
        f'height="{height:.0f}" role="img" aria-label="{escape(title)}">\n{_STYLE}\n'
        f'<text class="t" x="10" y="18">{escape(title)}</text>\n' + "\n".join(content) + "\n</svg>\n"
    )
