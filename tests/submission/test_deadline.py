"""Until when a dropped message is to be delivered: X-Relayd-Deadline and BY."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.deadline import FARTHEST, Deadline, DeadlineMode
from relayd.mail.message import Message
from relayd.submission.refusal import Refused
from tests.submission.support import NOW, examined, refusal_of, sent

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
EVENING = datetime(2026, 11, 24, 21, tzinfo=UTC)


def message_with(deadline: str | bytes = b"", by: str = "", *more: bytes) -> Message:
    value = deadline if isinstance(deadline, bytes) else deadline.encode()
    lines = [b"X-Sender: <a@b> " + by.encode(), b"X-Receiver: <c@d>", b"From: a@b", b"To: c@d", *more]
    if value:
        lines.append(b"X-Relayd-Deadline: " + value)
    return examined(b"\n".join([*lines, b"", b"body", b""]))


def own(at: datetime) -> Deadline:
    return Deadline(at=at, mode=DeadlineMode.OWN)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2026-11-24T21:00:00Z", EVENING),
        ("2026-11-24T22:00:00+01:00", EVENING),
        ("2026-11-24 21:00+00:00", EVENING),
        ("20261124T210000Z", EVENING),
        ("2026-11-24T21:00:00.25Z", EVENING + timedelta(seconds=0.25)),
        ("Tue, 24 Nov 2026 21:00:00 +0000", EVENING),
        ("24 Nov 2026 16:00 -0500", EVENING),
        ("Tue, 24 Nov 2026 21:00:00 GMT", EVENING),
        ("Tue, 24 Nov 2026 21:00:00 -0000", EVENING),
        ("Tue, 24 Nov 2026 22:00:00 +0100 (CET)", EVENING),
        ("\tTue, 24 Nov 2026\n 21:00:00 +0000", EVENING),
        ("30m", NOW + 30 * MINUTE),
        ("2h", NOW + 2 * HOUR),
        ("1.5m", NOW + 1.5 * MINUTE),
        ("5d", NOW + 120 * HOUR),
    ],
)
def test_a_deadline_is_a_time_with_its_zone_or_a_span_from_the_arrival(text: str, at: datetime) -> None:
    assert message_with(text).envelope.deadline == own(at)


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "soon",
        "30",
        "30 m",
        "-30m",
        "1h30m",
        "21:00Z",
        "2026-11-24",
        "2026-11-24T21:00:00",
        "2026-11-31T21:00:00Z",
        "Tue, 24 Nov 2026 21:00:00",
        "Tue, 24 Nov 2026 21:00:00 EST",
        "Tue, 24 Foo 2026 21:00:00 +0000",
        "Tue, 31 Nov 2026 21:00:00 +0000",
        "Tue, 24 Nov 2026 21:00:00 +9999",
        "1764018000",
        "2h, 3h",
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(Refused, match="neither a time with its zone nor a span") as caught:
        message_with(text)

    assert str(caught.value).endswith('write it as "2026-11-24T21:00:00Z" or "30m", and drop the file again.')


@pytest.mark.parametrize(
    "text",
    ["2026-11-22T06:59:59Z", "2026-11-22T07:00:00Z", "Sun, 22 Nov 2026 06:00:00 +0000", "0s", "0001-01-01T00:00+14:00"],
)
def test_one_that_has_passed_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="the deadline has passed"):
        message_with(text)


@pytest.mark.parametrize("text", ["2100-01-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "2000w", "9" * 300 + "w"])
def test_one_that_no_by_could_name_is_refused(text: str) -> None:
    assert message_with(f"{FARTHEST // timedelta(seconds=1)}s").envelope.deadline == own(NOW + FARTHEST)
    with pytest.raises(Refused, match=r"too far away|neither a time"):
        message_with(text)


def test_two_lines_are_refused_wherever_they_are() -> None:
    with pytest.raises(Refused, match="2 X-Relayd-Deadline lines; leave one"):
        message_with("2h", "", b"X-Relayd-Deadline: 2h")
    with pytest.raises(Refused, match="2 X-Relayd-Deadline lines; leave one"):
        examined(b"X-Sender: a@b\nX-Relayd-Deadline: 2h\nTo: c@d\nx-relayd-deadline: 3h\n\n")


@pytest.mark.parametrize(
    "octets",
    [
        b"X-Sender: a@b\nX-Relayd-Deadline: 2h\nX-Receiver: c@d\nFrom: a@b\n\nbody\n",
        b"X-Relayd-Deadline: 2h\nX-Sender: a@b\nX-Receiver: c@d\nFrom: a@b\n\nbody\n",
        b"X-Relayd-Deadline: 2h\nFrom: a@b\nTo: c@d\n\nbody\n",
        b"From: a@b\nTo: c@d\nx-relayd-deadline:\n\t2h\n\nbody\n",
        b"From: a@b\nTo: c@d\nX-Relayd-Deadline: 2h\nno empty line\n",
    ],
)
def test_it_counts_wherever_it_is_in_the_header_and_is_never_sent(octets: bytes) -> None:
    message = examined(octets)

    assert message.envelope.deadline == own(NOW + 2 * HOUR)
    assert b"deadline" not in sent(octets, message).lower()
    assert message.body.wire_size == len(sent(octets, message))


def test_in_the_body_it_is_text() -> None:
    octets = b"From: a@b\nTo: c@d\n\nX-Relayd-Deadline: 2h\n"

    assert examined(octets).envelope.deadline is None
    assert b"X-Relayd-Deadline: 2h" in sent(octets, examined(octets))


@pytest.mark.parametrize(
    ("text", "by", "at", "mode"),
    [
        ("", "BY=600;R", 10 * MINUTE, DeadlineMode.RETURN),
        ("", "BY=600;N", 10 * MINUTE, DeadlineMode.NOTIFY),
        ("2h", "BY=600;R", 10 * MINUTE, DeadlineMode.RETURN),
        ("5m", "BY=600;R", 5 * MINUTE, DeadlineMode.OWN),
        ("2h", "BY=600;N", 120 * MINUTE, DeadlineMode.OWN),
    ],
)
def test_of_two_deadlines_the_one_that_ends_the_tries_first_counts(
    text: str, by: str, at: timedelta, mode: DeadlineMode
) -> None:
    assert message_with(text, by).envelope.deadline == Deadline(at=NOW + at, mode=mode)


def test_most_mail_has_none() -> None:
    assert message_with().envelope.deadline is None


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace")))
def test_whatever_it_says_it_is_a_later_time_or_a_plain_refusal(value: bytes) -> None:
    why = refusal_of(partial(message_with, value))

    assert why.isprintable()
    if not why:
        deadline = message_with(value).envelope.deadline
        assert deadline is None or NOW < deadline.at <= NOW + FARTHEST
