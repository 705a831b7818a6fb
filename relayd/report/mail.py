"""A report as mail (RFC 8460 section 5.3), and as a message of the queue.

Pure.  What the reader must not break:

    The file describes itself: its first three lines, which are cut, say who sends, who gets it and until when (see
    relayd/submission/header.py), so that it is the same message wherever it is read again; `message_of` reads them.
    It asks for no notification (NOTIFY=NEVER), so that nothing answers to it but people.  Its reverse-path is a real
    one: `<>` is for what a standard gives it to (RFC 5321 section 4.5.5).
    `TLS-Required: No` (RFC 8689 section 5): it goes even where TLS is what fails (RFC 8460 section 3).
    Every line ends in CRLF, and all is ASCII, so that no server has to change it and break its signature.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, timedelta
from email.utils import format_datetime

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.envelope import Envelope
from relayd.mail.message import Body, Message, arrival_of
from relayd.mail.recipient import Notify, Recipient
from relayd.mail.tls import TlsWish
from relayd.report.document import MEDIA_TYPE, Subject

LIFETIME = timedelta(hours=24)  # RFC 8460 section 5.5

Sign = Callable[[bytes], bytes]  # returns the header field to put before a message, with its CRLF; empty: none

_ENVELOPE = re.compile(rb"X-Sender: <([^\r\n]+)>\r\nX-Receiver: <([^\r\n]+)> NOTIFY=NEVER\r\n(X-[^\r\n]+)\r\n")


def content(subject: Subject, report: bytes, *, message_id: str, sender: Address, to: Address, sign: Sign) -> bytes:
    """Return the file of a report, signed.

    `message_id` is the queue id it will have, `report` the compressed document.
    """
    mail = _header(subject, message_id, sender, to) + _body(subject, message_id, report)
    return _envelope(message_id, sender, to) + sign(mail) + mail


def message_of(message_id: str, file: bytes) -> Message:
    """Return the message that a file of `content` is; ValueError if it is none."""
    found = _ENVELOPE.match(file)
    if found is None:
        raise ValueError("not the mail of a report")
    arrived = arrival_of(message_id)
    cut, header_end = found.end(), file.index(b"\r\n\r\n") + 4
    recipient = Recipient(number=0, address=Address.parse(found[2].decode("ascii")), notify=Notify.NEVER)
    return Message(
        id=message_id,
        envelope=Envelope(
            reverse_path=Address.parse(found[1].decode("ascii")),
            recipients=(recipient,),
            deadline=_deadline(message_id),
            tls=TlsWish.OPTIONAL,
        ),
        body=Body(size=len(file), wire_size=len(file) - cut, header_end=header_end, cuts=((0, cut),), canonical=True),
        arrived=arrived,
    )


def _deadline(message_id: str) -> Deadline:
    ends = (arrival_of(message_id) + LIFETIME).replace(microsecond=0)
    return Deadline(at=ends, mode=DeadlineMode.OWN)


def _envelope(message_id: str, sender: Address, to: Address) -> bytes:
    ends = _deadline(message_id).at.strftime("%Y-%m-%dT%H:%M:%SZ")
    lines = f"X-Sender: <{sender}>\r\nX-Receiver: <{to}> NOTIFY=NEVER\r\nX-Relayd-Deadline: {ends}\r\n"
    return lines.encode("ascii")


def _header(subject: Subject, message_id: str, sender: Address, to: Address) -> bytes:
    date = format_datetime(arrival_of(message_id).astimezone(UTC).replace(microsecond=0))
    lines = (
        f"Date: {date}",
        f"From: {sender}",
        f"To: {to}",
        f"Subject: Report Domain: {subject.domain}\r\n Submitter: {subject.submitter}\r\n Report-ID: <{subject.id}>",
        f"Message-ID: <{message_id}@{subject.hostname}>",
        f"TLS-Report-Domain: {subject.domain}",
        f"TLS-Report-Submitter: {subject.submitter}",
        "TLS-Required: No",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type="tlsrpt";\r\n\tboundary="{_boundary(message_id)}"',
    )
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _body(subject: Subject, message_id: str, report: bytes) -> bytes:
    boundary = _boundary(message_id)
    lines = (
        "This is a message in several parts, in MIME format.",
        "",
        f"--{boundary}",
        "Content-Type: text/plain; charset=us-ascii",
        "",
        f"This is an aggregate TLS report (RFC 8460) from {subject.submitter}",
        f"about {subject.domain}, for {subject.day.isoformat()} (UTC).",
        "",
        f"--{boundary}",
        f"Content-Type: {MEDIA_TYPE}",
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment;\r\n\tfilename="{subject.file_name}"',
        "",
        base64.encodebytes(report).decode("ascii").replace("\n", "\r\n") + f"--{boundary}--",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


def _boundary(message_id: str) -> str:
    """One that no part has: in base64 and in our words there is no underscore."""
    return f"=_{hashlib.sha256(message_id.encode()).hexdigest()[:40]}"
