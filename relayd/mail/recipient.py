"""One address of one message, and how it stands.

Pure.  `CHANGES` is the one table of what a status may become, `Recipient.changed` the one function that makes a
change.  In flight is not a status but a lease on the queue's row; hold is a flag of the message.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum, Flag, auto
from typing import Any, Self

from relayd.mail.address import Address
from relayd.mail.errors import QueueError


class Status(Enum):
    """How a recipient stands."""

    QUEUED = "queued"  # not tried yet
    DEFERRED = "deferred"  # tried, to be tried again
    DELIVERED = "delivered"
    FAILED = "failed"
    REMOVED = "removed"  # by the operator

    @property
    def final(self) -> bool:
        """Whether nothing more will be tried."""
        return self not in (Status.QUEUED, Status.DEFERRED)


CHANGES: dict[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset(Status) - {Status.QUEUED},
    Status.DEFERRED: frozenset(Status) - {Status.QUEUED},
    Status.DELIVERED: frozenset(),
    # A late Delivered is always accepted: it tells what happened, whatever we had concluded meanwhile.
    Status.FAILED: frozenset({Status.DELIVERED}),
    Status.REMOVED: frozenset({Status.DELIVERED}),
}


class Notify(Flag):
    """RFC 3461 section 4.1's NOTIFY.  NEVER stands alone."""

    NEVER = auto()
    SUCCESS = auto()
    FAILURE = auto()
    DELAY = auto()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `NEVER` or a comma-separated list of the others, in any case; ValueError for anything else."""
        found = cls(0)
        for word in text.upper().split(","):
            if word not in cls.__members__ or (word == "NEVER" and "," in text):
                raise ValueError(f"not a NOTIFY value: {text!r}")
            found |= cls[word]
        return found

    def __str__(self) -> str:
        return ",".join(str(flag.name) for flag in self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """One recipient.  With the id of its message, `number` (its place in the envelope, from 0) is its stable key.

    `notify` and `orcpt` (RFC 3461; `orcpt` as it came, `rfc822;a@b` in xtext) are None where they were not given.
    `reply`, `dsn`, `peer` and `attempted` tell of the last attempt: the server's words or ours, the enhanced status,
    `name[address]:port`, and when.  `via` is the route to which an operator redirected it.
    """

    number: int
    address: Address
    notify: Notify | None = None
    orcpt: str | None = None
    status: Status = Status.QUEUED
    attempts: int = 0
    due: datetime | None = None
    reply: str = ""
    dsn: str = ""
    peer: str = ""
    attempted: datetime | None = None
    possible_duplicate: bool = False
    via: str = ""

    @property
    def destination(self) -> str:
        """Where it goes, as the queue has it: its domain; or, if it was redirected, `ROUTE/DOMAIN`."""
        return f"{self.via}/{self.address.domain}" if self.via else self.address.domain

    def changed(self, status: Status, **fields: Any) -> Self:
        """Return the recipient with `status` and `fields`.

        Raises:
            QueueError: if `CHANGES` does not allow it.
        """
        if status not in CHANGES[self.status]:
            raise QueueError(f"{self.address}: {self.status.value} cannot become {status.value}")
        return replace(self, status=status, **fields)
