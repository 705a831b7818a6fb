"""When a report is made, and when it is offered again (RFC 8460 sections 4.1 and 5.5).

Pure.  `jitter`, 0.0 to 1.0, spreads what would else fall due together, here and at others' servers.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

SPREAD = timedelta(hours=4)  # section 4.1: so long, at most, after the end of the day
FIRST = timedelta(minutes=5)  # before the second try; each further delay is twice the one before
LONGEST = timedelta(hours=4)
PATIENCE = timedelta(hours=24)  # section 5.5: for so long after the first try
KEPT = timedelta(days=3)  # days that have ended before that are not reported any more

_DAY = timedelta(days=1)


def due(day: date, *, jitter: float) -> datetime:
    """Return when the report of a day is to be made."""
    return end_of(day) + SPREAD * jitter


def end_of(day: date) -> datetime:
    """Return the first instant after a day, by UTC."""
    return datetime.combine(day, time(), UTC) + _DAY


def retry_at(tries: int, first: datetime, now: datetime, *, jitter: float) -> datetime | None:
    """Return when to try again what failed `tries` times, the first time at `first`; None: no more."""
    delay = min(FIRST * 2 ** min(tries - 1, 16), LONGEST) * (0.8 + 0.2 * jitter)
    again = now + delay
    return again if again <= first + PATIENCE else None


def oldest(now: datetime) -> date:
    """Return the oldest day that is still reported."""
    return (now - KEPT).date()
