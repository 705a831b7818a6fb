"""relayd.report.mail and signing: a report as mail (RFC 8460 section 5.3), and as a message of the queue."""

from __future__ import annotations

import gzip
import json
import re
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.mail.message import new_id
from relayd.mail.recipient import Notify
from relayd.mail.tls import TlsWish
from relayd.report.counting import Policy, PolicyType
from relayd.report.document import compressed, document
from relayd.report.mail import content, message_of
from relayd.report.signing import signer
from tests.report.keys import SELECTOR, dkim_key, dns_of
from tests.report.schema import check
from tests.report.test_counting import tally_of
from tests.report.test_document import SUBJECT
from tests.submission.support import an_examiner, reading

ID = new_id(datetime(2026, 11, 27, 2, 30, 0, 123456, tzinfo=UTC))
SENDER = Address.parse("postmaster@company-x.example")
TO = Address.parse("tls@company-y.example")
TALLY = tally_of([(Policy(type=PolicyType.NONE, domain=SUBJECT.domain), None, 3)])
REPORT = compressed(document(SUBJECT, TALLY))
UNSIGNED = signer(None, SENDER.domain)
SIGN = signer(dkim_key(), SENDER.domain)


def a_file(*, sender: Address = SENDER, to: Address = TO, signed: bool = False) -> bytes:
    return content(SUBJECT, REPORT, message_id=ID, sender=sender, to=to, sign=SIGN if signed else UNSIGNED)


def wire(file: bytes) -> bytes:
    """What leaves of a file."""
    ((start, end),) = message_of(ID, file).body.cuts
    assert start == 0
    return file[end:]


def parsed(file: bytes) -> EmailMessage:
    mail = message_from_bytes(wire(file), policy=default)
    assert isinstance(mail, EmailMessage)
    assert not mail.defects
    return mail


def test_a_report_is_found_by_its_header() -> None:
    mail = parsed(a_file())

    assert mail["Subject"] == (
        "Report Domain: company-y.example Submitter: company-x.example"
        " Report-ID: <2026-11-26.company-y.example@relay.company-x.example>"
    )
    assert mail["TLS-Report-Domain"] == "company-y.example"
    assert mail["TLS-Report-Submitter"] == "company-x.example"
    assert (mail["From"], mail["To"]) == (str(SENDER), str(TO))
    assert mail["Date"] == "Fri, 27 Nov 2026 02:30:00 +0000"
    assert mail["Message-ID"] == f"<{ID}@relay.company-x.example>"
    assert mail["Auto-Submitted"] == "auto-generated"


def test_it_goes_even_where_tls_is_what_fails() -> None:
    """RFC 8689 section 5, RFC 8460 section 3."""
    assert parsed(a_file())["TLS-Required"] == "No"
    assert message_of(ID, a_file()).envelope.tls is TlsWish.OPTIONAL


def test_it_has_a_part_for_people_and_one_for_programs() -> None:
    mail = parsed(a_file())

    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    words, report = mail.iter_parts()
    assert words.get_content_type() == "text/plain"
    assert "company-y.example" in words.get_content()
    assert report.get_content_type() == "application/tlsrpt+gzip"
    assert report.get_content_disposition() == "attachment"
    assert report.get_filename() == SUBJECT.file_name
    told = json.loads(gzip.decompress(report.get_content()))
    check(told)
    assert told == document(SUBJECT, TALLY)


def test_every_line_ends_as_it_should_and_is_no_longer_than_it_may_be() -> None:
    lines = a_file(signed=True).split(b"\r\n")

    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert max(map(len, lines)) <= 998
    assert b"".join(lines).isascii()


# as a message


def test_the_message_is_what_a_reading_of_the_file_finds() -> None:
    """After a loss of the queue its bodies are read again: it must be the same, but for the trace that is added."""
    for file in (a_file(), a_file(signed=True)):
        ours, read = message_of(ID, file), an_examiner().examine(reading(file), ID)

        assert read.envelope == ours.envelope
        assert read.body.cuts == ours.body.cuts
        assert read.body.header_end == ours.body.header_end
        assert read.body.size == ours.body.size == len(file)
        assert read.body.wire_size - len(read.body.prefix) == ours.body.wire_size == len(wire(file))
        assert (read.body.eight_bit, read.body.long_lines, read.body.nul) == (False, False, False)
        assert read.body.prefix.count(b"\r\n") == 2, "Received, and nothing that it lacks"


def test_nobody_is_notified_and_it_is_given_up_after_a_day() -> None:
    envelope = message_of(ID, a_file()).envelope

    assert envelope.reverse_path == SENDER
    assert [recipient.notify for recipient in envelope.recipients] == [Notify.NEVER]
    assert envelope.deadline is not None
    assert envelope.deadline.at == datetime(2026, 11, 28, 2, 30, tzinfo=UTC)
    assert not envelope.deadline.by
    assert message_of(ID, a_file()).arrived + timedelta(hours=24) - envelope.deadline.at < timedelta(seconds=1)


@given(st.sampled_from(['"a>b"', "a+b", '"x y"', "o'neil", '"NOTIFY=SUCCESS"']))
def test_any_address_is_read_back(local_part: str) -> None:
    odd = Address.parse(f"{local_part}@company-y.example")
    file = a_file(to=odd, sender=odd)

    envelope = message_of(ID, file).envelope

    assert (envelope.reverse_path, envelope.recipients[0].address) == (odd, odd)
    assert an_examiner().examine(reading(file), ID).envelope == envelope


@pytest.mark.parametrize("file", [b"", b"From: a@b\r\n\r\n", b"X-Sender: <a@b.example>\r\n\r\n"])
def test_another_file_is_no_report(file: bytes) -> None:
    with pytest.raises(ValueError, match="not the mail of a report"):
        message_of(ID, file)


# the signature


def test_a_signature_holds_and_is_for_reports() -> None:
    mail = wire(a_file(signed=True))

    assert dkim.verify(mail, dnsfunc=dns_of(SENDER.domain), tlsrpt="strict")
    header = mail[: mail.index(b"\r\n\r\n")]
    field = re.sub(rb"\s", b"", re.split(rb"\r\n(?![ \t])", header)[0]).decode()
    tags = dict(tag.split("=", 1) for tag in field.removeprefix("DKIM-Signature:").split(";"))
    assert (tags["d"], tags["s"], tags["a"]) == (SENDER.domain, SELECTOR, "rsa-sha256")
    assert "l" not in tags
    assert {"from", "to", "subject", "date", "tls-report-domain", "tls-report-submitter"} <= set(tags["h"].split(":"))


@pytest.mark.parametrize(
    "change",
    [
        (b"TLS-Report-Domain: company-y", b"TLS-Report-Domain: company-z"),
        (b"Content-Disposition: attachment", b"Content-Disposition: inline"),
        (b"Report Domain: company-y", b"Report Domain: company-z"),
    ],
)
def test_a_report_that_was_changed_has_no_valid_signature(change: tuple[bytes, bytes]) -> None:
    mail = wire(a_file(signed=True))
    assert change[0] in mail

    assert not dkim.verify(mail.replace(*change), dnsfunc=dns_of(SENDER.domain), tlsrpt=True)


def test_without_a_key_there_is_no_signature() -> None:
    assert b"DKIM-Signature" not in a_file()


def test_the_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(dkim_key())
