"""relayd.report.times: days end at midnight UTC, reports are spread, and tries end."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.report import times

DAY = date(2026, 11, 26)
MIDNIGHT = datetime(2026, 11, 27, tzinfo=UTC)
instants = st.integers(0, 10 * 365 * 86400).map(lambda seconds: MIDNIGHT + timedelta(seconds=seconds))


@pytest.mark.parametrize(("jitter", "hours"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_report_is_made_up_to_four_hours_after_the_day(jitter: float, hours: int) -> None:
    assert times.due(DAY, jitter=jitter) == MIDNIGHT + timedelta(hours=hours)


@given(st.floats(0, 1))
def test_tries_come_further_and_further_apart_for_a_day(jitter: float) -> None:
    now, delays = MIDNIGHT, list[timedelta]()
    while again := times.retry_at(len(delays) + 1, MIDNIGHT, now, jitter=jitter):
        delays.append(again - now)
        now = again

    assert timedelta(minutes=4) <= delays[0] <= timedelta(minutes=5)
    assert delays == sorted(delays)
    assert MIDNIGHT + timedelta(hours=19) <= now <= MIDNIGHT + timedelta(hours=24)
    assert len(delays) < 15


@given(instants)
def test_days_are_reported_that_ended_within_the_last_three(now: datetime) -> None:
    oldest = times.oldest(now)

    assert now - times.end_of(oldest) < times.KEPT
    assert now - times.end_of(oldest - timedelta(days=1)) >= times.KEPT
