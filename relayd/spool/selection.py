"""Which messages of the queue an operator means.

Pure.  What it means is said here; selecting.py says the same in SQL, for a queue that is longer than one would read.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from relayd.mail.address import Address, folded
from relayd.mail.pattern import matches
from relayd.mail.recipient import Recipient, Status


class Waiting(Enum):
    """How a recipient that is not final waits."""

    QUEUED = "queued"  # not tried yet
    DEFERRED = "deferred"
    HELD = "held"
    IN_FLIGHT = "in-flight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Messages of which all of this is true; what is None or empty is not asked for.

    `domain` (a pattern of mail/pattern.py), `recipient`, `site` and a `waiting` other than HELD are about one and the
    same recipient that is not final.  `sender` is an address, a pattern behind an `@`, or empty for `<>`.  Of addresses
    the case of letters does not count.  `up_to` is the last id that is meant: what arrives later is not.
    """

    domain: str = ""
    recipient: Address | None = None
    site: str = ""
    waiting: Waiting | None = None
    sender: str | None = None
    arrived_before: datetime | None = None
    arrived_after: datetime | None = None
    up_to: str = ""

    @property
    def everything(self) -> bool:
        """Whether no message is left out."""
        return self == Selection(up_to=self.up_to)

    @property
    def of_recipients(self) -> bool:
        """Whether something is to be true of a recipient."""
        return bool(self.domain or self.recipient or self.site or self.waiting not in (None, Waiting.HELD))

    def means(self, recipient: Recipient, *, in_flight: bool, held: bool, site: str | None) -> bool:
        """Whether a recipient is one that makes its message be meant."""
        status = {Waiting.QUEUED: Status.QUEUED, Waiting.DEFERRED: Status.DEFERRED}.get(self.waiting or Waiting.HELD)
        return (
            not recipient.status.final
            and (not self.domain or matches(self.domain, recipient.address.domain))
            and (self.recipient is None or recipient.address.is_like(self.recipient))
            and self.site in ("", site)
            and (status is None or (recipient.status is status and not in_flight and not held))
            and (self.waiting is not Waiting.IN_FLIGHT or in_flight)
        )

    def means_message(self, message_id: str, sender: Address | None, arrived: datetime, *, held: bool) -> bool:
        """Whether what is not about a recipient is true of a message."""
        return (
            (not self.up_to or message_id <= self.up_to)
            and (self.waiting is not Waiting.HELD or held)
            and (self.sender is None or _sent_by(self.sender, sender))
            and (self.arrived_before is None or arrived < self.arrived_before)
            and (self.arrived_after is None or arrived >= self.arrived_after)
        )


ALL = Selection()


def _sent_by(wanted: str, sender: Address | None) -> bool:
    if wanted.startswith("@"):
        return sender is not None and matches(wanted[1:], sender.domain)
    return folded(str(sender or "")) == folded(wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """How much a selection means: messages, their recipients that are not final, and those of them that it is about;
    `up_to` is the last id of the queue when they were counted, empty if there is none."""

    messages: int
    recipients: int
    meant: int
    up_to: str
