"""Figures as SVG, made by hand: panels with logarithmic axes, one line each.

Pure.  Colours are given with the figure, on a white ground, so that it reads the same on every page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 280  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 40, 40, 46  # of a panel, around its plot
COLUMNS = 2
HEADING = 34
INK, GRID, LINE, LIMIT = "#222222", "#dddddd", "#1f5fa8", "#b03030"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: `points` are (x, y), all above 0, in the order of x; `limit` is a y that should not be passed."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float, float]]
    limit: float | None = None
    limit_label: str = ""

    def __post_init__(self) -> None:
        if not self.points or any(min(point) <= 0 for point in self.points):
            raise ValueError(f"{self.title}: a logarithmic axis needs points above 0")


def figure(heading: str, panels: Sequence[Panel]) -> str:
    """Return a file of all panels."""
    return page(heading, [_panel(panel) for panel in panels])


def page(heading: str, plots: Sequence[Iterable[str]]) -> str:
    """Return a file of plots, each of the elements that draw it, side by side in rows."""
    rows = -(-len(plots) // COLUMNS)
    width, height = WIDTH * min(COLUMNS, len(plots)), HEADING + HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' font-family="sans-serif" font-size="11" fill="{INK}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="{width / 2:g}" y="22" text-anchor="middle" font-size="14">{escape(heading)}</text>',
    ]
    for place, plot in enumerate(plots):
        left, top = place % COLUMNS * WIDTH, HEADING + place // COLUMNS * HEIGHT
        parts += [f'<g transform="translate({left} {top})">', *plot, "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def decades(values: Sequence[float]) -> range:
    """Return the exponents of the powers of ten that enclose all values, two at least."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return range(low, max(high, low + 1) + 1)


def tick(exponent: int) -> str:
    """Return a power of ten as an axis shows it."""
    if exponent < 0:
        return f"{10.0**exponent:.{-exponent}f}"
    return f"{10**exponent:,}"


def value(number: float) -> str:
    """Return a number with three significant digits."""
    if number >= 100:
        return f"{float(f'{number:.3g}'):,.0f}"
    return f"{number:.3g}"


def _panel(panel: Panel) -> Iterator[str]:
    xs, ys = [x for x, _ in panel.points], [y for _, y in panel.points]
    across, up = decades(xs), decades([*ys, *([panel.limit] if panel.limit else [])])

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - across[0]) / (across[-1] - across[0]) * (WIDTH - LEFT - RIGHT)
        high = (math.log10(y) - up[0]) / (up[-1] - up[0]) * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - high

    yield f'<text x="{LEFT}" y="{TOP - 14}" font-size="13">{escape(panel.title)}</text>'
    yield from _axes(panel, across, up)
    if panel.limit:
        _, y = place(xs[0], panel.limit)
        yield line(LEFT, y, WIDTH - RIGHT, y, LIMIT, ' stroke-dasharray="5 3"')
        label = escape(panel.limit_label)
        yield f'<text x="{WIDTH - RIGHT - 2}" y="{y - 4:.1f}" text-anchor="end" fill="{LIMIT}">{label}</text>'
    places = [place(x, y) for x, y in panel.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    yield f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="2"/>'
    for (x, y), (_, shown) in zip(places, panel.points, strict=True):
        anchor = "end" if x > WIDTH - RIGHT - 10 else "start" if x < LEFT + 10 else "middle"
        under = y + 16 if y + 20 < HEIGHT - BOTTOM else y - 9
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{LINE}"/>'
        yield f'<text x="{x:.1f}" y="{under:.1f}" text-anchor="{anchor}" fill="{LINE}">{value(shown)}</text>'


def _axes(panel: Panel, across: range, up: range) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for exponent in across:
        x = LEFT + (exponent - across[0]) / (across[-1] - across[0]) * (right - LEFT)
        yield line(x, TOP, x, bottom, GRID)
        yield f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{tick(exponent)}</text>'
    for exponent in up:
        y = bottom - (exponent - up[0]) / (up[-1] - up[0]) * (bottom - TOP)
        yield line(LEFT, y, right, y, GRID)
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick(exponent)}</text>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle:g}" y="{HEIGHT - 12}" text-anchor="middle">{escape(panel.x_label)}</text>'
    yield (
        f'<text transform="translate(12 {(TOP + bottom) / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(panel.y_label)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'
