"""The commands of a transaction, as octets.

Pure.  Invariant: a command is one line.  Whatever an envelope holds, no control character gets into it, and no octet
above 127 unless SMTPUTF8 was agreed on (RFC 6531 section 3.4): `line` refuses the finished octets otherwise.

No command is longer than 512 octets (RFC 5321 section 4.5.3.1.4), but for what ORCPT and BY add where DSN and DELIVERBY
were offered: paths, ENVID and ORCPT were bounded where they came in (254, 100 and 500 octets; RFC 3461 section 4).
"""

from __future__ import annotations

import re
from datetime import datetime

from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.message import Body
from relayd.mail.recipient import Recipient
from relayd.mail.tls import TlsWish
from relayd.relay.capabilities import Capabilities
from relayd.relay.content import transmitted

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

RSET = b"RSET\r\n"
DATA = b"DATA\r\n"
QUIT = b"QUIT\r\n"
STARTTLS = b"STARTTLS\r\n"


class UnsafeCommand(ValueError):
    """What an envelope holds cannot be written as one command."""


def line(text: str, *, utf8: bool = False) -> bytes:
    """Return `text` as a command with its CRLF.

    Raises:
        UnsafeCommand: for control characters, and for non-ASCII ones unless `utf8`.
    """
    try:
        octets = text.encode("utf-8" if utf8 else "ascii")
    except UnicodeEncodeError:
        raise UnsafeCommand(f"cannot be sent without SMTPUTF8: {text!r}") from None
    if _CONTROL.search(octets):
        raise UnsafeCommand(f"control character in {text!r}")
    return octets + b"\r\n"


def needs_smtputf8(delivery: Delivery) -> bool:
    """Whether the message must be sent with SMTPUTF8, or not at all (RFC 6531 section 3.2)."""
    sender = delivery.reverse_path
    return delivery.body.eight_bit_header or (sender is not None and sender.smtputf8)


def mail(delivery: Delivery, body: Body, capabilities: Capabilities, now: datetime, *, utf8: bool) -> bytes:
    """Return MAIL with the parameters that `body`, as it is sent, needs and the server offers.

    SIZE is what is transmitted, dot-stuffing not counted (RFC 1870 section 5); RET and ENVID go on unchanged (RFC
    3461 section 5.2.1), BY with the time that is left at `now` (RFC 2852 section 4.1.4).
    """
    words = [f"MAIL FROM:<{delivery.reverse_path or ''}>"]
    if capabilities.size_declared:
        words.append(f"SIZE={transmitted(body)}")
    if body.eight_bit and capabilities.eight_bit_mime:
        words.append("BODY=8BITMIME")
    if utf8:
        words.append("SMTPUTF8")
    if capabilities.dsn and delivery.ret is not None:
        words.append(f"RET={delivery.ret}")
    if capabilities.dsn and delivery.envid is not None:
        words.append(f"ENVID={delivery.envid}")
    if capabilities.deliver_by and delivery.deadline is not None and delivery.deadline.by:
        words.append(_by(delivery.deadline, now))
    if capabilities.require_tls and delivery.tls is TlsWish.REQUIRED:
        words.append("REQUIRETLS")  # RFC 8689 section 4.2.1
    return line(" ".join(words), utf8=utf8)


def _by(deadline: Deadline, now: datetime) -> str:
    mode = "R" if deadline.mode is DeadlineMode.RETURN else "N"
    return f"BY={deadline.left(now)};{mode}{'T' if deadline.trace else ''}"


def rcpt(recipient: Recipient, capabilities: Capabilities, *, utf8: bool) -> bytes:
    """Return RCPT, with NOTIFY and ORCPT if they were given and the server offers DSN."""
    text = f"RCPT TO:<{recipient.address}>"
    if capabilities.dsn and recipient.notify is not None:
        text += f" NOTIFY={recipient.notify}"
    if capabilities.dsn and recipient.orcpt is not None:
        text += f" ORCPT={recipient.orcpt}"
    return line(text, utf8=utf8)


def bdat(octets: int) -> bytes:
    """Return BDAT for a chunk of so many octets, with more behind it (RFC 3030 section 2)."""
    return b"BDAT %d\r\n" % octets


def bdat_last(octets: int) -> bytes:
    """Return BDAT for the last chunk."""
    return b"BDAT %d LAST\r\n" % octets
