"""The three parts of a notification (RFC 6522 section 3): words for people, fields for programs, the message itself.

Pure.  What comes from a server, from ESMTP parameters or from the original is foreign: in the first two parts it is
printable ASCII on a line that we began, so that it cannot make a field, a block or a part.
"""

from __future__ import annotations

import binascii
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from relayd.mail.address import Address
from relayd.mail.meaning import meaning
from relayd.mail.message import Body, arrival_of
from relayd.mail.recipient import Recipient
from relayd.mail.settlement import Action, Notice
from relayd.mail.tls import TlsWish

MAX_RETURNED = 1024 * 1024  # octets of a file up to which RET=FULL is served
MAX_HEADER = 64 * 1024  # octets of a header that are returned
MAX_VALUE = 900  # characters of one foreign value, so that its line stays below 998 (RFC 5322 section 2.1.1)

_NOT_PRINTABLE = re.compile(r"[^ -~]")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_TYPED = re.compile(r"([A-Za-z0-9-]{1,40});(.+)", re.DOTALL)
_QCHAR = re.compile(r"[!-*,-<>-\[\]-~]")  # RFC 6533 section 3
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_SMTP = re.compile(r"(?:^|; last reply: )([2-5]\d\d(?: .*|))$")
_LINE_END = re.compile(rb"\r\n?|\n")
_LONG_LINE = re.compile(rb"[^\r\n]{999}")
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)

_HAPPENED = {
    Action.FAILED: "Your message of {arrived} could not be delivered to the recipients below. It will not be tried "
    "again for them.",
    Action.DELAYED: "Your message of {arrived} has not been delivered to the recipients below yet. It will be tried "
    "until {until}; there is no need to send it again.",
    Action.RELAYED: "Your message of {arrived} was passed on for the recipients below, to a server that does not "
    "itself tell of deliveries. You may hear no more of it.",
}
_HAPPENED_BY_DEADLINE = {
    Action.DELAYED: "Your message of {arrived} has not been delivered to the recipients below by its deadline, "
    "{deadline}. It will be tried until {until}; there is no need to send it again.",
    Action.RELAYED: "Your message of {arrived}, to be delivered by {deadline}, was passed on for the recipients below. "
    "The next server may not keep to the deadline, nor tell of a delivery: you may hear no more of it.",
}
_MISSED = "4.4.7"  # RFC 2852 section 4.1: what a delay past the deadline is told with, whatever a server said
_DEFAULT_STATUS = {Action.FAILED: "5.0.0", Action.DELAYED: "4.0.0", Action.RELAYED: "2.0.0"}
_MAYBE = "A connection broke off before the answer came, so it may have arrived all the same."


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A MIME part, its lines ended by CRLF."""

    content_type: str
    encoding: str  # 7bit, 8bit or quoted-printable
    payload: bytes


def printable(text: str, limit: int = MAX_VALUE) -> str:
    """Return `text` on one line of at most `limit` characters of printable ASCII; the others become `?`."""
    return _NOT_PRINTABLE.sub("?", " ".join(text[:limit].splitlines())).strip()


def explanation(notice: Notice, *, hostname: str, retried_until: datetime) -> Part:
    """Return the part for people: what happened, to whom, what the server said, what comes next."""
    happened = _happened(notice).format(
        arrived=_date(notice.arrived),
        until=_date(retried_until),
        deadline=_date(notice.deadline.at) if notice.deadline else "",
    )
    paragraphs = [f"This is the mail relay {printable(hostname)}.", *textwrap.wrap(happened, 76)]
    paragraphs.insert(1, "")
    for recipient in notice.recipients:
        paragraphs += ["", f"<{recipient.address}>", *_told(recipient)]
    return _text("\r\n".join((*paragraphs, "")))


def _happened(notice: Notice) -> str:
    asked = notice.action is Action.RELAYED and notice.deadline is not None and notice.deadline.by
    return (_HAPPENED_BY_DEADLINE if asked or _missed(notice) else _HAPPENED)[notice.action]


def _missed(notice: Notice) -> bool:
    """Whether it tells of a delay because a deadline has passed: the id of a notice has the time of the debt."""
    deadline = notice.deadline
    if notice.action is not Action.DELAYED or deadline is None or deadline.ends:
        return False
    return notice.arrived < deadline.at <= arrival_of(notice.id)


def _told(recipient: Recipient) -> Iterator[str]:
    host = _host(recipient.peer)
    said = printable(recipient.reply) or "no attempt could be made"
    if host and _SMTP.match(said):
        words = meaning(recipient.dsn)
        yield from _wrapped(words, indent="    ") if words else ()
        said = f"{host} said: {said}"
    yield from _wrapped(said, indent="    ")
    if recipient.attempts > 1 and recipient.attempted is not None:
        times = f"It was tried {recipient.attempts} times, the last time on {_date(recipient.attempted)}."
        yield from _wrapped(times, indent="    ")
    if recipient.possible_duplicate:
        yield from _wrapped(_MAYBE, indent="    ")


def _text(text: str) -> Part:
    if text.isascii():
        return Part(content_type="text/plain; charset=us-ascii", encoding="7bit", payload=text.encode("ascii"))
    payload = _quoted_printable(text.encode("utf-8", "replace"))
    return Part(content_type="text/plain; charset=utf-8", encoding="quoted-printable", payload=payload)


def delivery_status(notice: Notice, *, hostname: str, retried_until: datetime) -> Part:
    """Return the part for programs (RFC 3464 section 2): a block for the message, and one for each recipient."""
    blocks = [_fields(_message_fields(notice, hostname))]
    blocks += [_fields(_recipient_fields(recipient, notice, retried_until)) for recipient in notice.recipients]
    payload = "\r\n".join(blocks).encode("ascii")
    return Part(content_type="message/delivery-status", encoding="7bit", payload=payload)


def _fields(fields: Iterator[tuple[str, str]]) -> str:
    """Only what a server said is folded: folding changes spaces, and an address may have some."""
    lines: list[str] = []
    for name, value in fields:
        line = f"{name}: {value}"
        lines += _wrapped(line, later=" ") if name == "Diagnostic-Code" else [line]
    return "".join(f"{line}\r\n" for line in lines)


def _message_fields(notice: Notice, hostname: str) -> Iterator[tuple[str, str]]:
    if notice.envid:
        yield "Original-Envelope-Id", printable(_from_xtext(notice.envid))
    yield "Reporting-MTA", f"dns; {printable(hostname)}"
    yield "Arrival-Date", _date(notice.arrived)
    if notice.deadline is not None:
        yield "Deliver-By-Date", _date(notice.deadline.at)  # RFC 2852


def _recipient_fields(recipient: Recipient, notice: Notice, until: datetime) -> Iterator[tuple[str, str]]:
    if recipient.orcpt and (typed := _TYPED.match(recipient.orcpt)):
        yield "Original-Recipient", f"{typed[1]}; {printable(_from_xtext(typed[2]))}"
    yield "Final-Recipient", _final_recipient(recipient.address)
    yield "Action", notice.action.value
    known = _STATUS.fullmatch(recipient.dsn)
    told = recipient.dsn if known else _DEFAULT_STATUS[notice.action]
    yield "Status", _MISSED if _missed(notice) else told
    if host := _host(recipient.peer):
        yield "Remote-MTA", f"dns; {host}"
    if reply := printable(recipient.reply):
        smtp = _SMTP.search(reply)
        yield "Diagnostic-Code", f"smtp; {smtp[1]}" if smtp else f"x-relayd; {reply}"
    if recipient.attempted:
        yield "Last-Attempt-Date", _date(recipient.attempted)
    if notice.action is Action.DELAYED:
        yield "Will-Retry-Until", _date(until)


def _final_recipient(address: Address) -> str:
    """RFC 6533 section 3: what is not ASCII is embedded, since message/delivery-status is ASCII alone."""
    text = str(address)
    if text.isascii():
        return f"rfc822; {printable(text)}"
    return "utf-8; " + "".join(c if _QCHAR.fullmatch(c) else f"\\x{{{ord(c):02X}}}" for c in text)


def _host(peer: str) -> str:
    """Return the name in `name[address]:port`; an address literal if the name is an IP address."""
    name, _, rest = printable(peer).partition("[")
    return f"[{name}]" if name and rest.startswith(f"{name}]") else name


def _from_xtext(text: str) -> str:
    """RFC 3461 section 4; what is not xtext is taken as it is."""
    return _HEX.sub(lambda match: chr(int(match[1], 16)), text)


def _date(when: datetime) -> str:
    return format_datetime(when.astimezone(UTC).replace(microsecond=0))


def _wrapped(text: str, *, indent: str = "", later: str | None = None) -> list[str]:
    """Fold at spaces only: a word is never broken, since it may be an address."""
    after = indent if later is None else later
    return textwrap.wrap(
        text, 76, initial_indent=indent, subsequent_indent=after, break_long_words=False, break_on_hyphens=False
    )


def octets_needed(notice: Notice) -> int:
    """Return how much of the original's file `returned` wants, from its beginning."""
    return notice.body.size if _in_full(notice) else min(notice.body.header_end, MAX_HEADER)


def _in_full(notice: Notice) -> bool:
    """RFC 3461 section 4.3: FULL is for failures.  What could not be sent as it is comes back as its header; so does
    what was to go by TLS only (RFC 8689 section 5)."""
    body = notice.body
    fits = body.size <= MAX_RETURNED and not body.nul and not body.long_lines
    wanted = notice.ret == "FULL" and notice.action is Action.FAILED
    return wanted and fits and notice.tls is not TlsWish.REQUIRED


def returned(notice: Notice, original: bytes) -> Part:
    """Return the message, or its header, as it was to be sent; `original` may be less than `octets_needed`.

    A header goes as ASCII, quoted-printable where it must (RFC 6522 section 4 allows it), so that the notification
    gets through any server; a whole message cannot be encoded (RFC 2046 section 5.2.1), and goes as 8bit.
    """
    body = notice.body
    if _in_full(notice) and len(original) >= body.size:
        kept = _kept(body, original, body.size)
        kind = "message/global" if body.eight_bit_header else "message/rfc822"
        return Part(content_type=kind, encoding="7bit" if kept.isascii() else "8bit", payload=kept)
    header = _header(body, original)
    if header.isascii() and b"\0" not in header and not _LONG_LINE.search(header):
        return Part(content_type="text/rfc822-headers", encoding="7bit", payload=header)
    charset = "utf-8" if _is_utf8(header) else "unknown-8bit"
    payload = _quoted_printable(header)
    return Part(content_type=f"text/rfc822-headers; charset={charset}", encoding="quoted-printable", payload=payload)


def original_message_id(notice: Notice, original: bytes) -> str | None:
    """Return the original's Message-ID with its angle brackets, if it has a sound one."""
    match = _MESSAGE_ID.search(_header(notice.body, original))
    return match[1].decode("ascii") if match else None


def _header(body: Body, original: bytes) -> bytes:
    header = _kept(body, original, min(body.header_end, MAX_HEADER))
    if body.header_end > MAX_HEADER:
        header = header[: header.rfind(b"\r\n") + 2]
    header = header.rstrip(b"\r\n")
    return header + b"\r\n" if header else b""


def _kept(body: Body, original: bytes, end: int) -> bytes:
    """The prefix and the first `end` octets of the file without the cuts, every line ended by CRLF."""
    pieces = [body.prefix]
    at = 0
    for start, stop in sorted(body.cuts):
        pieces.append(original[at : min(start, end)])
        at = max(at, stop)
    pieces.append(original[at:end])
    return _LINE_END.sub(b"\r\n", b"".join(pieces))


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _quoted_printable(text: bytes) -> bytes:
    encoded = binascii.b2a_qp(text.replace(b"\r\n", b"\n"), quotetabs=False, istext=True)
    return encoded.replace(b"\n", b"\r\n")
