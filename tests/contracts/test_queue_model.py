"""The Queue contract against a model: operations in random order, and after each the two agree.

The model knows what the contract promises, not how: each recipient is in exactly one state, nobody claims what
another has, and nothing vanishes.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.mail.delivery import Delivery
from relayd.mail.message import new_id
from relayd.mail.recipient import CHANGES, Status
from relayd.mail.settlement import Action, Settlement
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.selection import Waiting
from tests.contracts.test_queue import TheQueue, in_memory, on_sqlite
from tests.spool.mail import HOUR, MINUTE, NOW, a_message, by

T = TypeVar("T")
SITES = ("one.example", "two.example")
OUTCOMES = st.sampled_from([Status.DELIVERED, Status.DEFERRED, Status.FAILED, Status.QUEUED])


async def awaited(work: Awaitable[T]) -> T:
    return await work


@dataclass
class Known:
    """What the model knows of a message."""

    statuses: dict[int, Status]
    sites: dict[int, str]
    leases: dict[int, int] = field(default_factory=dict)
    removing: set[int] = field(default_factory=set)
    held: bool = False
    deadline: datetime | None = None


class QueueMachine(RuleBasedStateMachine):
    factory: Callable[[Path], Awaitable[TheQueue]]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="queue-model-"))
        self.queue = self.run(type(self).factory(self.directory))
        self.now = NOW
        self.messages: dict[str, Known] = {}
        self.claims: list[Delivery] = []

    def run(self, work: Awaitable[T]) -> T:
        return self.runner.run(awaited(work))

    def teardown(self) -> None:
        self.run(self.queue.close())
        self.runner.close()
        shutil.rmtree(self.directory)

    def one(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.messages)))

    @rule(sites=st.lists(st.sampled_from(SITES), min_size=1, max_size=3), minutes=st.none() | st.integers(1, 3))
    def add(self, sites: list[str], minutes: int | None) -> None:
        self.now += timedelta(milliseconds=1)
        deadline = None if minutes is None else by(self.now + minutes * MINUTE)
        to = [f"u{n}@{site}" for n, site in enumerate(sites)]
        message = a_message(*to, arrived=self.now, id=new_id(self.now), deadline=deadline)
        self.run(self.queue.add([message]))
        numbered = dict(enumerate(sites))
        self.messages[message.id] = Known(
            statuses=dict.fromkeys(numbered, Status.QUEUED), sites=numbered, deadline=deadline.at if deadline else None
        )

    @rule(sites=st.sets(st.sampled_from(SITES), min_size=1), limit=st.integers(1, 3))
    def claim(self, sites: set[str], limit: int) -> None:
        self.taken(self.run(self.queue.claim(sites, limit, self.now, until=self.now + 99 * HOUR)), limit, sites)

    @rule(limit=st.integers(1, 3))
    def expire(self, limit: int) -> None:
        claimed = self.run(self.queue.expire(self.now + HOUR, limit, self.now, until=self.now + 99 * HOUR))
        self.taken(claimed, limit, set(SITES))

    @rule()
    def pass_a_minute(self) -> None:
        self.now += MINUTE

    @rule()
    def expire_by_deadline(self) -> None:
        claimed = self.run(self.queue.expire(NOW - HOUR, 1_000, self.now, until=self.now + 99 * HOUR))
        over = {
            (message, number)
            for message, known in self.messages.items()
            for number, status in known.statuses.items()
            if known.deadline and known.deadline <= self.now and not known.held
            if not status.final and number not in known.leases
        }
        assert {(each.id, recipient.number) for each in claimed for recipient in each.recipients} == over
        self.taken(claimed, 1_000, set(SITES))

    def taken(self, deliveries: list[Delivery], limit: int, sites: set[str]) -> None:
        assert len(deliveries) <= limit
        for delivery in deliveries:
            known = self.messages[delivery.id]
            assert delivery.recipients
            assert not known.held
            for recipient in delivery.recipients:
                assert recipient.number not in known.leases
                assert known.sites[recipient.number] in sites
                assert known.statuses[recipient.number] is recipient.status
                assert not recipient.status.final
                known.leases[recipient.number] = delivery.lease
        self.claims += deliveries

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        delivery = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        known = self.messages[delivery.id]
        after = []
        notices = {}
        for recipient in delivery.recipients:
            status = data.draw(OUTCOMES)
            if status is Status.FAILED and data.draw(st.booleans()):
                notices[recipient.number] = Action.FAILED
            changes = status in CHANGES[recipient.status]
            after.append(recipient.changed(status, due=self.now, attempted=self.now) if changes else recipient)
            del known.leases[recipient.number]
            removing = recipient.number in known.removing
            known.removing.discard(recipient.number)
            if removing and status is not Status.DELIVERED:
                # One that was not tried stays as it is, but for the removal.
                known.statuses[recipient.number] = Status.REMOVED
            elif changes:
                known.statuses[recipient.number] = status
        self.run(self.queue.settle([Settlement(delivery=delivery, recipients=tuple(after), notices=notices)]))

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        delivery = self.claims.pop(data.draw(st.integers(0, len(self.claims) - 1)))
        self.run(self.queue.give_back([delivery]))
        known = self.messages[delivery.id]
        for recipient in delivery.recipients:
            del known.leases[recipient.number]
            if recipient.number in known.removing:
                known.removing.discard(recipient.number)
                known.statuses[recipient.number] = Status.REMOVED

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), held=st.booleans())
    def hold_or_release(self, data: st.DataObject, held: bool) -> None:
        message = self.one(data)
        self.run(self.queue.hold([message]) if held else self.queue.release([message]))
        self.messages[message].held = held

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.run(self.queue.retry([self.one(data)], self.now))

    @precondition(lambda self: self.messages)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        message = self.one(data)
        self.run(self.queue.remove([message], self.now))
        known = self.messages[message]
        for number, status in known.statuses.items():
            if status.final:
                continue
            if number in known.leases:
                known.removing.add(number)
            else:
                known.statuses[number] = Status.REMOVED

    @rule()
    def tell(self) -> None:
        for notice in self.run(self.queue.notices(10)):
            known = self.messages[notice.message_id]
            assert all(known.statuses[each.number] is Status.FAILED for each in notice.recipients)
            self.run(self.queue.drop_notice(notice.id))

    @invariant()
    def its_tables_agree_with_each_other(self) -> None:
        found = self.run(self.queue.examine(self.now, 99 * HOUR, HOUR))
        wrong = (found.miscounted, found.unfinished, found.half_held, found.without_message, found.without_lease)
        assert not any(wrong)

    @invariant()
    def what_waits_is_counted_at_its_destination(self) -> None:
        waiting: dict[str, list[tuple[bool, bool]]] = {}
        for known in self.messages.values():
            for number, status in known.statuses.items():
                if not status.final:
                    waiting.setdefault(known.sites[number], []).append((known.held, number in known.leases))
        shapes = {shape.destination: shape for shape in self.run(self.queue.shape(self.now))}
        assert set(shapes) == set(waiting)
        for site, mine in waiting.items():
            shape = shapes[site]
            assert shape.held == sum(held and not leased for held, leased in mine)
            assert shape.in_flight == sum(leased for _, leased in mine)
            assert shape.total == len(mine) - shape.held

    @invariant()
    def the_census_counts_the_same(self) -> None:
        census = {how: sum(ages) for how, ages in self.run(self.queue.census(self.now)).items()}
        shapes = self.run(self.queue.shape(self.now))
        assert census[Waiting.HELD] == sum(shape.held for shape in shapes)
        assert census[Waiting.IN_FLIGHT] == sum(shape.in_flight for shape in shapes)
        assert sum(census.values()) == sum(shape.total + shape.held for shape in shapes)

    @invariant()
    def they_agree(self) -> None:
        owed = {notice.message_id for notice in self.run(self.queue.notices(1_000))}
        for message, known in self.messages.items():
            shown = self.run(self.queue.show(message))
            over = all(status.final for status in known.statuses.values()) and message not in owed
            assert isinstance(shown, HistoryRow if over else Listed)
            recipients = shown.message.envelope.recipients if isinstance(shown, Listed) else shown.recipients
            assert {each.number: each.status for each in recipients} == known.statuses
            if isinstance(shown, Listed):
                assert shown.in_flight == bool(known.leases)
        withdrawn = {m for m, known in self.messages.items() if known.leases and (known.held or known.removing)}
        assert self.run(self.queue.withdrawn()) == withdrawn


class SqliteMachine(QueueMachine):
    factory = staticmethod(on_sqlite)


class MemoryMachine(QueueMachine):
    factory = staticmethod(in_memory)


TestSqliteModel = SqliteMachine.TestCase
TestMemoryModel = MemoryMachine.TestCase
TestSqliteModel.settings = TestMemoryModel.settings = settings(
    max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
