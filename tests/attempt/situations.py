"""What the tests of this stage start from: deliveries, notices, and a ledger and a store kept in memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from time import monotonic

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.message import Body, Message, new_id
from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.settlement import Action, Notice, Settlement

NOW = datetime(2026, 11, 22, 7, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
SENDER = Address.parse("news@sender.example")
HOSTNAME = "relay.example.org"
PEER = "mx1.example.net[192.0.2.1]:25"

QUEUED = Delivered(Reply(250, "queued", EnhancedStatus(2, 0, 0)))
GREYLISTED = Deferred(Reply(450, "greylisted", EnhancedStatus(4, 2, 0)), scope=Scope.RECIPIENT)
NOT_NOW = Deferred(Reply(450, "not now", EnhancedStatus(4, 2, 1)), scope=Scope.RECIPIENT)
NO_SUCH_USER = Failed(Reply(550, "no such user", EnhancedStatus(5, 1, 1)), scope=Scope.RECIPIENT)
REFUSED = Deferred(scope=Scope.HOST, reason="mx1.example.net: connection refused", status=EnhancedStatus(4, 4, 1))


def a_recipient(number: int = 0, **fields: object) -> Recipient:
    recipient = Recipient(number=number, address=Address.parse(f"r{number}@example.net"), due=NOW)
    return replace(recipient, **fields)  # type: ignore[arg-type]


def a_delivery(
    *recipients: Recipient, sender: Address | None = SENDER, arrived: datetime = NOW, queue_id: str = ""
) -> Delivery:
    return Delivery(
        id=queue_id or new_id(arrived),
        reverse_path=sender,
        recipients=recipients or (a_recipient(),),
        body=Body(size=100, wire_size=100, header_end=50),
        arrived=arrived,
        lease=1,
    )


def an_attempt(delivery: Delivery, *outcomes: Outcome, ended: datetime = NOW, **fields: object) -> Attempt:
    numbers = [recipient.number for recipient in delivery.recipients]
    alike = outcomes if len(outcomes) > 1 else outcomes * len(numbers)
    attempt = Attempt(delivery=delivery, outcomes=dict(zip(numbers, alike, strict=True)), ended=ended, peer=PEER)
    return replace(attempt, **fields)  # type: ignore[arg-type]


def a_failed_recipient(number: int = 0, **fields: object) -> Recipient:
    failed: dict[str, object] = {
        "status": Status.FAILED,
        "attempts": 1,
        "due": None,
        "reply": "550 5.1.1 no such user",
        "dsn": "5.1.1",
        "peer": PEER,
        "attempted": NOW,
    }
    return a_recipient(number, **(failed | fields))


def a_notice(original: bytes = b"", action: Action = Action.FAILED, **fields: object) -> Notice:
    blank = re.search(rb"\r?\n\r?\n", original)
    header_end = blank.end() if blank else len(original)
    notice = Notice(
        id=new_id(NOW, 7),
        action=action,
        message_id=new_id(NOW, 6),
        reverse_path=SENDER,
        recipients=(a_failed_recipient(),),
        body=Body(
            size=len(original),
            wire_size=len(original),
            header_end=header_end,
            eight_bit=not original.isascii(),
            eight_bit_header=not original[:header_end].isascii(),
            nul=b"\0" in original,
            long_lines=any(len(line) > 998 for line in original.splitlines()),
        ),
        arrived=NOW,
    )
    return replace(notice, **fields)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come about."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.001)


class MemoryLedger:
    """A Ledger in memory that can be told to be full, slow or faulty."""

    def __init__(self) -> None:
        self.commits: list[list[Settlement]] = []
        self.sites: dict[str, BackOff] = {}
        self.debts: dict[str, Notice] = {}
        self.handed: set[str] = set()  # the debts whose recipients are fixed
        self.old: list[Delivery] = []
        self.clock_set: list[tuple[timedelta, timedelta]] = []
        self.to_warn: list[list[Notice]] = []
        self.asked: list[tuple[str, datetime | None]] = []
        self.trouble: QueueError | None = None
        self.poison: str = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    @property
    def settled(self) -> list[Settlement]:
        return [settlement for commit in self.commits for settlement in commit]

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.trouble:
            raise self.trouble
        if any(settlement.delivery.id == self.poison for settlement in settlements):
            raise ValueError("cannot be bound")
        self.commits.append(list(settlements))
        for settlement in settlements:
            self._owe(settlement)

    def _owe(self, settlement: Settlement) -> None:
        """As the queue: one debt for each message and action, which gathers recipients until it is handed out."""
        delivery = settlement.delivery
        for number, action in settlement.notices.items():
            recipient = next(r for r in settlement.recipients if r.number == number)
            open_debts = [notice for notice in self.debts.values() if notice.id not in self.handed]
            known = [notice for notice in open_debts if (notice.message_id, notice.action) == (delivery.id, action)]
            notice = known[0] if known else self._new_debt(delivery, action)
            self.debts[notice.id] = replace(notice, recipients=(*notice.recipients, recipient))

    def _new_debt(self, delivery: Delivery, action: Action) -> Notice:
        assert delivery.reverse_path
        return Notice(
            id=new_id(NOW),
            action=action,
            message_id=delivery.id,
            reverse_path=delivery.reverse_path,
            recipients=(),
            body=delivery.body,
            arrived=delivery.arrived,
        )

    async def back_off(self, back_off: BackOff) -> None:
        if self.trouble:
            raise self.trouble
        if back_off.failures:
            self.sites[back_off.site] = back_off
        else:
            self.sites.pop(back_off.site, None)

    async def clock_was_set(self, by: timedelta, now: datetime, latest: datetime) -> None:
        self.clock_set.append((by, latest - now))

    async def notices(self, limit: int) -> list[Notice]:
        if self.trouble:
            raise self.trouble
        oldest = sorted(self.debts.values(), key=lambda notice: notice.id)[:limit]
        self.handed |= {notice.id for notice in oldest}
        return oldest

    async def drop_notice(self, notice_id: str) -> None:
        del self.debts[notice_id]

    async def warn(self, arrived_before: datetime | None, limit: int, now: datetime) -> int:
        self.asked.append(("warn", arrived_before))
        batch = self.to_warn.pop() if self.to_warn else []
        self.debts |= {notice.id: notice for notice in batch}
        return len(batch)

    async def expire(self, arrived_before: datetime, limit: int, now: datetime, *, until: datetime) -> list[Delivery]:
        if self.trouble:
            raise self.trouble
        self.asked.append(("expire", arrived_before))
        batch = [delivery for delivery in self.old if delivery.arrived <= arrived_before][:limit]
        self.old = [delivery for delivery in self.old if delivery not in batch]
        return batch


class MemoryNotifications:
    """A Notifications in memory; what is added settles the ledger's debt, as the queue does it."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.originals: dict[str, bytes] = {}
        self.added: list[tuple[Message, bytes]] = []
        self.trouble: Exception | None = None
        self.unreadable: OSError | None = None
        self.reads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0

    async def read_original(self, message_id: str, limit: int) -> bytes:
        self.reads += 1
        if self.unreadable:
            raise self.unreadable
        if message_id not in self.originals:
            raise FileNotFoundError(message_id)
        return self.originals[message_id][:limit]

    async def add_notification(self, message: Message, content: bytes) -> None:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        if self.trouble:
            raise self.trouble
        self.added.append((message, content))
        self.ledger.debts.pop(message.id)


NEVER = Notify.NEVER
SUCCESS = Notify.SUCCESS
FAILURE = Notify.FAILURE
