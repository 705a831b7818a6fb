"""How much waits at each site, by age: for programs, with stable keys, and for people, as a table like qshape(1)'s.

Pure.  What is counted are recipients; those that are held have a column of their own, and are in no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import groupby
from typing import Any

from relayd.mail.back_off import BackOff
from relayd.spool.queue import AGES, Shape
from relayd.view.shown import iso_time, short_time

MINUTES = tuple(int(age.total_seconds()) // 60 for age in AGES)
COLUMNS = ("T", *(str(minutes) for minutes in MINUTES), f"{MINUTES[-1]}+", "held")
UNKNOWN = "?"  # destinations that nobody has looked up yet
WIDEST = 44  # characters of a name
NARROWEST = 4  # of a number


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Some shapes, summed; `destination` is None where there may be several, `site` where it is not known."""

    destination: str | None = None
    site: str | None = None
    destinations: int
    ages: tuple[int, ...]
    held: int
    in_flight: int
    oldest: datetime | None

    @property
    def total(self) -> int:
        """How many wait and are not held."""
        return sum(self.ages)


def by_site(shapes: Iterable[Shape]) -> Iterator[Row]:
    """Yield a row for each site, and one for what was not looked up."""
    in_order = sorted(shapes, key=lambda shape: shape.site or "")
    for site, group in groupby(in_order, key=lambda shape: shape.site):
        yield _summed([_row(shape) for shape in group], site=site)


def by_destination(shapes: Iterable[Shape]) -> Iterator[Row]:
    """Yield a row for each destination."""
    yield from map(_row, shapes)


def in_order(rows: Iterable[Row]) -> list[Row]:
    """Return those with most first."""
    return sorted(rows, key=lambda row: (-row.total, -row.held))


def _row(shape: Shape) -> Row:
    return Row(
        destination=shape.destination,
        site=shape.site,
        destinations=1,
        ages=shape.ages,
        held=shape.held,
        in_flight=shape.in_flight,
        oldest=shape.oldest,
    )


def _summed(rows: Sequence[Row], *, site: str | None = None) -> Row:
    nothing = (0,) * (len(AGES) + 1)
    return Row(
        site=site,
        destinations=sum(row.destinations for row in rows),
        ages=tuple(map(sum, zip(nothing, *(row.ages for row in rows), strict=True))),
        held=sum(row.held for row in rows),
        in_flight=sum(row.in_flight for row in rows),
        oldest=min((row.oldest for row in rows if row.oldest), default=None),
    )


# printing


def shape_table(rows: Sequence[Row], limit: int, back_offs: Mapping[str, BackOff]) -> Iterator[str]:
    """Yield the lines of a table of the first `limit` rows, the sum of the others, and of all."""
    lines = [("TOTAL", _summed(rows), "")]
    lines += [(_name(row), row, _out_of_reach(row, back_offs)) for row in rows[:limit]]
    if len(rows) > limit:
        lines.append((f"{len(rows) - limit} others", _summed(rows[limit:]), ""))
    wide = max(len(name) for name, *_ in lines)
    cells = [[str(number) for number in (row.total, *row.ages, row.held)] for _, row, _ in lines]
    widths = [max(NARROWEST, *map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]

    def line(name: str, numbers: Iterable[str], remark: str) -> str:
        columns = "  ".join(f"{number:>{width}}" for number, width in zip(numbers, widths, strict=True))
        return f"{name:<{wide}}  {columns}  {remark}".rstrip()

    yield line("", COLUMNS, "")
    for (name, _, remark), numbers in zip(lines, cells, strict=True):
        yield line(name, numbers, remark)
    if any(row.site is None for row in rows[:limit]):
        yield f"{UNKNOWN}: not looked up yet"


def _name(row: Row) -> str:
    name = row.destination or row.site or UNKNOWN
    return name if len(name) <= WIDEST else f"{name[: WIDEST - 3]}..."


def _out_of_reach(row: Row, back_offs: Mapping[str, BackOff]) -> str:
    mark = UNKNOWN if row.destination and row.site is None else ""
    known = back_offs.get(row.site or "")
    if known is None:
        return mark
    times = "once" if known.failures == 1 else f"{known.failures} times in a row"
    return f"out of reach {times}, until {short_time(known.retry_at)}"


def shape_summary(
    rows: Sequence[Row], limit: int, back_offs: Mapping[str, BackOff], now: datetime, *, by: str
) -> dict[str, Any]:
    """Return the same for programs, with stable keys."""
    written = partial(_written, back_offs=back_offs)
    return {
        "at": iso_time(now),
        "by": by,
        "minutes": MINUTES,
        "total": written(_summed(rows)),
        "rows": [written(row) for row in rows[:limit]],
        "others": written(_summed(rows[limit:])) if len(rows) > limit else None,
    }


def _written(row: Row, back_offs: Mapping[str, BackOff]) -> dict[str, Any]:
    known = back_offs.get(row.site or "")
    return {
        "site": row.site,
        "destination": row.destination,
        "destinations": row.destinations,
        "total": row.total,
        "ages": row.ages,
        "held": row.held,
        "in_flight": row.in_flight,
        "oldest": iso_time(row.oldest) if row.oldest else None,
        "back_off": back_off_summary(known) if known else None,
    }


def back_off_summary(known: BackOff) -> dict[str, Any]:
    """Return a site's back-off as JSON has it."""
    return {
        "failures": known.failures,
        "since": iso_time(known.since),
        "until": iso_time(known.retry_at),
        "reply": known.reply,
        "dsn": known.dsn,
        "host": known.peer,
    }
