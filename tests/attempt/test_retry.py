"""relayd.attempt.retry: curves, bounds, ends."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.attempt.retry import (
    CLOSEST,
    MARGIN,
    PATIENCE,
    SPREAD,
    before_deadline,
    expired,
    expires,
    next_attempt,
    site_retry,
)
from relayd.attempt.settings import RetrySettings
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.refusal import LONGEST, Refusal, refusal
from relayd.mail.reply import Reply
from tests.attempt.situations import MINUTE, NOW

DEFAULT = RetrySettings()
JITTERS = st.floats(0.0, 1.0)
A_LITTLE = MARGIN + SPREAD
HOUR = 60 * MINUTE
REPLIES = st.sampled_from(
    [
        *("451 4.7.1 greylisted", "451 greylisted for 300 seconds", "451 greylisted, try again in 23:59:59"),
        *("421 rate limited", "421 rate limited, try again in 15 minutes", "421 slow down, try again in 24 hours"),
        *("421 too many connections", "421 too many connections, try again in 1 second", "451 not now", "550 never"),
    ]
).map(lambda line: Reply.parse(int(line[:3]), line[4:]))


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


@pytest.mark.parametrize(
    ("text", "attempts", "delay"),
    [
        # greylisted: the time that it asks for, else five minutes
        ("451 4.7.1 greylisted", 1, 5 * MINUTE + A_LITTLE),
        ("451 4.7.1 greylisted", 5, 5 * MINUTE + A_LITTLE),
        ("451 greylisted for 30 seconds", 1, MINUTE / 2 + A_LITTLE),
        ("451 greylisted for 30 seconds", 5, MINUTE / 2 + A_LITTLE),
        ("451 greylisted, come back in 4 hours", 1, 4 * HOUR + A_LITTLE),
        # one that never relents
        ("451 4.7.1 greylisted", 6, 32 * MINUTE),
        ("451 greylisted for 30 seconds", 9, HOUR),
        ("451 greylisted, come back in 4 hours", 9, 4 * HOUR + A_LITTLE),
        # throttled, or too many connections: the time that it asks for, up to an hour, else the curve
        ("421 rate limited", 1, MINUTE),
        ("421 rate limited", 4, 8 * MINUTE),
        ("421 rate limited, try again in 15 minutes", 1, 15 * MINUTE + A_LITTLE),
        ("421 rate limited, try again in 24 hours", 1, HOUR),
        ("421 rate limited, try again in 30 seconds", 4, MINUTE / 2 + A_LITTLE),
        ("421 rate limited, try again in 30 seconds", 6, 32 * MINUTE),
        ("421 too many connections, try again in 10 seconds", 1, MINUTE / 6 + A_LITTLE),
        ("421 too many connections", 3, 4 * MINUTE),
        # anything else
        ("451 4.3.0 local trouble, try again in 30 minutes", 1, MINUTE),
        ("450 4.2.1 not now", 3, 4 * MINUTE),
    ],
)
def test_the_next_attempt_heeds_what_the_server_said(text: str, attempts: int, delay: timedelta) -> None:
    reply = Reply.parse(int(text[:3]), text[4:])

    assert next_attempt(DEFAULT, attempts, NOW, jitter=1.0, reply=reply) == NOW + delay
    assert site_retry(DEFAULT, attempts, NOW, jitter=1.0, reply=reply) == NOW + delay


@given(st.integers(1, 10**6), JITTERS, REPLIES)
def test_no_reply_moves_the_next_attempt_out_of_bounds(attempts: int, jitter: float, reply: Reply) -> None:
    delay = next_attempt(DEFAULT, attempts, NOW, jitter=jitter, reply=reply) - NOW
    curve = next_attempt(DEFAULT, attempts, NOW, jitter=jitter) - NOW

    if refusal(reply) is Refusal.GREYLISTED:
        assert MARGIN < delay <= LONGEST + A_LITTLE
    else:
        assert MARGIN < delay <= DEFAULT.max
    if attempts > PATIENCE:
        assert delay >= curve
    if refusal(reply) is Refusal.OTHER:
        assert delay == curve


@given(JITTERS)
def test_a_greylisting_is_never_a_second_early(jitter: float) -> None:
    asks = Reply(451, "greylisted for 300 seconds")

    delay = next_attempt(DEFAULT, 1, NOW, jitter=jitter, reply=asks) - NOW

    assert 5 * MINUTE + MARGIN <= delay <= 5 * MINUTE + A_LITTLE


def test_a_message_expires_at_the_end_of_its_lifetime_and_not_before() -> None:
    end = expires(DEFAULT, NOW)

    assert end == NOW + timedelta(days=5)
    assert not expired(DEFAULT, NOW, end - timedelta(microseconds=1))
    assert expired(DEFAULT, NOW, end)


@pytest.mark.parametrize("mode", [DeadlineMode.OWN, DeadlineMode.RETURN])
def test_a_deadline_that_ends_a_message_is_its_end_unless_its_lifetime_is_shorter(mode: DeadlineMode) -> None:
    near, far = (Deadline(at=NOW + hours * 60 * MINUTE, mode=mode) for hours in (2, 1000))

    assert expires(DEFAULT, NOW, near) == near.at
    assert not expired(DEFAULT, NOW, near.at - timedelta(microseconds=1), near)
    assert expired(DEFAULT, NOW, near.at, near)
    assert expires(DEFAULT, NOW, far) == NOW + DEFAULT.lifetime


def test_a_deadline_that_only_notifies_is_no_end() -> None:
    assert expires(DEFAULT, NOW, Deadline(at=NOW, mode=DeadlineMode.NOTIFY)) == NOW + DEFAULT.lifetime


def tries(deadline: Deadline, first: datetime = NOW, retry: RetrySettings = DEFAULT) -> list[datetime]:
    """The times of all tries up to the deadline, and then one more, if each is put off."""
    times, now = [], first
    while now < deadline.at:
        times.append(now)
        now = next_attempt(retry, len(times), now, jitter=1.0, deadline=deadline)
        assert now > times[-1]
    return [*times, now]


def test_tries_are_packed_before_a_deadline() -> None:
    deadline = Deadline(at=NOW + 20 * MINUTE, mode=DeadlineMode.OWN)

    left = [(deadline.at - at).total_seconds() for at in tries(deadline)]

    assert left == [1200, 1140, 1020, 780, 390, 195, 97.5, 48.75, 24.375, 9.375, 0]


def test_too_near_a_deadline_there_is_no_further_try() -> None:
    for mode, due in ((DeadlineMode.OWN, NOW + CLOSEST), (DeadlineMode.NOTIFY, NOW + MINUTE)):
        assert before_deadline(NOW + MINUTE, Deadline(at=NOW + CLOSEST, mode=mode), NOW) == due


@pytest.mark.parametrize("deadline", [None, Deadline(at=NOW, mode=DeadlineMode.NOTIFY)])
def test_without_a_deadline_to_meet_the_curve_counts_alone(deadline: Deadline | None) -> None:
    assert next_attempt(DEFAULT, 1, NOW, jitter=1.0, deadline=deadline) == NOW + MINUTE


@pytest.mark.parametrize(("minutes", "wait"), [(6, 5 * MINUTE + MARGIN + SPREAD), (4, 2 * MINUTE)])
def test_a_server_that_asks_for_time_gets_it_if_the_deadline_allows_for_it(minutes: int, wait: timedelta) -> None:
    deadline = Deadline(at=NOW + minutes * MINUTE, mode=DeadlineMode.OWN)
    greylisted = Reply(451, "greylisted, please come again in 300 seconds")

    assert next_attempt(DEFAULT, 1, NOW, jitter=1.0, reply=greylisted, deadline=deadline) == NOW + wait


SPANS = st.timedeltas(timedelta(microseconds=1), timedelta(days=20))
MODES = st.sampled_from(DeadlineMode)


@given(SPANS, SPANS, MODES)
def test_a_deadline_makes_a_retry_sooner_but_never_much_sooner(
    delay: timedelta, left: timedelta, mode: DeadlineMode
) -> None:
    at = before_deadline(NOW + delay, Deadline(at=NOW + left, mode=mode), NOW)

    assert NOW < at <= NOW + delay
    assert at - NOW >= min(delay, left, CLOSEST)
    if mode is not DeadlineMode.NOTIFY:
        assert at <= NOW + left


@given(SPANS, MODES)
def test_there_are_some_tries_before_a_deadline_one_of_them_shortly_before_and_never_many(
    left: timedelta, mode: DeadlineMode
) -> None:
    deadline = Deadline(at=NOW + left, mode=mode)

    *times, last = tries(deadline)

    assert any(deadline.at - at <= 2 * CLOSEST for at in times)
    halvings = (left // CLOSEST).bit_length()
    assert len(times) >= halvings
    assert len(times) <= halvings + 10 + left / DEFAULT.max
    assert last == deadline.at or mode is DeadlineMode.NOTIFY


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
        {"greylist": timedelta()},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, timedelta]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetrySettings(**wrong)  # type: ignore[arg-type]
