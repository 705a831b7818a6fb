"""Deadlines, and the spans of time that name them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.mail.deadline import FARTHEST, Deadline, DeadlineMode
from relayd.mail.duration import parse_duration
from relayd.mail.envelope import Envelope
from relayd.mail.message import Body, Message
from relayd.mail.recipient import Recipient

NOW = datetime(2026, 11, 24, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)


def a_deadline(at: datetime = NOW + HOUR, mode: DeadlineMode = DeadlineMode.OWN) -> Deadline:
    return Deadline(at=at, mode=mode)


@pytest.mark.parametrize(
    ("mode", "ends", "by"),
    [(DeadlineMode.OWN, True, False), (DeadlineMode.RETURN, True, True), (DeadlineMode.NOTIFY, False, True)],
)
def test_what_ends_and_what_goes_on_by_mode(mode: DeadlineMode, ends: bool, by: bool) -> None:
    deadline = a_deadline(mode=mode)

    assert (deadline.ends, deadline.by) == (ends, by)
    assert deadline.over(deadline.at) == ends


def test_it_has_passed_at_its_time_and_not_before() -> None:
    deadline = a_deadline()

    assert not deadline.passed(deadline.at - MICROSECOND)
    assert not deadline.over(deadline.at - MICROSECOND)
    assert deadline.passed(deadline.at)


@pytest.mark.parametrize(
    ("later", "left"),
    [(timedelta(), 3600), (MICROSECOND, 3599), (HOUR - MICROSECOND, 0), (HOUR, 0), (HOUR + MICROSECOND, -1)],
)
def test_what_is_left_is_whole_seconds_rounded_down(later: timedelta, left: int) -> None:
    assert a_deadline().left(NOW + later) == left


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_what_is_left_never_has_more_than_nine_digits_and_never_promises_too_much(at: datetime, now: datetime) -> None:
    left = a_deadline(at).left(now)

    assert abs(left) <= 999_999_999
    assert now + timedelta(seconds=left) <= at or at - now < -FARTHEST


def test_the_words_tell_its_time_in_utc_and_what_was_said_last() -> None:
    deadline = a_deadline(datetime(2026, 11, 24, 22, tzinfo=timezone(HOUR)))

    assert deadline.missed("450 4.2.0 later") == (
        "the deadline, 2026-11-24 21:00:00 UTC, passed; last reply: 450 4.2.0 later"
    )
    assert deadline.missed("") == "the deadline, 2026-11-24 21:00:00 UTC, passed; it could not be tried"


@pytest.mark.parametrize(
    ("deadline", "notification", "urgent"),
    [
        (None, False, False),
        (None, True, True),
        (a_deadline(), False, True),
        (a_deadline(NOW + MICROSECOND, DeadlineMode.NOTIFY), False, True),
        (a_deadline(NOW, DeadlineMode.NOTIFY), False, False),
    ],
)
def test_notifications_and_what_has_a_deadline_to_meet_are_urgent(
    deadline: Deadline | None, notification: bool, urgent: bool
) -> None:
    recipients = (Recipient(number=0, address=Address("ann", "example.org")),)
    message = Message(
        id="m",
        envelope=Envelope(reverse_path=None, recipients=recipients, deadline=deadline),
        body=Body(size=1, wire_size=1, header_end=1),
        arrived=NOW,
        notification=notification,
    )

    assert message.urgent == urgent


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("1.5m", 90), ("4h", 14400), ("5d", 432000), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "5 s", "1h30m", "٣s", "9" * 30 + "w", 5, None])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|too long"):
        parse_duration(text)
