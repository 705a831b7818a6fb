"""One mail transaction: MAIL, RCPT and DATA of one delivery, or of a part of its recipients, and what came of it.

Pure.  A `Load` is a delivery under way, with its octets and the outcomes so far; a `Transaction` is one try at some of
its recipients.  Invariant: a recipient of a load is in `outcomes`, or in `pending`, or in one open transaction.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from datetime import datetime
from enum import Enum
from typing import BinaryIO, TypeAlias

from relayd.mail.delivery import Delivery
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus, Reply

_TOO_MANY = EnhancedStatus(5, 5, 3)  # RFC 3463 section 3.6: too many recipients


class Step(Enum):
    """What is waited for; the words are those of the log."""

    RSET = "RSET"
    MAIL = "MAIL"
    RCPT = "RCPT"
    DATA = "DATA"
    CHUNK = "BDAT"
    FINAL = "the end of the message"


Script: TypeAlias = deque[tuple[Step, Recipient | None, bytes]]
Remark: TypeAlias = tuple[datetime, bytes | Reply | str]  # what we said, what the server did, or what happened

MOST_REMARKS = 200


class Load:
    """A delivery under way.

    `body` and `raw` are what is sent: at first the delivery's own body and its file; for a server that cannot take
    it as it is, what was made of it (`altered` says how).  `raw` is None where the octets are to be streamed, then
    from `scratch` if there is one.  `begun` is on the shell's clock.  `remarks` is what was said of it, on every
    connection, but not its octets.
    """

    __slots__ = (
        "altered",
        "begun",
        "body",
        "closed",
        "delivery",
        "open",
        "outcomes",
        "pending",
        "raw",
        "remarks",
        "scratch",
    )

    def __init__(self, delivery: Delivery, raw: bytes | None = None) -> None:
        self.delivery = delivery
        self.body: Body = delivery.body
        self.raw = raw
        self.scratch: BinaryIO | None = None
        self.altered = ""
        self.outcomes: dict[int, Outcome] = {}
        self.pending: list[Recipient] = list(delivery.recipients)
        self.open = 0  # transactions begun and not settled
        self.closed = 0  # transactions settled by the server
        self.begun = 0.0
        self.remarks: list[Remark] = []

    def note(self, at: datetime, what: bytes | Reply | str) -> None:
        """Keep what was said, or happened, for the transcript.  Of too much the middle is dropped."""
        self.remarks.append((at, what))
        if len(self.remarks) > MOST_REMARKS:
            del self.remarks[MOST_REMARKS // 4 : MOST_REMARKS // 2]

    def renew(self) -> None:
        """Begin again, on another connection, with the recipients that have no outcome."""
        self.pending = [one for one in self.delivery.recipients if one.number not in self.outcomes]
        self.open = self.closed = 0

    def discard(self) -> None:
        """Drop what was made for one server."""
        if self.scratch is not None:
            self.scratch.close()
            self.scratch = None
        self.body, self.raw, self.altered = self.delivery.body, None, ""

    @property
    def complete(self) -> bool:
        """Whether every recipient has an outcome."""
        return len(self.outcomes) == len(self.delivery.recipients)

    def settle_pending(self, outcome: Outcome) -> None:
        """Give `outcome` to every recipient that is in no transaction: those that are may have it already."""
        for recipient in self.pending:
            self.outcomes[recipient.number] = outcome
        self.pending = []

    def settle_rest(self, outcome: Outcome) -> None:
        """Give `outcome` to every recipient that has none."""
        for recipient in self.delivery.recipients:
            self.outcomes.setdefault(recipient.number, outcome)
        self.pending = []


class Transaction:
    """Some recipients of a load, and the replies so far.

    `script` is what remains to be said of the envelope.  `end` is the number of octets of the connection up to and
    with the last of the message, 0 while that is not written.  `fresh`: a RSET stands before it.  `hollow`: ended with
    a lone dot, since nobody was accepted.  `final`: the reply to the end, or to the chunk that was refused, which the
    reply to the RSET behind it has yet to confirm.
    """

    __slots__ = (
        "accepted",
        "data",
        "end",
        "final",
        "fresh",
        "hollow",
        "load",
        "mail",
        "recipients",
        "refused",
        "script",
    )

    def __init__(self, load: Load, recipients: tuple[Recipient, ...], script: Script, *, fresh: bool) -> None:
        self.load = load
        self.recipients = recipients
        self.script = script
        self.fresh = fresh
        self.mail: Reply | None = None
        self.data: Reply | None = None
        self.final: Reply | None = None
        self.accepted: list[Recipient] = []
        self.refused: list[tuple[Recipient, Reply]] = []
        self.end = 0
        self.hollow = False

    @property
    def turned_away(self) -> bool:
        """Whether MAIL was refused."""
        return self.mail is not None and not self.mail.positive

    def answered(self, recipient: Recipient, reply: Reply) -> None:
        """Note the reply to a RCPT."""
        if reply.positive:
            self.accepted.append(recipient)
        else:
            self.refused.append((recipient, reply))

    def may_have_arrived(self, left: int) -> bool:
        """Whether somebody may have it, with so many octets of the connection gone: to be cautious, its last two are
        not waited for."""
        if not self.end or self.hollow or self.final is not None or (self.turned_away and not self.accepted):
            return False
        return left >= self.end - 2

    def settle_refusals(self) -> None:
        """Turn refused recipients into outcomes, or back into pending ones where the server took some and had enough.

        Each transaction that sends some back has one that was accepted, so this comes to an end.
        """
        again = []
        for recipient, reply in self.refused:
            if self.accepted and too_many_recipients(reply):
                again.append(recipient)
            else:
                self.load.outcomes[recipient.number] = refusal(reply, Scope.RECIPIENT)
        self.load.pending[:0] = again
        self.refused = []

    def settle(self, outcome: Outcome) -> None:
        """Give `outcome` to the accepted recipients."""
        for recipient in self.accepted:
            self.load.outcomes[recipient.number] = outcome

    def settle_unrefused(self, outcome: Outcome) -> None:
        """Give `outcome` to those that were accepted, or may have been: of some there is no answer yet."""
        refused = {recipient.number for recipient, _ in self.refused}
        for recipient in self.recipients:
            if recipient.number not in refused:
                self.load.outcomes.setdefault(recipient.number, outcome)

    def keep_refusals(self) -> None:
        """Keep what was said for good of single recipients, whatever becomes of the others."""
        for recipient, reply in self.refused:
            if reply.permanent and not too_many_recipients(reply):
                self.load.outcomes[recipient.number] = refusal(reply, Scope.RECIPIENT)


def verdict(reply: Reply) -> Outcome:
    """Return what a final reply means: by its first digit alone (RFC 5321 section 4.2.1)."""
    return Delivered(reply) if reply.positive else refusal(reply, Scope.MESSAGE)


def refusal(reply: Reply, scope: Scope) -> Deferred | Failed:
    """Return what a 4yz or 5yz reply means."""
    return Failed(reply, scope) if reply.permanent else Deferred(reply, scope)


def too_many_recipients(reply: Reply) -> bool:
    """Whether a reply to RCPT says so (RFC 5321 section 4.5.3.1.10): 452; and 552, as RFC 821 had
    it, unless its status tells something else: the mailbox is full, the message too large (RFC 1870 section 6.1)."""
    if reply.code == 552:
        return reply.status in (None, _TOO_MANY)
    return reply.code == 452


def of_message(outcome: Deferred) -> Deferred:
    """Return a connection's failure as the outcome of one message that it interrupted."""
    return replace(outcome, scope=Scope.MESSAGE)
