"""relayd.attempt.notification, read back by the standard library's parser."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import default

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.attempt.notification import build, recognised
from relayd.attempt.parts import MAX_HEADER, MAX_RETURNED, octets_needed
from relayd.mail import message as mail
from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.recipient import Notify, Status
from relayd.mail.settlement import Action, Notice
from relayd.mail.tls import TlsWish
from tests.attempt.situations import HOSTNAME, NOW, SENDER, a_failed_recipient, a_notice, a_recipient

UNTIL = NOW + timedelta(days=5)
ORIGINAL = b"From: news@sender.example\r\nMessage-ID: <42@sender.example>\r\nSubject: hello\r\n\r\nA body.\r\n"


def notification(notice: Notice, original: bytes = b"") -> tuple[mail.Message, bytes]:
    return build(notice, original[: octets_needed(notice)], hostname=HOSTNAME, retried_until=UNTIL)


def sent(message: mail.Message, content: bytes) -> bytes:
    """What goes over the wire: the file without its cuts."""
    ((start, end),) = message.body.cuts
    return content[:start] + content[end:]


def read(notice: Notice, original: bytes = b"") -> EmailMessage:
    parsed = message_from_bytes(sent(*notification(notice, original)), policy=default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def parts_of(report: EmailMessage) -> tuple[EmailMessage, list[Message[str, str]], EmailMessage]:
    words, status, returned = report.iter_parts()
    blocks = status.get_payload()
    assert isinstance(blocks, list)
    assert isinstance(words, EmailMessage)
    assert isinstance(returned, EmailMessage)
    return words, blocks, returned  # type: ignore[return-value]


def test_a_bounce_is_a_report_of_three_parts_that_answers_itself_automatically() -> None:
    report = read(a_notice(ORIGINAL), ORIGINAL)

    assert report.get_content_type() == "multipart/report"
    assert report["Content-Type"].params["report-type"] == "delivery-status"
    assert [part.get_content_type() for part in report.iter_parts()] == [
        "text/plain",
        "message/delivery-status",
        "text/rfc822-headers",
    ]
    assert report["From"] == "Mail Delivery System <MAILER-DAEMON@relay.example.org>"
    assert report["To"] == str(SENDER)
    assert report["Auto-Submitted"] == "auto-replied"
    assert report["In-Reply-To"] == report["References"] == "<42@sender.example>"
    assert not report.defects


def test_the_fields_tell_programs_what_happened() -> None:
    notice = a_notice(
        ORIGINAL,
        envid="job+2B7",
        recipients=(a_failed_recipient(orcpt="rfc822;Bob+2Bx@example.com"), a_failed_recipient(1)),
    )

    _, blocks, _ = parts_of(read(notice, ORIGINAL))

    assert blocks[0].items() == [
        ("Original-Envelope-Id", "job+7"),
        ("Reporting-MTA", "dns; relay.example.org"),
        ("Arrival-Date", "Sun, 22 Nov 2026 07:20:00 +0000"),
    ]
    assert blocks[1].items() == [
        ("Original-Recipient", "rfc822; Bob+x@example.com"),
        ("Final-Recipient", "rfc822; r0@example.net"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx1.example.net"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 no such user"),
        ("Last-Attempt-Date", "Sun, 22 Nov 2026 07:20:00 +0000"),
    ]
    assert blocks[2]["Final-Recipient"] == "rfc822; r1@example.net"
    assert len(blocks) == 3


def test_the_words_tell_people_what_happened() -> None:
    maybe = a_failed_recipient(1, reply="connection lost", possible_duplicate=True)

    words, _, _ = parts_of(read(a_notice(recipients=(a_failed_recipient(), maybe))))

    text = words.get_content().replace("\r\n", "\n")
    assert "could not be delivered" in text
    assert "<r0@example.net>\n    There is no such mailbox.\n    mx1.example.net said: 550 5.1.1 no such user\n" in text
    assert "<r1@example.net>\n    connection lost\n    A connection broke off" in text


def test_how_often_it_was_tried_is_told_and_what_a_status_means_where_it_means_something() -> None:
    full = a_failed_recipient(0, reply="452 4.2.2 over quota", dsn="4.2.2", attempts=4, attempted=NOW)
    odd = a_failed_recipient(1, reply="550 5.9.9 no", dsn="5.9.9", attempts=1, attempted=NOW)

    words, _, _ = parts_of(read(a_notice(recipients=(full, odd))))

    text = words.get_content().replace("\r\n", "\n")
    assert (
        "    The mailbox is full.\n    mx1.example.net said: 452 4.2.2 over quota\n    It was tried 4 times, " in text
    )
    assert "<r1@example.net>\n    mx1.example.net said: 550 5.9.9 no\n" in text
    assert "tried 1 times" not in text


def test_a_delay_warning_tells_until_when_it_is_tried() -> None:
    waiting = a_recipient(status=Status.DEFERRED, attempts=3, reply="450 4.2.0 later", dsn="4.2.0", attempted=NOW)

    words, blocks, _ = parts_of(read(a_notice(action=Action.DELAYED, recipients=(waiting,))))

    assert (blocks[1]["Action"], blocks[1]["Status"]) == ("delayed", "4.2.0")
    assert blocks[1]["Will-Retry-Until"] == "Fri, 27 Nov 2026 07:20:00 +0000"
    assert "no need to send it again" in words.get_content().replace("\r\n", " ")


def test_a_warning_of_what_was_never_tried_has_a_status_all_the_same() -> None:
    words, blocks, _ = parts_of(read(a_notice(action=Action.DELAYED, recipients=(a_recipient(),))))

    assert blocks[1]["Status"] == "4.0.0"
    assert "Diagnostic-Code" not in blocks[1]
    assert "no attempt could be made" in words.get_content()


def waiting_by(at: datetime, arrived: datetime = NOW - timedelta(hours=1), action: Action = Action.DELAYED) -> Notice:
    """A notice, owed since NOW, of a message that is told of when its deadline has passed."""
    recipient = a_recipient(status=Status.DEFERRED, attempts=3, reply="450 4.2.0 later", dsn="4.2.0", attempted=NOW)
    deadline = Deadline(at=at, mode=DeadlineMode.NOTIFY)
    return a_notice(action=action, recipients=(recipient,), arrived=arrived, deadline=deadline)


def test_a_missed_deadline_is_told_as_such_and_that_tries_go_on() -> None:
    words, blocks, _ = parts_of(read(waiting_by(NOW)))

    text = words.get_content().replace("\r\n", " ")
    assert "has not been delivered to the recipients below by its deadline, Sun, 22 Nov 2026 07:20:00 +0000." in text
    assert "It will be tried until Fri, 27 Nov 2026 07:20:00 +0000" in text
    assert blocks[0]["Deliver-By-Date"] == "Sun, 22 Nov 2026 07:20:00 +0000"
    assert (blocks[1]["Action"], blocks[1]["Status"]) == ("delayed", "4.4.7")
    assert blocks[1]["Diagnostic-Code"] == "smtp; 450 4.2.0 later"
    assert blocks[1]["Will-Retry-Until"] == "Fri, 27 Nov 2026 07:20:00 +0000"


@pytest.mark.parametrize(
    "notice",
    [
        waiting_by(NOW + timedelta(seconds=1)),
        waiting_by(NOW - timedelta(hours=1)),
        replace(waiting_by(NOW), deadline=Deadline(at=NOW, mode=DeadlineMode.OWN)),
        replace(waiting_by(NOW), deadline=None),
    ],
    ids=["ahead", "passed before it came", "one that ends it", "none"],
)
def test_a_mere_delay_is_not_told_as_a_missed_deadline(notice: Notice) -> None:
    words, blocks, _ = parts_of(read(notice))

    assert blocks[1]["Status"] == "4.2.0"
    assert "deadline" not in words.get_content()


def test_what_was_passed_on_with_a_deadline_is_told_so() -> None:
    done = a_recipient(status=Status.DELIVERED, reply="250 queued", dsn="2.0.0", attempted=NOW)
    notice = replace(waiting_by(NOW, action=Action.RELAYED), recipients=(done,))

    words, blocks, _ = parts_of(read(notice))

    assert (blocks[1]["Action"], blocks[1]["Status"]) == ("relayed", "2.0.0")
    assert "to be delivered by Sun, 22 Nov 2026 07:20:00 +0000, was passed" in words.get_content().replace("\r\n", " ")


def test_a_bounce_past_the_deadline_tells_programs_when_it_was() -> None:
    deadline = Deadline(at=NOW, mode=DeadlineMode.OWN)
    late = a_failed_recipient(reply=deadline.missed("451 4.3.0 not now"), dsn="5.4.7")

    words, blocks, _ = parts_of(read(a_notice(recipients=(late,), deadline=deadline)))

    assert blocks[0]["Deliver-By-Date"] == "Sun, 22 Nov 2026 07:20:00 +0000"
    assert (blocks[1]["Status"], blocks[1]["Diagnostic-Code"]) == ("5.4.7", "smtp; 451 4.3.0 not now")
    assert "the deadline, 2026-11-22 07:20:00 UTC, passed" in words.get_content().replace("\r\n    ", " ")


def test_a_bounce_is_as_confidential_as_what_it_is_about() -> None:
    """RFC 8689 section 5: REQUIRETLS goes on, and RET=FULL is disregarded."""
    notice = a_notice(ORIGINAL, ret="FULL", tls=TlsWish.REQUIRED)

    message, content = notification(notice, ORIGINAL)

    assert message.envelope.tls is TlsWish.REQUIRED
    assert content.startswith(b"X-Sender: <> REQUIRETLS\r\n")
    assert parts_of(read(notice, ORIGINAL))[2].get_content_type() == "text/rfc822-headers"


def test_a_wish_for_less_tls_is_not_the_bounces() -> None:
    message, content = notification(a_notice(tls=TlsWish.OPTIONAL))

    assert message.envelope.tls is TlsWish.POLICY
    assert content.startswith(b"X-Sender: <>\r\n")


def test_a_success_is_told_as_relayed() -> None:
    done = a_recipient(status=Status.DELIVERED, reply="250 queued", dsn="2.0.0", attempted=NOW)

    _, blocks, _ = parts_of(read(a_notice(action=Action.RELAYED, recipients=(done,))))

    assert (blocks[1]["Action"], blocks[1]["Status"]) == ("relayed", "2.0.0")
    assert "Will-Retry-Until" not in blocks[1]


def test_an_expired_recipient_tells_what_the_server_said_last() -> None:
    expired = a_failed_recipient(reply="delivery time expired; last reply: 450 4.2.0 greylisted", dsn="5.4.7")

    _, blocks, _ = parts_of(read(a_notice(recipients=(expired,))))

    assert (blocks[1]["Status"], blocks[1]["Diagnostic-Code"]) == ("5.4.7", "smtp; 450 4.2.0 greylisted")


def test_what_we_said_ourselves_is_not_told_as_a_servers_reply() -> None:
    ours = a_failed_recipient(reply="no such domain: example.net", dsn="5.1.2", peer="")

    _, blocks, _ = parts_of(read(a_notice(recipients=(ours,))))

    assert blocks[1]["Diagnostic-Code"] == "x-relayd; no such domain: example.net"
    assert "Remote-MTA" not in blocks[1]


@pytest.mark.parametrize(
    ("peer", "remote"),
    [
        ("mx.example.net[2001:db8::1]:25", "dns; mx.example.net"),
        ("192.0.2.1[192.0.2.1]:2525", "dns; [192.0.2.1]"),
        ("2001:db8::1[2001:db8::1]:25", "dns; [2001:db8::1]"),
    ],
)
def test_the_remote_server_is_a_name_or_a_literal(peer: str, remote: str) -> None:
    _, blocks, _ = parts_of(read(a_notice(recipients=(a_failed_recipient(peer=peer),))))

    assert blocks[1]["Remote-MTA"] == remote


def test_an_internationalised_recipient_stays_ascii_for_programs() -> None:
    recipient = a_failed_recipient(address=Address.parse("jürgen+x@bücher.example"))

    words, blocks, _ = parts_of(read(a_notice(recipients=(recipient,))))

    assert blocks[1]["Final-Recipient"] == "utf-8; j\\x{FC}rgen\\x{2B}x@xn--bcher-kva.example"
    assert "<jürgen+x@xn--bcher-kva.example>" in words.get_content()


def test_a_quoted_local_part_keeps_its_spaces() -> None:
    quoted = '"' + "a  b " * 12 + '"@' + "long-" * 12 + "x.example.net"

    _, blocks, _ = parts_of(read(a_notice(recipients=(a_failed_recipient(address=Address.parse(quoted)),))))

    assert blocks[1]["Final-Recipient"] == f"rfc822; {quoted}"


def test_it_comes_from_nobody_and_never_causes_another() -> None:
    notice = a_notice()

    message, _ = notification(notice)

    assert message.notification
    assert message.envelope.reverse_path is None
    assert [(r.address, r.notify) for r in message.envelope.recipients] == [(SENDER, Notify.NEVER)]
    assert (message.id, message.arrived) == (notice.id, mail.arrival_of(notice.id))


def test_the_file_names_its_own_envelope_and_cuts_it() -> None:
    message, content = notification(a_notice())

    assert content.startswith(b"X-Sender: <>\r\nX-Receiver: <news@sender.example> NOTIFY=NEVER\r\nDate: ")
    assert sent(message, content).startswith(b"Date: ")


def test_made_twice_it_is_the_same() -> None:
    notice = a_notice(ORIGINAL)

    assert notification(notice, ORIGINAL) == notification(notice, ORIGINAL)


def test_what_is_known_of_its_body_is_exact() -> None:
    message, content = notification(a_notice(ORIGINAL, ret="FULL"), ORIGINAL)
    body = message.body

    assert body.size == len(content)
    assert body.wire_size == len(sent(message, content))
    assert content[: body.header_end].endswith(b"\r\n\r\n")
    assert content[: body.header_end].count(b"\r\n\r\n") == 1
    assert body.canonical
    assert (body.eight_bit, body.eight_bit_header, body.long_lines, body.nul) == (False, False, False, False)


def test_full_returns_the_whole_message_as_it_was_to_be_sent() -> None:
    original = b"X-Sender: <a@b.example>\nBcc: secret@example.net\nSubject: hello\n\nline\rline\r\n"
    cut = original.index(b"Subject")
    prefix = b"Received: by relay.example.org\r\n"
    notice = a_notice(original, ret="FULL")
    notice = replace(notice, body=replace(notice.body, cuts=((0, cut),), prefix=prefix))

    _, _, returned = parts_of(read(notice, original))

    assert returned.get_content_type() == "message/rfc822"
    inner = returned.get_payload(0)
    assert isinstance(inner, EmailMessage)
    assert inner.keys() == ["Received", "Subject"]
    assert inner.get_content() == "line\r\nline\r\n"


def test_without_full_the_header_alone_is_returned() -> None:
    _, _, returned = parts_of(read(a_notice(ORIGINAL), ORIGINAL))

    assert returned.get_payload(decode=True) == ORIGINAL[: ORIGINAL.index(b"\r\n\r\n") + 2]


@pytest.mark.parametrize(
    "notice",
    [
        a_notice(ORIGINAL, ret="FULL", action=Action.DELAYED),
        a_notice(b"A: b\n\n" + b"x" * MAX_RETURNED, ret="FULL"),
        a_notice(b"A: b\n\nnul\0\n", ret="FULL"),
        a_notice(b"A: b\n\n" + b"x" * 999 + b"\n", ret="FULL"),
    ],
    ids=["delayed", "large", "NUL", "long line"],
)
def test_full_is_for_failures_of_what_can_be_sent(notice: Notice) -> None:
    assert octets_needed(notice) <= notice.body.header_end or notice.body.header_end == notice.body.size


def test_an_eight_bit_message_in_full_is_declared_as_such() -> None:
    original = b"Subject: hello\r\n\r\n\xc3\xa9t\xe9\r\n"

    message, content = notification(a_notice(original, ret="FULL"), original)
    report = message_from_bytes(sent(message, content), policy=default)
    assert isinstance(report, EmailMessage)

    _, _, returned = parts_of(report)
    assert message.body.eight_bit
    assert not message.body.eight_bit_header
    assert report["Content-Transfer-Encoding"] == returned["Content-Transfer-Encoding"] == "8bit"
    assert original in content


def test_a_message_with_an_eight_bit_header_in_full_is_a_global_one() -> None:
    original = "Subject: été\r\n\r\nbody\r\n".encode()

    _, _, returned = parts_of(read(a_notice(original, ret="FULL"), original))

    assert returned.get_content_type() == "message/global"


@pytest.mark.parametrize("header", ["Subject: été\r\n".encode(), b"Subject: \xe9\r\n", b"X: " + b"y" * 2000 + b"\r\n"])
def test_a_header_alone_always_goes_as_seven_bits(header: bytes) -> None:
    original = header + b"\r\nbody"

    message, content = notification(a_notice(original), original)

    _, _, returned = parts_of(read(a_notice(original), original))
    assert content.isascii()
    assert (message.body.eight_bit, message.body.long_lines) == (False, False)
    assert returned.get_payload(decode=True) == header


def test_a_huge_header_is_cut_at_the_end_of_a_line() -> None:
    original = b"Subject: hello\r\n" * 10_000 + b"\r\nbody"

    _, _, returned = parts_of(read(a_notice(original), original))

    octets = returned.get_payload(decode=True)
    assert isinstance(octets, bytes)
    assert MAX_HEADER - 20 < len(octets) <= MAX_HEADER
    assert octets.endswith(b"Subject: hello\r\n")


def test_an_original_that_cannot_be_read_does_not_prevent_it() -> None:
    notice = a_notice(ORIGINAL, ret="FULL")

    report = message_from_bytes(sent(*build(notice, b"", hostname=HOSTNAME, retried_until=UNTIL)), policy=default)

    assert isinstance(report, EmailMessage)
    assert [part.get_content_type() for part in report.iter_parts()][2] == "text/rfc822-headers"


def test_a_reply_that_contains_a_report_makes_no_part_and_no_block() -> None:
    first = notification(a_notice())[1]
    boundary = first[first.index(b'boundary="') + 10 :].split(b'"')[0].decode()
    hostile = (
        f"550 x\r\n\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n"
        "Final-Recipient: rfc822; mallory@example.net\r\nAction: delivered\r\n"
    )

    words, blocks, _ = parts_of(read(a_notice(recipients=(a_failed_recipient(reply=hostile),))))

    assert len(blocks) == 2
    assert blocks[1]["Action"] == "failed"
    assert blocks[1].get_all("Final-Recipient") == ["rfc822; r0@example.net"]
    assert "\nAction:" not in words.get_content()


def test_a_returned_message_that_contains_the_boundary_gets_another_one() -> None:
    plain = a_notice(b"A: b\r\n\r\n", ret="FULL")
    content = notification(plain, b"A: b\r\n\r\n")[1]
    boundary = content[content.index(b'boundary="') + 10 :].split(b'"')[0]
    original = b"A: b\r\n\r\n--" + boundary + b"--\r\n"

    _, _, returned = parts_of(read(a_notice(original, ret="FULL"), original))

    inner = returned.get_payload(0)
    assert isinstance(inner, EmailMessage)
    assert boundary.decode() in inner.get_content()


foreign = st.text(max_size=1200) | st.text(alphabet="\r\n\t\x00\x1b-: =+0A;aé\u2028\udc80", max_size=200)


@given(reply=foreign, envid=foreign, orcpt=foreign, dsn=foreign, peer=foreign, original=st.binary(max_size=300))
def test_whatever_servers_and_senders_say_it_has_three_parts_and_one_recipient(
    reply: str, envid: str, orcpt: str, dsn: str, peer: str, original: bytes
) -> None:
    recipient = a_failed_recipient(reply=reply, orcpt=f"rfc822;{orcpt}", dsn=dsn, peer=peer)
    notice = a_notice(original, recipients=(recipient,), envid=envid)

    message, content = notification(notice, original)

    report = message_from_bytes(sent(message, content), policy=default)
    assert isinstance(report, EmailMessage)
    _, blocks, _ = parts_of(report)
    assert len(blocks) == 2
    assert len(blocks[0]) in (2, 3)
    assert blocks[1].get_all("Final-Recipient") == ["rfc822; r0@example.net"]
    assert blocks[1].get_all("Action") == ["failed"]
    assert content.isascii()
    assert b"\0" not in content
    assert content.replace(b"\r\n", b"").count(b"\n") == content.replace(b"\r\n", b"").count(b"\r") == 0
    assert max(len(line) for line in content.split(b"\r\n")) <= 998


@given(st.binary(max_size=400), st.integers(0, 400))
def test_whatever_the_original_is_the_full_one_parses(tail: bytes, stop: int) -> None:
    original = b"Subject: hello\r\n\r\n" + tail
    notice = a_notice(original, ret="FULL")

    message, content = build(notice, original[:stop], hostname=HOSTNAME, retried_until=UNTIL)

    report = message_from_bytes(sent(message, content), policy=default)
    assert isinstance(report, EmailMessage)
    assert len(list(report.iter_parts())) == 3
    assert message.body.wire_size == len(sent(message, content))
    assert content.endswith(b"--\r\n")


def read_again(message: mail.Message, reverse_path: Address | None = None) -> mail.Message:
    """A notification as submission reads its file: with a trace field, and as anybody's message."""
    received = b"Received: by relay.example (relayd) id X;\r\n"
    body = replace(message.body, prefix=received, wire_size=message.body.wire_size + len(received))
    envelope = replace(message.envelope, reverse_path=reverse_path)
    return replace(message, envelope=envelope, body=body, notification=False)


def test_a_notification_is_recognised_by_its_file_and_leaves_as_it_would_have() -> None:
    message, content = notification(a_notice(ORIGINAL), ORIGINAL)

    assert recognised(read_again(message), content) == message


def test_another_ones_message_is_not_taken_for_a_notification() -> None:
    message, content = notification(a_notice(ORIGINAL), ORIGINAL)
    with_a_sender = read_again(message, SENDER)
    under_another_id = replace(read_again(message), id=mail.new_id(NOW, 99))

    assert recognised(with_a_sender, content) == with_a_sender
    assert recognised(under_another_id, content) == under_another_id
