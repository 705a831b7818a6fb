"""One frame of `relayd top`, of what the daemon says of itself (monitoring.py).

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from relayd.view.shown import printable

BARS = " ▁▂▃▄▅▆▇█"
RATES = (("accepted", "bright_black"), ("delivered", "green"), ("deferred", "yellow"), ("failed", "red"))
TIMES = (("median", "blue"), ("slow", "magenta"))
NAMES = {"median": "half within", "slow": "95 % within"}
HEAD = 12  # lines above the tables


def frame(found: Mapping[str, Any], width: int, height: int) -> RenderableType:
    """Return it, for so many columns and lines."""
    now, past = found["now"], found["past"]["samples"]
    left = max(height - HEAD, 8)
    sites = [site for site in now["sites"] if site["site"] != "other" or site["connections"]]
    rows = min(len(sites), left // 2 - 1)
    return Group(
        _verdict(now),
        _figures(now),
        Text(),
        *(_curve(name, colour, past[name], width, _rate) for name, colour in RATES),
        *(_curve(name, colour, past[name], width, _span) for name, colour in TIMES),
        Text(),
        _sites(sites[:rows], width),
        _setbacks(now["setbacks"][: max(left - rows - 2, 2)], width),
    )


def _verdict(now: Mapping[str, Any]) -> Text:
    head = f"relayd {now['version']}  {now['at']}  "
    if now["why"]:
        return Text.assemble(head, (printable("; ".join(now["why"])), "bold red"))
    return Text.assemble(head, ("mail flows", "bold green"))


def _figures(now: Mapping[str, Any]) -> Text:
    queue = now["queue"]["total"] if now["queue"] else {}
    words = [f"{how} {count}" for how, count in queue.items()] or ["queue not counted yet"]
    words.append(f"connections {now['connections']} of {now['connections_max']}")
    words.append(f"sites out of reach {now['sites_backing_off']}")
    words.append(f"longest due {_span(now['oldest_due'])}")
    return Text("   ".join(words), no_wrap=True, overflow="ellipsis")


def _curve(name: str, colour: str, values: Sequence[float | None], width: int, words: Any) -> Text:
    room = max(width - 26, 10)
    shown = list(values)[-room:]
    most = max((value for value in shown if value), default=0) or 1
    bars = "".join(" " if value is None else BARS[_height(value, most)] for value in shown)
    last = next((value for value in reversed(shown)), None)
    return Text.assemble(f"{NAMES.get(name, name):12}{words(last):>9}  ", (f"{bars:>{room}}", colour))


def _height(value: float, most: float) -> int:
    return max(1, round(8 * value / most)) if value else 0


def _sites(sites: Sequence[Mapping[str, Any]], width: int) -> Table:
    table = _table(width, "site", "conn.", "again in", "what it said")
    for site in sites:
        again = _span(site["back_off"]) if site["back_off"] else ""
        table.add_row(_cell(site["site"]), f"{site['connections']}/{site['window']}", again, _cell(site["reason"]))
    return table


def _setbacks(setbacks: Sequence[Mapping[str, Any]], width: int) -> Table:
    table = _table(width, "lately not delivered", "at", "what", "said")
    for each in setbacks:
        table.add_row(_cell(each["who"]), each["at"][11:19], each["status"], _cell(each["reply"]))
    return table


def _table(width: int, *heads: str) -> Table:
    table = Table(box=None, pad_edge=False, width=width, header_style="bold")
    wide = max(width // 3, 16)
    table.add_column(heads[0], width=wide, no_wrap=True, overflow="ellipsis")
    table.add_column(heads[1], width=8, no_wrap=True)
    table.add_column(heads[2], width=9, no_wrap=True)
    table.add_column(heads[3], no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def _cell(text: str) -> Text:
    return Text(printable(text))


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}/s"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.3g} s"
