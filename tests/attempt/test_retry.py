"""relayd.attempt.retry: curves, bounds, ends."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.attempt.retry import expired, expires, next_attempt, site_retry
from relayd.attempt.settings import RetrySettings
from tests.attempt.situations import MINUTE, NOW

DEFAULT = RetrySettings()
JITTERS = st.floats(0.0, 1.0)


def test_the_default_curve_is_a_minute_then_doubles_up_to_an_hour() -> None:
    delays = [next_attempt(DEFAULT, attempts, NOW, jitter=1.0) - NOW for attempts in range(1, 9)]

    assert [delay / MINUTE for delay in delays] == [1, 2, 4, 8, 16, 32, 60, 60]


@given(st.integers(0, 10**9), JITTERS)
def test_a_delay_is_within_its_last_fifth_and_never_above_max(attempts: int, jitter: float) -> None:
    delay = next_attempt(DEFAULT, attempts, NOW, jitter=jitter) - NOW

    assert timedelta(seconds=48) <= delay <= timedelta(hours=1)


@given(st.integers(1, 100), JITTERS)
def test_more_attempts_never_mean_a_shorter_delay(attempts: int, jitter: float) -> None:
    sooner = next_attempt(DEFAULT, attempts, NOW, jitter=jitter)

    assert next_attempt(DEFAULT, attempts + 1, NOW, jitter=jitter) >= sooner


@given(JITTERS)
def test_the_first_retry_comes_within_a_quarter_of_an_hour(jitter: float) -> None:
    assert next_attempt(DEFAULT, 1, NOW, jitter=jitter) - NOW <= 15 * MINUTE


def test_the_steepest_factor_does_not_overflow() -> None:
    steep = RetrySettings(factor=100.0)

    assert next_attempt(steep, 10_000, NOW, jitter=1.0) == NOW + steep.max


def test_a_site_backs_off_along_the_same_curve() -> None:
    assert site_retry(DEFAULT, 3, NOW, jitter=1.0) == NOW + 4 * MINUTE


def test_a_message_expires_at_the_end_of_its_lifetime_and_not_before() -> None:
    end = expires(DEFAULT, NOW)

    assert end == NOW + timedelta(days=5)
    assert not expired(DEFAULT, NOW, end - timedelta(microseconds=1))
    assert expired(DEFAULT, NOW, end)


@pytest.mark.parametrize(
    "wrong",
    [
        {"first": timedelta()},
        {"lifetime": timedelta()},
        {"factor": 0.5},
        {"factor": 101.0},
        {"factor": float("nan")},
        {"max": timedelta(seconds=1)},
        {"warn_after": timedelta(seconds=-1)},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, timedelta]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetrySettings(**wrong)  # type: ignore[arg-type]
