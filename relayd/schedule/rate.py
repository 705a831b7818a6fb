"""Rates: how many messages, or connections, in a period.

Pure.  A rate is kept by the generic cell rate algorithm, whose state is one time: each unit moves it on by an
interval, and units may begin ahead of it by a small burst.  The interval is such that no period, wherever it begins,
has more units than the rate says: a burst of `b` out of `n` leaves `n - b + 1` intervals to a period.  So a limit is
kept, not approached on average; the price is that the steady rate is up to a tenth lower.

Invariant, checked by tests/schedule/test_rate.py: in no period [t, t + period) are more than `count` units taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

BURST_SHARE = 10  # a tenth of a period's units may come at once: a connection is worth opening for several messages

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"([1-9]\d{0,8})/(\d{1,6}(?:\.\d{1,3})?)?(ms|s|m|h|d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most `count` units in any `period`.

    Raises:
        ValueError: for no unit, or no time.
    """

    count: int
    period: timedelta

    def __post_init__(self) -> None:
        if self.count < 1 or self.period <= timedelta(0):
            raise ValueError("a rate is at least 1 in more than no time")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rate that `100/1m`, `20/s` or `5000/24h` names; ValueError for anything else."""
        match = _RATE.fullmatch(text)
        seconds = float(match[2] or 1) * _SECONDS[match[3]] if match else 0.0
        if match is None or not seconds:
            raise ValueError(f'must be a rate as "100/1m", "20/s" or "5000/24h", not {text!r}')
        return cls(count=int(match[1]), period=timedelta(seconds=seconds))

    @property
    def burst(self) -> int:
        """How many units may come at once."""
        return max(1, self.count // BURST_SHARE)

    @property
    def interval(self) -> timedelta:
        """The time from one unit to the next, in the long run."""
        return self.period / (self.count - self.burst + 1)

    def __str__(self) -> str:
        return f"{self.count} in {self.period.total_seconds():g} s"


@dataclass(frozen=True, slots=True)
class Meter:
    """How much of a rate is used: the time at which the burst would be whole again; None if nothing was taken."""

    whole_at: datetime | None = None

    def room(self, rate: Rate, now: datetime) -> int:
        """Return how many units may be taken at `now`."""
        return max(0, (rate.interval * rate.burst - self._behind(rate, now)) // rate.interval)

    def open_at(self, rate: Rate, now: datetime, units: int = 1) -> datetime:
        """Return when so many units, of at most a burst, may be taken at once: `now` if there is room."""
        return now + max(self._behind(rate, now) - rate.interval * (rate.burst - units), timedelta(0))

    def taken(self, rate: Rate, units: int, now: datetime) -> Meter:
        """Return the meter after units were taken at `now`; a negative number gives some back."""
        return Meter(now + self._behind(rate, now) + rate.interval * units)

    def _behind(self, rate: Rate, now: datetime) -> timedelta:
        """What is used of the burst, as the time it takes to become whole; a clock that was set back adds nothing."""
        if self.whole_at is None:
            return timedelta(0)
        return min(max(self.whole_at - now, timedelta(0)), rate.interval * rate.burst)


UNUSED = Meter()
