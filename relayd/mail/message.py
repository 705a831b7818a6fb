"""A message and what is known of its body.

Pure.  A body is examined once, at submission, and what was seen travels with the message, so that sending needs no
second pass.  The file on disk stays as it was dropped; what is not to be sent (`cuts`) and what is to be added
(`prefix`) are described here.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from relayd.mail.envelope import Envelope
from relayd.mail.key import SubmissionKey

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32: sorts as it counts, has no I, L, O, U
ID_LENGTH = 20


def new_id(now: datetime, random: int | None = None) -> str:
    """Return a queue id: 10 characters of time in milliseconds (so ids sort by arrival), 10 of chance.

    `random` is 50 bits, drawn if not given.
    """
    number = (int(now.timestamp() * 1000) << 50) | (secrets.randbits(50) if random is None else random)
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(5 * (ID_LENGTH - 1), -1, -5))


def arrival_of(queue_id: str) -> datetime:
    """Return the time that is in a queue id, to the millisecond; ValueError if it is not one."""
    if len(queue_id) != ID_LENGTH:
        raise ValueError(f"not a queue id: {queue_id!r}")
    number = 0
    for character in queue_id[:10]:
        number = number * 32 + _ALPHABET.index(character)
    return datetime.fromtimestamp(number / 1000, tz=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The bytes of a message on disk, as seen at submission.

    `size` is the length of the file, `wire_size` what is transmitted (prefix and CRLF counted, cuts and dot-stuffing
    not: RFC 1870 section 5), both in octets.  `header_end` is the offset of the first octet after the empty line
    that ends the header (`size` if there is none).  `cuts` are the ranges (start, end) of the file that are never
    sent: X-Sender, X-Receiver and X-Relayd-Key lines, X-Relayd-Deadline, Bcc, Return-Path.  `prefix` goes before the
    rest: header fields that we generated, CRLF canonical.
    """

    size: int
    wire_size: int
    header_end: int
    cuts: tuple[tuple[int, int], ...] = ()
    prefix: bytes = b""
    eight_bit: bool = False  # an octet above 127, in header or body (RFC 6152)
    eight_bit_header: bool = False  # one in the header (RFC 6532)
    long_lines: bool = False  # a line of more than 998 octets without its CRLF (RFC 5321 section 4.5.3.1.6)
    nul: bool = False  # an octet 0
    canonical: bool = False  # every line, the last too, ends in CRLF, and there is no other CR or LF


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What the application dropped, accepted: an id, an envelope, a body.

    `arrived` is the time in `id`.  `notification` marks the ones we made ourselves (RFC 3464).  `key` is known of a
    message that arrives, and not of one that is read from the queue.
    """

    id: str
    envelope: Envelope
    body: Body
    arrived: datetime
    notification: bool = False
    held: bool = False
    key: SubmissionKey | None = None

    @property
    def urgent(self) -> bool:
        """Whether it goes before other mail: a notification, or one that came with a deadline still to be met."""
        deadline = self.envelope.deadline
        return self.notification or (deadline is not None and not deadline.passed(self.arrived))
