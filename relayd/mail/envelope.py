"""Who sent a message and who gets it."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.mail.address import Address
from relayd.mail.deadline import Deadline
from relayd.mail.recipient import Recipient
from relayd.mail.tls import TlsWish


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """The reverse-path and the recipients, with their DSN parameters (RFC 3461).

    `reverse_path` None is `<>`: such a message must never cause a notification (RFC 5321 section 4.5.5).
    `ret` is "FULL", "HDRS" or None; `envid` is in xtext, as it came.  Recipients are numbered 0, 1, ... in order.
    `deadline` is None for nearly all mail: then only the lifetime counts.
    """

    reverse_path: Address | None
    recipients: tuple[Recipient, ...]
    ret: str | None = None
    envid: str | None = None
    deadline: Deadline | None = None
    tls: TlsWish = TlsWish.POLICY

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("an envelope needs at least one recipient")
        if self.ret not in (None, "FULL", "HDRS"):
            raise ValueError(f"RET is FULL or HDRS, not {self.ret!r}")
