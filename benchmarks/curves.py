"""What was sampled over time, drawn as SVG: panels with straight axes, a line for each curve.

Pure.  It goes with benchmarks/svg.py, whose panels have logarithmic axes and few points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from benchmarks.svg import BOTTOM, GRID, HEIGHT, INK, LEFT, LIMIT, LINE, TOP, WIDTH, line, page

RIGHT = 20
COLOURS = (LINE, LIMIT, "#2f8f4e", "#8a5fb0")
TICKS = 5
MINUTE = 60.0

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One plot: `curves` by name, each of (seconds, value); the vertical lines of `events` are at seconds."""

    title: str
    y_label: str
    curves: Mapping[str, Points]
    events: Sequence[float] = field(default=())

    def __post_init__(self) -> None:
        if not any(self.curves.values()):
            raise ValueError(f"{self.title}: there is nothing to draw")


def figure(heading: str, charts: Sequence[Chart]) -> str:
    """Return a file of all charts; their time is in minutes."""
    return page(heading, [_chart(chart) for chart in charts])


def step(most: float) -> float:
    """Return the distance of the marks of an axis from 0 to `most`: 1, 2 or 5 times a power of ten."""
    raw = max(most, 1e-9) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * each for each in (1, 2, 5, 10) if power * each >= raw)


def _chart(chart: Chart) -> Iterator[str]:
    everything = [point for points in chart.curves.values() for point in points]
    across = step(max(x for x, _ in everything) / MINUTE)
    up = step(max(y for _, y in everything))
    minutes = across * math.ceil(max(x for x, _ in everything) / MINUTE / across)
    top = up * max(math.ceil(max(y for _, y in everything) / up), 1)

    def place(x: float, y: float) -> tuple[float, float]:
        right, high = x / MINUTE / minutes * (WIDTH - LEFT - RIGHT), y / top * (HEIGHT - TOP - BOTTOM)
        return LEFT + right, HEIGHT - BOTTOM - high

    yield f'<text x="{LEFT}" y="{TOP - 14}" font-size="13">{escape(chart.title)}</text>'
    for number in range(round(minutes / across) + 1):
        x, y = place(number * across * MINUTE, 0)
        yield line(x, TOP, x, y, GRID)
        yield f'<text x="{x:.1f}" y="{y + 15:.1f}" text-anchor="middle">{number * across:g}</text>'
    for number in range(round(top / up) + 1):
        x, y = place(0, number * up)
        yield line(x, y, WIDTH - RIGHT, y, GRID)
        yield f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{number * up:,g}</text>'
    for event in chart.events:
        x, y = place(event, 0)
        yield line(x, TOP, x, y, INK, ' stroke-dasharray="2 4"')
    yield from _labels(chart)
    for (_, points), colour in zip(chart.curves.items(), COLOURS, strict=False):
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _labels(chart: Chart) -> Iterator[str]:
    yield f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 12}" text-anchor="middle">minutes</text>'
    yield (
        f'<text transform="translate(12 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(chart.y_label)}</text>"
    )
    for place, (name, colour) in enumerate(zip(chart.curves, COLOURS, strict=False)):
        x = WIDTH - RIGHT - 4
        yield f'<text x="{x}" y="{TOP - 14 + 12 * place}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
