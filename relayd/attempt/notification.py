"""A notification (RFC 3464, RFC 6522): what the sender is told of a message that failed, waits, or was passed on.

Pure, and a function of its notice: id, date and Message-ID derive from the notice's id, so that making it twice makes
the same one.  Invariants, checked by tests/attempt/test_notification.py with hostile replies and parameters:

    It parses as multipart/report with exactly three parts, and one block for each recipient.
    Its sender is `<>`, it goes to the original's sender, and NOTIFY=NEVER: it never causes another one.
    The file describes itself: X-Sender and X-Receiver lines, which are cut, are enough to recover it (DESIGN.md).
    Every line ends in CRLF; it is ASCII unless the original is returned in full, or the sender's address is not.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import count

from relayd.attempt.parts import (
    Part,
    delivery_status,
    explanation,
    octets_needed,
    original_message_id,
    returned,
)
from relayd.mail.envelope import Envelope
from relayd.mail.message import Body, Message, arrival_of
from relayd.mail.recipient import Notify, Recipient
from relayd.mail.settlement import Action, Notice
from relayd.mail.tls import TlsWish

__all__ = ["build", "octets_needed", "recognised"]

_SUBJECTS = {
    Action.FAILED: "Undeliverable: your message was not delivered",
    Action.DELAYED: "Delayed: your message has not been delivered yet",
    Action.RELAYED: "Relayed: your message was passed on",
}
_LONG_LINE = re.compile(rb"[^\r\n]{999}")


def build(notice: Notice, original: bytes, *, hostname: str, retried_until: datetime) -> tuple[Message, bytes]:
    """Return the notification as a message of the queue, and the octets of its file.

    Args:
        notice: what is owed, to whom.
        original: the first `octets_needed(notice)` octets of the original's file; less, if they cannot be had.
        hostname: our own name, or an address literal.
        retried_until: the end of the original's lifetime, or its deadline, told in a delay notice.

    Raises:
        ValueError: if the notice's id is not a queue id.
    """
    parts = (
        explanation(notice, hostname=hostname, retried_until=retried_until),
        delivery_status(notice, hostname=hostname, retried_until=retried_until),
        returned(notice, original),
    )
    wish = " REQUIRETLS" if notice.tls is TlsWish.REQUIRED else ""
    envelope_lines = f"X-Sender: <>{wish}\r\nX-Receiver: <{notice.reverse_path}> NOTIFY=NEVER\r\n".encode()
    boundary = _boundary(notice, parts)
    header = _header(notice, hostname, parts, boundary, original_message_id(notice, original))
    content = envelope_lines + header + _multipart(parts, boundary)
    body = _examined(content, cut=len(envelope_lines), header_end=len(envelope_lines) + len(header))
    return _message(notice, body), content


def recognised(message: Message, content: bytes) -> Message:
    """Return a message that was read from its file again as the notification that it is, if we made it.

    Told by what nobody else's file has: the null path, and in the header our own kind of report, named by the very id
    of the message.  Nothing is added to it then, so it leaves as it would have.
    """
    header = content[: message.body.header_end]
    named = re.search(rb"^Message-ID: <%b@" % re.escape(message.id.encode("ascii")), header, re.MULTILINE)
    ours = named and b"\r\nContent-Type: multipart/report; report-type=delivery-status;" in header
    if message.envelope.reverse_path is not None or not ours:
        return message
    body = message.body
    unadorned = replace(body, prefix=b"", wire_size=body.wire_size - len(body.prefix))
    return replace(message, body=unadorned, notification=True)


def _message(notice: Notice, body: Body) -> Message:
    sender = Recipient(number=0, address=notice.reverse_path, notify=Notify.NEVER)
    return Message(
        id=notice.id,
        envelope=Envelope(reverse_path=None, recipients=(sender,), tls=_inherited(notice.tls)),
        body=body,
        arrived=arrival_of(notice.id),
        notification=True,
    )


def _inherited(wish: TlsWish) -> TlsWish:
    """A notification is as confidential as what it is about (RFC 8689 section 5)."""
    return TlsWish.REQUIRED if wish is TlsWish.REQUIRED else TlsWish.POLICY


def _header(notice: Notice, hostname: str, parts: Sequence[Part], boundary: str, about: str | None) -> bytes:
    """The header and its empty line (RFC 3464 section 2; RFC 3834 section 3.1.8 for Auto-Submitted)."""
    date = format_datetime(arrival_of(notice.id).astimezone(UTC).replace(microsecond=0))
    lines = [
        f"Date: {date}",
        f'From: "Mail Delivery System" <MAILER-DAEMON@{hostname}>',
        f"To: {notice.reverse_path}",
        f"Subject: {_SUBJECTS[notice.action]}",
        f"Message-ID: <{notice.id}@{hostname}>",
        *([f"In-Reply-To: {about}", f"References: {about}"] if about else []),
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="{boundary}"',
    ]
    if any(part.encoding == "8bit" for part in parts):
        lines.append("Content-Transfer-Encoding: 8bit")  # of the whole as of the part (RFC 2045 section 6.4)
    return "\r\n".join((*lines, "", "")).encode()


def _multipart(parts: Sequence[Part], boundary: str) -> bytes:
    pieces = [b"This is a delivery status notification (RFC 3464).\r\n"]
    for part in parts:
        head = f"\r\n--{boundary}\r\nContent-Type: {part.content_type}\r\n"
        if part.encoding != "7bit":
            head += f"Content-Transfer-Encoding: {part.encoding}\r\n"
        pieces += [head.encode("ascii"), b"\r\n", part.payload]
    pieces.append(f"\r\n--{boundary}--\r\n".encode("ascii"))
    return b"".join(pieces)


def _boundary(notice: Notice, parts: Sequence[Part]) -> str:
    """One that no part contains.  Derived, so that it is the same each time, but from the id too, which no server and
    no sender knows beforehand."""
    digest = hashlib.sha256(notice.id.encode())
    for part in parts:
        digest.update(part.payload)
    for turn in count():
        digest.update(turn.to_bytes(4, "big"))
        boundary = f"=_{digest.hexdigest()[:40]}"
        if not any(boundary.encode("ascii") in part.payload for part in parts):
            break
    return boundary


def _examined(content: bytes, *, cut: int, header_end: int) -> Body:
    """What submission would have found (mail/message.py); `canonical` because every part is made so."""
    return Body(
        size=len(content),
        wire_size=len(content) - cut,
        header_end=header_end,
        cuts=((0, cut),),
        eight_bit=not content[cut:].isascii(),
        eight_bit_header=not content[cut:header_end].isascii(),
        long_lines=_LONG_LINE.search(content) is not None,
        nul=b"\0" in content,
        canonical=True,
    )
