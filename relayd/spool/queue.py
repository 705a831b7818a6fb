"""The Queue contract: every implementation passes tests/contracts/test_queue.py.

A queue keeps messages, one row per recipient, and what is owed for them.  Each method that changes something is
durable when it returns (one commit may serve many callers), and after a crash at any instant it has happened
wholly or not at all.  Times are aware datetimes, given by the caller; `now` is never read from a clock.

Invariants:

    A recipient is in at most one unexpired claim.
    A claim is never empty, and never hands out what is held, final, not due or claimed already.
    A message leaves the queue when all its recipients are final and no notice is owed; it leaves a history row.
    A body may be unlinked only after that row is durable, and the row dropped only after the body is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeAlias

from relayd.mail.address import Address
from relayd.mail.attempt import PastAttempt
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message
from relayd.mail.recipient import Recipient, Status
from relayd.mail.settlement import Notice, Settlement
from relayd.spool.selection import ALL, Chosen, Selection, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A destination with mail that may be tried now: how many recipients (counted up to a bound), and since when."""

    destination: str
    recipients: int
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A message as the command line shows it, with all its recipients."""

    message: Message
    in_flight: bool
    hold_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryRow:
    """A finished message: who, what became of each recipient, when."""

    id: str
    arrived: datetime
    finished: datetime
    sender: str  # "" for <>
    size: int
    recipients: tuple[Recipient, ...]


TOLD_WITHIN = timedelta(minutes=1)  # a queue that takes anything is told sooner that the clock was set
AGES = tuple(timedelta(minutes=5 * 2**power) for power in range(9))  # 5 minutes to 1280, as Postfix's qshape has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How many recipients wait at one destination, by age.

    `site` is where its mail was found to go, None if nobody has looked yet.  `ages` counts those that arrived within
    the first of `AGES`, then within the second and not the first, and so on, at last the older ones; `in_flight` are
    some of these.  `held` are the others.  `oldest` is when the oldest of them all arrived.
    """

    destination: str
    site: str | None
    ages: tuple[int, ...]
    held: int
    in_flight: int
    oldest: datetime

    @property
    def total(self) -> int:
        """How many wait and are not held."""
        return sum(self.ages)


Census: TypeAlias = Mapping[Waiting, tuple[int, ...]]  # how many wait so, by age as in `Shape`


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What has finished in some time: messages, and recipients by how they ended.  Of the messages of which something
    was delivered, half took at most `median` from their arrival to their end, and nineteen of twenty at most `slow`."""

    messages: int
    recipients: Mapping[Status, int]
    median: timedelta | None
    slow: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What is in flight under one claim.  `owner` is the start of the daemon that has it: an id with its time in it."""

    number: int
    owner: str
    ends: datetime
    recipients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounced:
    """How many messages were found, and how many of their recipients were in flight and left alone."""

    messages: int
    in_flight: int


class Queue(Protocol):
    """See the module."""

    async def add(self, messages: Sequence[Message]) -> dict[str, str]:
        """Add messages, due at once; one that is there already, or finished, is left as it is.

        One whose key an earlier one had, that arrived less than `key.KEPT` before it, is not added; of two in one call
        the first is the earlier.  Return the ids of those that repeat, each with the id of the message it repeats.
        A message whose id is that of an owed notice settles that debt in the same commit.

        Raises:
            QueueError: nothing was added.
        """

    async def keyed(self, key: SubmissionKey, now: datetime) -> str | None:
        """Return the id of the message that a submission with this key would repeat at `now`; it may be finished."""

    async def forget_keys(self, arrived_before: datetime, limit: int) -> int:
        """Forget the keys of messages that arrived before.  Return how many, at most `limit`."""

    async def due(self, now: datetime, limit: int) -> list[Due]:
        """Return up to `limit` destinations that have something to claim at `now`, the longest waiting first."""

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        """Lease what is due at these destinations (all of one site) until `until`.

        What is urgent first; then by turns what was never tried and what was, so that neither keeps the other
        waiting; each the longest due first.  At most `limit` deliveries; a message's due recipients at the site come
        together, at most 1,000 in one delivery.  All deliveries of one call share a lease.
        """

    async def renew(self, leases: Collection[int], until: datetime) -> None:
        """Move the end of leases that are still ours."""

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """End the claim on deliveries that were not tried: they are due as before."""

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Record how recipients stand, and the notices owed, in one commit; their claim ends.

        Status changes follow `mail.recipient.CHANGES`: one that is not allowed any more (the operator removed it
        meanwhile) is left out, but Delivered is always taken.  A removal asked for during the attempt takes effect.
        """

    async def clock_was_set(self, by: timedelta, now: datetime, latest: datetime) -> None:
        """Let what waits for a time wait as long as before the wall clock was set `by` so much: recipients, sites and
        keys.

        What waits until after `latest` even so is due at `now`, for nothing waits so long; what seems to have arrived
        after `now` arrived then.  With `by` 0 only that: before a start the clock may have been set by anything.
        What arrived or was tried within `TOLD_WITHIN` (or `by`, if that is less) of a `now` that was set forward did so
        since then, by the new time: it stays.
        """

    async def next_due(self, now: datetime) -> datetime | None:
        """Return the earliest time after `now` at which something falls due, None if nothing waits."""

    async def expire(self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime) -> list[Delivery]:
        """Claim, due or not, what is not final, held or in flight and arrived before, or has a deadline that ends it
        and has passed at `now`, to be settled as failed."""

    async def warn(self, arrived_before: datetime | None, limit: int, now: datetime) -> int:
        """Owe a delay notice for recipients that still wait and whose sender may be told (RFC 3461 section 4.1: not
        where NOTIFY lacks DELAY; where it was not given, yes).  Return how many messages.

        Once for each message that arrived before (None: for none), and once for each whose NOTIFY deadline was ahead
        when it came and has passed at `now`; not for its delay after that.
        """

    async def notices(self, limit: int) -> list[Notice]:
        """Return notices that are owed, oldest first; each stays owed until `add` of the message with its id."""

    async def drop_notice(self, notice_id: str) -> None:
        """Forget a notice that cannot be made (its sender has no address to be told at)."""

    async def sites(self) -> list[BackOff]:
        """Return the sites that back off."""

    async def back_off(self, back_off: BackOff) -> None:
        """Remember that a site backs off; `failures` 0 forgets it."""

    async def routed(self, sites: Mapping[str, str], now: datetime) -> None:
        """Remember to which sites destinations lead, for people.

        What was not looked up for two weeks is forgotten.  Where a site backs off, recipients there that were never
        tried themselves are listed, and told of in notifications, with what was said of the site.
        """

    async def sites_of(self, destinations: Collection[str]) -> dict[str, str]:
        """Return to which sites destinations were found to lead, of those that were looked up."""

    async def withdrawn(self) -> frozenset[str]:
        """Return the ids of claimed messages that an operator has held or removed since they were claimed."""

    def messages(self, *, selection: Selection = ALL, limit: int | None = None) -> AsyncIterator[Listed]:
        """Yield the messages in the queue that are meant, oldest first, without keeping them all in memory."""

    async def ids(self, selection: Selection, after: str, limit: int) -> list[str]:
        """Return the `limit` first ids of messages that are meant, of those that come after `after`."""

    async def chosen(self, selection: Selection) -> Chosen:
        """Count what a selection means.  May take some seconds for a million messages."""

    async def show(self, message_id: str) -> Listed | HistoryRow | None:
        """Return a message of the queue or of the history."""

    async def shape(self, now: datetime) -> list[Shape]:
        """Return how much waits at each destination that has any; the memory it takes is bounded by these."""

    async def census(self, now: datetime) -> Census:
        """Return how many wait, of all destinations together, each way of waiting with all its ages.

        Takes a second or so for a million; no other look-up and no commit waits for it.
        """

    async def finished(self, since: datetime) -> Finished:
        """Return what has finished since.  Takes a second or so for a million."""

    async def waiting_for(self, address: Address, limit: int) -> list[str]:
        """Return the ids of the `limit` oldest messages that wait for an address, whatever the case of its letters."""

    async def foremost(self, destination: str) -> str | None:
        """Return the id of the message that is due first of those that wait at a destination; where all of it is held
        or in flight, that of one of these; None if nothing waits."""

    async def messages_to(self, address: Address, limit: int) -> list[str]:
        """Return the ids of the `limit` newest messages to an address, whatever the case of its letters, waiting or
        finished.  May take a second for a million."""

    async def attempts(self, message_id: str) -> list[PastAttempt]:
        """Return what is remembered of a message's attempts, in the order in which they ended.

        Kept as long as the message and its history row.  Of the deliveries that begin with the same recipient, the
        last `ATTEMPTS_KEPT`, and the transcripts of the last `TRANSCRIPTS_KEPT`.
        """

    async def leases(self) -> list[Lease]:
        """Return the leases, ended ones too that nobody has cleared away."""

    async def leased(self, message_id: str) -> dict[int, Lease]:
        """Return, by their numbers, under which lease recipients of a message are in flight."""

    async def hold(self, message_ids: Collection[str]) -> int:
        """Keep them from being claimed; what is in flight settles first.  Return how many were found."""

    async def release(self, message_ids: Collection[str]) -> int:
        """Undo `hold`."""

    async def retry(self, message_ids: Collection[str], now: datetime) -> int:
        """Make all their waiting recipients due at `now`, and forget the back-off of sites."""

    async def remove(self, message_ids: Collection[str], now: datetime) -> int:
        """Make their recipients removed, without a notification; what is in flight settles first, and a Delivered
        wins."""

    async def redirect(self, message_ids: Collection[str], route: str, now: datetime) -> int:
        """Send their waiting recipients by the route of that name, or where they would go of themselves if it is empty,
        and make them due at `now`; what is in flight settles first.  Return how many messages were found."""

    async def bounce(self, message_ids: Collection[str], reason: str) -> Bounced:
        """Make their waiting recipients failed, for a reason of ours, and owe the notices; what is in flight stays."""

    async def finished_bodies(self, now: datetime, limit: int) -> list[str]:
        """Return ids of finished messages whose bodies are to be unlinked."""

    async def bodies_gone(self, message_ids: Collection[str]) -> None:
        """Record that bodies are unlinked."""

    async def forget(self, finished_before: datetime, limit: int) -> int:
        """Drop history rows whose bodies are gone.  Return how many."""
