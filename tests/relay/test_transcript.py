"""What is kept of a conversation: what was said, but no octet of a message and no secret, and not too much."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials
from relayd.mail.transcript import Line, Speaker
from relayd.relay.saying import Say
from relayd.relay.secrecy import Secrecy
from relayd.relay.transaction import MOST_REMARKS, Load, Remark
from relayd.relay.transcript import MOST_LINES, MOST_TEXT, Remarks, transcript
from tests.relay.kit import a_delivery

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
OPEN = Secrecy(None)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_it_has_what_was_said_in_order_with_the_time_since_the_first() -> None:
    remarks: list[Remark] = [
        (after(2), b"MAIL FROM:<a@b>\r\n"),
        (after(0), "connecting to mx"),
        (after(2.5), Reply(250, "ok", EnhancedStatus(2, 1, 0))),
        (after(1), Reply(250, "mx.test\nPIPELINING\nSIZE")),
    ]

    assert transcript(remarks, OPEN) == (
        Line(0, Speaker.NOBODY, "connecting to mx"),
        Line(1, Speaker.SERVER, "250-mx.test\n250-PIPELINING\n250 SIZE"),
        Line(2, Speaker.WE, "MAIL FROM:<a@b>"),
        Line(2.5, Speaker.SERVER, "250 2.1.0 ok"),
    )


def test_a_secret_that_a_server_says_back_is_masked_and_what_we_say_of_it_is_not_kept() -> None:
    secrecy = Secrecy(Credentials(username="relay", password="S3cret.*"))
    auth = Say(b"AUTH PLAIN AHJlbGF5AFMzY3JldC4q\r\n", "AUTH PLAIN")
    answer = Say(b"UzNjcmV0Lio=\r\n", "AUTH LOGIN")
    remarks: list[Remark] = [
        (NOW, auth.shown),
        (NOW, answer.shown),
        (NOW, Reply(535, "no: S3cret.*")),
        (NOW, "535 no: S3cret.*"),
    ]

    lines = [line.text for line in transcript(remarks, secrecy)]

    assert lines == ["AUTH PLAIN [password]", "AUTH LOGIN [password]", "535 no: [password]", "535 no: [password]"]
    assert Say(b"EHLO relay.test\r\n", "EHLO").shown == b"EHLO relay.test\r\n"


def test_of_too_much_the_middle_is_left_out_and_told() -> None:
    remarks: list[Remark] = [(after(n), f"line {n}") for n in range(500)]

    lines = transcript(remarks, OPEN)

    assert len(lines) == MOST_LINES
    assert lines[0].text == "line 0"
    assert lines[-1].text == "line 499"
    (gap,) = [line for line in lines if "left out" in line.text]
    assert gap.text == f"{500 - MOST_LINES + 1} lines are left out"
    (long,) = transcript([(NOW, "x" * 10_000)], OPEN)
    assert len(long.text) == MOST_TEXT


def test_what_is_kept_of_a_load_and_of_a_run_is_bounded() -> None:
    load, remarks = Load(a_delivery()), Remarks(lambda: NOW)
    for number in range(10_000):
        load.note(NOW, f"{number}")
        remarks.note(f"{number}")

    assert len(load.remarks) <= MOST_REMARKS
    assert load.remarks[0][1] == "0"
    assert load.remarks[-1][1] == "9999"
    assert len(remarks.kept) <= MOST_REMARKS
    assert remarks.kept[-1][1] == "9999"
