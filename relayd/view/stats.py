"""How much waits, how much has finished: for programs, with stable keys, and for people, in lines.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from relayd.mail.recipient import Status
from relayd.spool.queue import Census, Finished
from relayd.view.shape import COLUMNS, MINUTES, NARROWEST
from relayd.view.shown import iso_time

ENDS = (Status.DELIVERED, Status.FAILED, Status.REMOVED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """`finished` is of the time `since` before `at`; `backing_off` are sites."""

    at: datetime
    since: timedelta
    census: Census
    finished: Finished
    backing_off: int


def stats_summary(stats: Stats) -> dict[str, Any]:
    """Return what `--json` prints."""
    finished = stats.finished
    return {
        "at": iso_time(stats.at),
        "minutes": MINUTES,
        "waiting": {each.value: {"total": sum(ages), "ages": ages} for each, ages in stats.census.items()},
        "sites_out_of_reach": stats.backing_off,
        "finished": {
            "seconds": stats.since.total_seconds(),
            "messages": finished.messages,
            "recipients": {each.value: finished.recipients.get(each, 0) for each in ENDS},
            "median_seconds": finished.median.total_seconds() if finished.median is not None else None,
            "slow_seconds": finished.slow.total_seconds() if finished.slow is not None else None,
        },
    }


def stats_lines(stats: Stats) -> Iterator[str]:
    """Yield it for people: recipients that wait, by age in minutes; and what has finished."""
    rows = [(each.value, (sum(ages), *ages)) for each, ages in stats.census.items()]
    rows.insert(0, ("waiting", tuple(map(sum, zip(*(numbers for _, numbers in rows), strict=True)))))
    heads = COLUMNS[:-1]  # held is a row here
    widths = [
        max(NARROWEST, *(len(str(number)) for number in column))
        for column in zip(heads, *(n for _, n in rows), strict=True)
    ]
    yield f"{'':10}" + "".join(f"  {head:>{width}}" for head, width in zip(heads, widths, strict=True))
    for name, numbers in rows:
        yield f"{name:10}" + "".join(f"  {number:>{width}}" for number, width in zip(numbers, widths, strict=True))
    yield ""
    yield f"sites out of reach: {stats.backing_off}"
    finished = stats.finished
    ends = ", ".join(f"{finished.recipients.get(each, 0)} {each.value}" for each in ENDS)
    yield f"finished in the last {_words(stats.since)}: {finished.messages} messages; recipients: {ends}"
    if finished.median is not None and finished.slow is not None:
        yield f"from arrival to the end: half within {_words(finished.median)}, 95 % within {_words(finished.slow)}"


def _words(span: timedelta) -> str:
    seconds = span.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
