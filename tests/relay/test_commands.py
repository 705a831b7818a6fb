"""The commands of a transaction."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.recipient import Notify, Recipient
from relayd.relay.capabilities import Capabilities
from relayd.relay.commands import UnsafeCommand, line, mail, rcpt
from tests.relay.kit import NOW, a_body, a_delivery

EVERYTHING = Capabilities(size_declared=True, eight_bit_mime=True, smtputf8=True, dsn=True)


def test_mail_has_every_parameter_that_is_needed_and_offered() -> None:
    delivery = a_delivery(body=a_body("ä\r\n".encode()), ret="HDRS", envid="42")
    assert mail(delivery, delivery.body, EVERYTHING, NOW, utf8=True) == (
        b"MAIL FROM:<sender@example.com> SIZE=4 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=42\r\n"
    )


def test_mail_has_no_parameter_that_is_not_offered() -> None:
    delivery = a_delivery(body=a_body("ä\r\n".encode()), ret="HDRS", envid="42")
    assert mail(delivery, delivery.body, Capabilities(), NOW, utf8=False) == b"MAIL FROM:<sender@example.com>\r\n"


@pytest.mark.parametrize(
    ("mode", "trace", "later", "parameter"),
    [
        (DeadlineMode.RETURN, False, 0, b" BY=90;R"),
        (DeadlineMode.RETURN, True, 30.5, b" BY=59;RT"),
        (DeadlineMode.NOTIFY, False, 90, b" BY=0;N"),
        (DeadlineMode.NOTIFY, True, 100, b" BY=-10;NT"),
        (DeadlineMode.OWN, False, 0, b""),
    ],
)
def test_by_goes_on_with_the_time_that_is_left(mode: DeadlineMode, trace: bool, later: float, parameter: bytes) -> None:
    delivery = a_delivery(deadline=Deadline(at=NOW + timedelta(seconds=90), mode=mode, trace=trace))
    now = NOW + timedelta(seconds=later)

    written = mail(delivery, delivery.body, Capabilities(deliver_by=True), now, utf8=False)

    assert written == b"MAIL FROM:<sender@example.com>" + parameter + b"\r\n"
    assert b"BY=" not in mail(delivery, delivery.body, Capabilities(), now, utf8=False)


def test_the_null_path_stays_null() -> None:
    delivery = a_delivery(sender=None)

    assert mail(delivery, delivery.body, Capabilities(), NOW, utf8=False) == b"MAIL FROM:<>\r\n"


def test_rcpt_carries_notify_and_orcpt_only_where_dsn_is_offered() -> None:
    one = Recipient(
        number=0,
        address=Address.parse("ann@example.org"),
        notify=Notify.SUCCESS | Notify.DELAY,
        orcpt="rfc822;ann+2B@example.org",
    )
    assert rcpt(one, EVERYTHING, utf8=False) == (
        b"RCPT TO:<ann@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;ann+2B@example.org\r\n"
    )
    assert rcpt(one, Capabilities(), utf8=False) == b"RCPT TO:<ann@example.org>\r\n"


def test_a_line_end_in_a_parameter_never_becomes_a_command() -> None:
    delivery = replace(a_delivery(), envid="x\r\nRCPT TO:<evil@example.org>")
    with pytest.raises(UnsafeCommand):
        mail(delivery, delivery.body, EVERYTHING, NOW, utf8=False)


@given(st.text(max_size=40), st.booleans())
def test_whatever_goes_in_a_command_is_one_line(text: str, utf8: bool) -> None:
    try:
        octets = line(text, utf8=utf8)
    except UnsafeCommand:
        return
    assert octets.endswith(b"\r\n")
    assert not any(octet < 32 or octet == 127 for octet in octets[:-2])
    assert utf8 or octets.isascii()


def test_the_longest_commands_are_within_the_limits() -> None:
    """R3: everything as long as it may come in."""
    address = f"{'l' * 64}@{'.'.join(['d' * 46] * 4)}d"
    assert len(address) == 253
    notify = Notify.parse("SUCCESS,FAILURE,DELAY")
    longest = Recipient(number=0, address=Address.parse(address), notify=notify, orcpt="rfc822;" + "o" * 493)
    delivery = a_delivery(sender=address, recipients=[longest], ret="FULL", envid="e" * 100)
    body = replace(delivery.body, wire_size=10**20 - 1, eight_bit=True)

    assert len(mail(delivery, body, EVERYTHING, NOW, utf8=True)) <= 512
    assert len(rcpt(longest, EVERYTHING, utf8=True)) <= 512 + len(" ORCPT=") + 500
    assert len(rcpt(replace(longest, orcpt=None), EVERYTHING, utf8=True)) <= 512
