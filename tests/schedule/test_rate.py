"""Rates: what they are written like, and that no period has more than they say."""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.schedule.rate import UNUSED, Meter, Rate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("text", "count", "seconds"),
    [("100/1m", 100, 60), ("20/s", 20, 1), ("5000/24h", 5000, 86_400), ("1/1.5s", 1, 1.5), ("3/500ms", 3, 0.5)],
)
def test_a_rate_is_so_many_in_a_time(text: str, count: int, seconds: float) -> None:
    assert Rate.parse(text) == Rate(count=count, period=timedelta(seconds=seconds))


@pytest.mark.parametrize("text", ["", "100", "100/", "/1m", "0/1m", "1/0s", "-1/s", "1/1y", "1 / 1m", "1e3/s"])
def test_what_is_no_rate_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="must be a rate"):
        Rate.parse(text)


RATES = st.builds(
    Rate, count=st.integers(1, 200), period=st.floats(0.01, 1000).map(lambda seconds: timedelta(seconds=seconds))
)


@given(rate=RATES, waits=st.lists(st.floats(0, 2), min_size=1, max_size=60))
def test_no_period_has_more_than_the_rate_says(rate: Rate, waits: list[float]) -> None:
    """Whoever takes all there is room for, at whatever times."""
    now, meter, taken = NOW, UNUSED, []
    for wait in waits:
        now += rate.period * wait / 10
        if units := meter.room(rate, now):
            meter = meter.taken(rate, units, now)
            taken += [now] * units

    for begin in set(taken):  # which are in order
        end = begin + rate.period - timedelta(microseconds=400)
        assert bisect_left(taken, end) - bisect_left(taken, begin) <= rate.count


@given(rate=RATES)
def test_in_the_long_run_nine_tenths_of_the_rate_are_had(rate: Rate) -> None:
    now, meter, units = NOW, UNUSED, 0
    for _ in range(300):
        room = meter.room(rate, now)
        units += room
        meter = meter.taken(rate, room, now)
        now = max(meter.open_at(rate, now), now + timedelta(microseconds=1))

    assert units >= 0.85 * rate.count * ((now - NOW) / rate.period)


@given(rate=RATES, units=st.integers(1, 30))
def test_there_is_room_when_it_was_said_that_there_would_be(rate: Rate, units: int) -> None:
    meter = UNUSED.taken(rate, min(units, rate.burst), NOW)

    opens = meter.open_at(rate, NOW)

    assert meter.room(rate, opens + timedelta(microseconds=2)) > 0
    assert opens == NOW or meter.room(rate, opens - timedelta(microseconds=2)) == 0


def test_what_was_not_used_is_given_back() -> None:
    rate = Rate.parse("100/10s")
    meter = UNUSED.taken(rate, 10, NOW)

    assert meter.room(rate, NOW) == 0
    assert meter.taken(rate, -7, NOW).room(rate, NOW) == 7


def test_a_clock_that_is_set_back_closes_the_gate_for_no_longer_than_a_burst() -> None:
    rate = Rate.parse("10/10s")

    meter = Meter(NOW + timedelta(days=3650))

    assert meter.open_at(rate, NOW) <= NOW + rate.period
