"""The Queue contract, sentence by sentence.  Another implementation joins by adding its factory to FACTORIES."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd.mail.address import Address
from relayd.mail.attempt import PastOutcome, Tried
from relayd.mail.back_off import BackOff
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.key import KEPT, SubmissionKey
from relayd.mail.message import Body, Message, new_id
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.settlement import Action, Settlement
from relayd.mail.tls import TlsWish
from relayd.mail.transcript import Line, Speaker, Transcript
from relayd.spool.attempts import ATTEMPTS_KEPT, TRANSCRIPTS_KEPT
from relayd.spool.queue import Bounced, Finished, HistoryRow, Listed, Queue
from relayd.spool.selection import ALL, Chosen, Selection, Waiting
from relayd.spool.sqlite import SqliteQueue
from tests.simulation.inline import InlineConnections
from tests.simulation.queue import MemoryQueue
from tests.simulation.tables import Tables
from tests.spool.mail import HOUR, MINUTE, NOW, SECOND, SENDER, a_message, addresses, by, settled

TheQueue = SqliteQueue | MemoryQueue  # each has `examine` and `close`, too


async def on_sqlite(directory: Path) -> TheQueue:
    return await SqliteQueue.open(directory / "queue.db", owner="this", new_notice_id=lambda: new_id(NOW))


async def in_memory(directory: Path) -> TheQueue:
    return MemoryQueue(Tables(), owner="this", new_notice_id=lambda: new_id(NOW))


async def on_sqlite_without_threads(directory: Path) -> TheQueue:
    connect = InlineConnections().connect
    path = directory / "queue.db"
    return await SqliteQueue.open(path, owner="this", new_notice_id=lambda: new_id(NOW), connect=connect)


FACTORIES: dict[str, Callable[[Path], Awaitable[TheQueue]]] = {
    "sqlite": on_sqlite,
    "sqlite-inline": on_sqlite_without_threads,
    "memory": in_memory,
}


@pytest.fixture(params=list(FACTORIES.values()), ids=list(FACTORIES))
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Queue]:
    queue = await request.param(tmp_path)
    yield queue
    await queue.close()


async def claimed(queue: Queue, *destinations: str, limit: int = 100, now: datetime = NOW) -> list[Delivery]:
    return await queue.claim(destinations or ["one.example"], limit, now, until=now + HOUR)


async def the_listed(queue: Queue, message_id: str) -> Message:
    shown = await queue.show(message_id)
    assert isinstance(shown, Listed)
    return shown.message


async def the_recipient(queue: Queue, message_id: str, number: int = 0) -> Recipient:
    return (await the_listed(queue, message_id)).envelope.recipients[number]


async def the_history(queue: Queue, message_id: str) -> HistoryRow:
    shown = await queue.show(message_id)
    assert isinstance(shown, HistoryRow)
    return shown


async def listed(queue: Queue) -> list[str]:
    return [each.message.id async for each in queue.messages()]


class TestAdd:
    async def test_a_message_comes_back_as_it_was_added(self, queue: Queue) -> None:
        body = Body(size=9, wire_size=20, header_end=5, cuts=((0, 2), (3, 5)), prefix=b"A: b\r\n", nul=True)
        message = a_message(
            "ann@one.example",
            "büro@two.example",
            notify=Notify.NEVER,
            ret="HDRS",
            body=body,
            deadline=by(NOW + timedelta(microseconds=1), DeadlineMode.RETURN, trace=True),
            tls=TlsWish.REQUIRED,
        )
        await queue.add([message])

        found = await the_listed(queue, message.id)

        recipients = tuple(replace(each, due=NOW) for each in message.envelope.recipients)
        assert found == replace(message, envelope=replace(message.envelope, recipients=recipients))

    async def test_a_message_is_due_at_once(self, queue: Queue) -> None:
        await queue.add([a_message()])

        (due,) = await queue.due(NOW, 10)

        assert (due.destination, due.recipients, due.since) == ("one.example", 1, NOW)

    async def test_a_message_that_is_there_already_is_left_as_it_is(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + HOUR, reply="451 later")])

        await queue.add([message, a_message(id=message.id)])

        assert (await the_recipient(queue, message.id)).reply == "451 later"

    async def test_a_message_that_is_finished_is_left_as_it_is(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        await queue.add([message])

        assert await listed(queue) == []
        assert await claimed(queue) == []

    async def test_the_message_of_an_owed_notice_settles_the_debt(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])
        (notice,) = await queue.notices(10)

        await queue.add([a_message(id=notice.id, sender=None, notification=True)])

        assert await queue.notices(10) == []
        assert (await the_history(queue, message.id)).recipients[0].status is Status.FAILED
        assert await listed(queue) == [notice.id]

    async def test_when_it_fails_nothing_was_added(self, queue: Queue) -> None:
        good, bad = a_message(), a_message(body=Body(size=2**80, wire_size=1, header_end=1))

        with pytest.raises(OverflowError):
            await queue.add([good, bad])

        assert await listed(queue) == []


class TestDue:
    async def test_the_longest_waiting_destination_comes_first_and_the_limit_holds(self, queue: Queue) -> None:
        for minutes, name in ((1, "b"), (3, "a"), (2, "c")):
            await queue.add([a_message(f"x@{name}.example", arrived=NOW - minutes * MINUTE)])

        due = await queue.due(NOW, 2)

        assert [each.destination for each in due] == ["a.example", "c.example"]
        assert due[0].since == NOW - 3 * MINUTE

    async def test_what_is_held_final_claimed_or_not_due_is_not_counted(self, queue: Queue) -> None:
        waits, held, later = a_message(), a_message(), a_message(arrived=NOW + SECOND)
        taken = a_message("bob@two.example")
        await queue.add([waits, held, later, taken])
        await queue.hold([held.id])
        await claimed(queue, "two.example")

        (due,) = await queue.due(NOW, 10)

        assert (due.destination, due.recipients) == ("one.example", 1)

    async def test_counting_is_bounded(self, queue: Queue) -> None:
        await queue.add([a_message(*(f"u{n}@one.example" for n in range(1_500)))])

        (due,) = await queue.due(NOW, 10)

        assert due.recipients == 500


class TestKeys:
    KEY = SubmissionKey(33, "invoice 7")

    async def test_a_repeated_key_makes_no_second_message(self, queue: Queue) -> None:
        first, second = a_message(key=self.KEY), a_message(key=self.KEY)
        assert await queue.add([first]) == {}

        assert await queue.add([second]) == {second.id: first.id}

        assert await listed(queue) == [first.id]
        assert await queue.show(second.id) is None
        assert await queue.keyed(self.KEY, NOW) == first.id

    async def test_of_two_with_one_key_in_one_call_the_first_is_added(self, queue: Queue) -> None:
        first, second, other = (a_message(key=self.KEY), a_message(key=self.KEY), a_message())

        assert await queue.add([first, other, second]) == {second.id: first.id}

        assert sorted(await listed(queue)) == sorted([first.id, other.id])

    async def test_the_same_message_added_again_repeats_nothing(self, queue: Queue) -> None:
        message = a_message(key=self.KEY)
        await queue.add([message])

        assert await queue.add([message]) == {}
        assert await listed(queue) == [message.id]

    async def test_a_key_is_its_owners_alone(self, queue: Queue) -> None:
        first, others = a_message(key=self.KEY), a_message(key=SubmissionKey(34, self.KEY.text))
        await queue.add([first])

        assert await queue.add([others]) == {}

        assert await queue.keyed(SubmissionKey(34, self.KEY.text), NOW) == others.id
        assert await queue.keyed(SubmissionKey(35, self.KEY.text), NOW) is None

    async def test_a_key_outlives_its_message(self, queue: Queue) -> None:
        first, second = a_message(key=self.KEY), a_message(key=self.KEY)
        await queue.add([first])
        await queue.remove([first.id], NOW)
        await queue.bodies_gone([first.id])
        assert await queue.forget(NOW + MINUTE, 10) == 1

        assert await queue.add([second]) == {second.id: first.id}

    async def test_a_day_later_the_same_key_is_a_new_one(self, queue: Queue) -> None:
        first = a_message(key=self.KEY)
        late = a_message(key=self.KEY, arrived=NOW + KEPT - SECOND)
        later = a_message(key=self.KEY, arrived=NOW + KEPT)
        await queue.add([first])

        assert await queue.add([late]) == {late.id: first.id}
        assert await queue.keyed(self.KEY, NOW + KEPT) is None
        assert await queue.add([later]) == {}
        assert await queue.keyed(self.KEY, NOW + KEPT) == later.id

    async def test_old_keys_are_forgotten_the_oldest_first_and_few_at_a_time(self, queue: Queue) -> None:
        keys = [SubmissionKey(33, str(number)) for number in range(3)]
        await queue.add([a_message(key=key, arrived=NOW + number * MINUTE) for number, key in enumerate(keys)])

        assert await queue.forget_keys(NOW, 10) == 0
        assert await queue.forget_keys(NOW + 2 * MINUTE, 1) == 1
        assert [await queue.keyed(key, NOW) is None for key in keys] == [True, False, False]
        assert await queue.forget_keys(NOW + 2 * MINUTE, 10) == 1
        assert await queue.keyed(keys[2], NOW) is not None

    @pytest.mark.parametrize("by", [30 * HOUR, -30 * HOUR, timedelta(0)], ids=["forward", "back", "unknown"])
    async def test_a_key_lasts_as_long_when_the_clock_was_set(self, queue: Queue, by: timedelta) -> None:
        """P7."""
        first, now = a_message(key=self.KEY), NOW + MINUTE + by
        await queue.add([first])

        await queue.clock_was_set(by, now, now + DAY)

        late = a_message(key=self.KEY, arrived=now + KEPT - HOUR)
        later = a_message(key=self.KEY, arrived=now + KEPT)
        assert await queue.add([late]) == {late.id: first.id}
        assert await queue.add([later]) == {}

    async def test_a_key_of_the_new_time_is_no_older_for_the_clock_being_set(self, queue: Queue) -> None:
        """P7: the queue is told some seconds later."""
        first = a_message(key=self.KEY)
        await queue.add([first])

        await queue.clock_was_set(-30 * HOUR, NOW + SECOND, NOW + DAY)

        second = a_message(key=self.KEY, arrived=NOW + HOUR)
        assert await queue.add([second]) == {second.id: first.id}


class TestClaim:
    async def test_a_message_s_due_recipients_at_the_site_come_together(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example", "c@three.example", "d@one.example")
        await queue.add([message])

        (delivery,) = await claimed(queue, "one.example", "two.example")

        assert addresses([delivery]) == ["a@one.example", "b@two.example", "d@one.example"]
        assert (delivery.id, delivery.body, delivery.arrived) == (message.id, message.body, message.arrived)
        assert delivery.reverse_path == message.envelope.reverse_path

    async def test_only_the_recipients_that_are_due_come(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@one.example")
        await queue.add([message])
        (delivery,) = await claimed(queue)
        first, second = delivery.recipients
        recipients = (
            first.changed(Status.DEFERRED, due=NOW + MINUTE, attempted=NOW),
            second.changed(Status.DEFERRED, due=NOW + HOUR, attempted=NOW),
        )
        await queue.settle([Settlement(delivery=delivery, recipients=recipients)])

        (again,) = await claimed(queue, now=NOW + MINUTE)

        assert addresses([again]) == ["a@one.example"]

    async def test_the_longest_due_come_first_over_all_destinations(self, queue: Queue) -> None:
        for minutes, name in ((1, "one"), (3, "two"), (2, "one"), (4, "two"), (5, "three")):
            await queue.add([a_message(f"m{minutes}@{name}.example", arrived=NOW - minutes * MINUTE)])

        deliveries = await claimed(queue, "one.example", "two.example", limit=3)

        assert addresses(deliveries) == ["m4@two.example", "m3@two.example", "m2@one.example"]

    async def test_a_claim_is_handed_out_once(self, queue: Queue) -> None:
        await queue.add([a_message() for _ in range(10)])

        claims = await asyncio.gather(*(claimed(queue, limit=3) for _ in range(6)))

        ids = [delivery.id for claim in claims for delivery in claim]
        assert len(ids) == len(set(ids)) == 10

    async def test_the_deliveries_of_a_call_share_a_lease_and_calls_do_not(self, queue: Queue) -> None:
        await queue.add([a_message() for _ in range(4)])

        first, second = await claimed(queue, limit=2), await claimed(queue, limit=2)

        assert {each.lease for each in first}.isdisjoint({each.lease for each in second})
        assert len({each.lease for each in first}) == 1

    async def test_a_delivery_has_at_most_a_thousand_recipients(self, queue: Queue) -> None:
        await queue.add([a_message(*(f"u{n}@one.example" for n in range(2_500)))])

        sizes = [len(delivery.recipients) for _ in range(4) for delivery in await claimed(queue, limit=5)]

        assert sizes == [1_000, 1_000, 500]

    async def test_what_is_held_or_not_due_is_not_claimed(self, queue: Queue) -> None:
        held, later, born_held = a_message(), a_message(arrived=NOW + SECOND), a_message(held=True)
        await queue.add([held, later, born_held])
        await queue.hold([held.id])

        assert await claimed(queue) == []

    async def test_an_unexpired_lease_is_nobody_else_s(self, queue: Queue) -> None:
        await queue.add([a_message()])
        await claimed(queue)

        assert await claimed(queue, now=NOW + HOUR) == []

    async def test_after_the_end_of_its_lease_mail_is_due_again_and_marked(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (lost,) = await claimed(queue)
        after = NOW + HOUR + SECOND

        assert [each.destination for each in await queue.due(after, 10)] == ["one.example"]
        (again,) = await claimed(queue, now=after)

        assert again.id == lost.id
        assert again.lease != lost.lease
        assert again.recipients[0].possible_duplicate

    async def test_a_renewed_lease_lasts_to_its_new_end(self, queue: Queue) -> None:
        await queue.add([a_message()])
        (delivery,) = await claimed(queue)

        await queue.renew([delivery.lease], NOW + 3 * HOUR)

        assert await claimed(queue, now=NOW + 2 * HOUR) == []
        assert len(await claimed(queue, now=NOW + 3 * HOUR + SECOND)) == 1

    async def test_a_claim_whose_caller_is_cancelled_is_given_back(self, queue: Queue) -> None:
        await queue.add([a_message()])
        claim = asyncio.ensure_future(claimed(queue))
        await asyncio.sleep(0)

        claim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claim

        assert len(await claimed(queue)) == 1


class TestGiveBack:
    async def test_what_is_given_back_is_due_as_before(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])

        await queue.give_back(await claimed(queue))

        assert await the_recipient(queue, message.id) == replace(message.envelope.recipients[0], due=NOW)
        assert len(await claimed(queue)) == 1

    async def test_giving_back_under_an_old_lease_does_not_end_the_new_claim(self, queue: Queue) -> None:
        await queue.add([a_message()])
        lost = await claimed(queue)
        after = NOW + HOUR + SECOND
        assert await claimed(queue, now=after)

        await queue.give_back(lost)

        assert await claimed(queue, now=after) == []

    async def test_what_was_removed_meanwhile_is_removed(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        deliveries = await claimed(queue)
        await queue.remove([message.id], NOW)

        await queue.give_back(deliveries)

        assert (await the_history(queue, message.id)).recipients[0].status is Status.REMOVED


class TestSettle:
    async def test_a_delivered_message_is_history(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)

        fields: dict[str, Any] = {"reply": "250 2.0.0 ok", "dsn": "2.0.0", "peer": "mx.one.example[192.0.2.1]:25"}
        await queue.settle([settled(delivery, Status.DELIVERED, **fields)])

        row = await the_history(queue, message.id)
        assert await listed(queue) == []
        assert (row.sender, row.size, row.arrived, row.finished) == ("sender@origin.example", 100, NOW, NOW)
        expected = replace(delivery.recipients[0], status=Status.DELIVERED, attempts=1, due=None, attempted=NOW)
        assert row.recipients == (replace(expected, **fields),)

    async def test_a_deferred_recipient_waits_until_it_is_due(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)

        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + MINUTE, reply="451 later", dsn="4.0.0")])

        recipient = await the_recipient(queue, message.id)
        assert (recipient.status, recipient.attempts, recipient.reply) == (Status.DEFERRED, 1, "451 later")
        assert await claimed(queue) == []
        assert len(await claimed(queue, now=NOW + MINUTE)) == 1

    async def test_a_message_stays_until_all_its_recipients_are_final(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example", "c@one.example")
        await queue.add([message])
        (one,), (two,) = await claimed(queue, "one.example"), await claimed(queue, "two.example")

        await queue.settle([settled(one, Status.DELIVERED)])
        assert await listed(queue) == [message.id]
        await queue.settle([settled(two, Status.FAILED)])

        assert await listed(queue) == []
        row = await the_history(queue, message.id)
        statuses = [recipient.status for recipient in row.recipients]
        assert statuses == [Status.DELIVERED, Status.FAILED, Status.DELIVERED]

    async def test_two_deliveries_of_a_message_in_one_call_finish_it(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        deliveries = await claimed(queue, "one.example") + await claimed(queue, "two.example")

        await queue.settle([settled(each, Status.DELIVERED) for each in deliveries])

        assert len((await the_history(queue, message.id)).recipients) == 2

    async def test_the_recipients_of_one_delivery_may_fare_differently(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@one.example", "c@one.example")
        await queue.add([message])
        (delivery,) = await claimed(queue)
        a, b, c = delivery.recipients
        recipients = (
            a.changed(Status.DELIVERED, attempted=NOW),
            b.changed(Status.DEFERRED, attempted=NOW, due=NOW + MINUTE),
            c,
        )

        await queue.settle([Settlement(delivery=delivery, recipients=recipients)])

        now = (await the_listed(queue, message.id)).envelope.recipients
        assert [each.status for each in now] == [Status.DELIVERED, Status.DEFERRED, Status.QUEUED]
        assert addresses(await claimed(queue)) == ["c@one.example"]

    async def test_under_an_old_lease_only_delivered_is_taken(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (lost,) = await claimed(queue)
        after = NOW + HOUR + SECOND
        (again,) = await claimed(queue, now=after)

        await queue.settle([settled(lost, Status.FAILED)])
        assert (await the_recipient(queue, message.id)).status is Status.DEFERRED
        await queue.settle([settled(lost, Status.DELIVERED)])
        await queue.settle([settled(again, Status.FAILED)])

        (recipient,) = (await the_history(queue, message.id)).recipients
        assert recipient.status is Status.DELIVERED
        assert recipient.possible_duplicate

    async def test_a_late_delivered_corrects_the_history(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@one.example")
        await queue.add([message])
        (lost,) = await claimed(queue)
        (again,) = await claimed(queue, now=NOW + HOUR + SECOND)
        await queue.settle([settled(again, Status.FAILED)])

        only_a = replace(lost, recipients=lost.recipients[:1])
        await queue.settle([settled(only_a, Status.DELIVERED, reply="250 ok")])

        a, b = (await the_history(queue, message.id)).recipients
        assert (a.status, a.reply, b.status) == (Status.DELIVERED, "250 ok", Status.FAILED)

    async def test_a_removal_asked_for_during_the_attempt_takes_effect(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.remove([message.id], NOW)

        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])

        assert (await the_history(queue, message.id)).recipients[0].status is Status.REMOVED
        assert await queue.notices(10) == []

    async def test_a_delivered_wins_over_a_removal(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.remove([message.id], NOW)

        await queue.settle([settled(delivery, Status.DELIVERED)])

        assert (await the_history(queue, message.id)).recipients[0].status is Status.DELIVERED

    async def test_settling_twice_changes_nothing_more(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (delivery,) = await claimed(queue, "one.example")
        settlement = settled(delivery, Status.DELIVERED)

        await queue.settle([settlement, settlement])
        await queue.settle([settlement])

        statuses = [each.status for each in (await the_listed(queue, message.id)).envelope.recipients]
        assert statuses == [Status.DELIVERED, Status.QUEUED]

    async def test_what_a_peer_said_is_kept_whatever_it_is(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)

        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW, reply="451 \udcff\x00 größer")])

        assert (await the_recipient(queue, message.id)).reply == "451 ?\x00 größer"


class TestNextDue:
    async def test_it_is_the_earliest_time_after_now(self, queue: Queue) -> None:
        past, soon, later = (a_message(arrived=NOW + offset) for offset in (-MINUTE, MINUTE, HOUR))
        await queue.add([past, soon, later])

        assert await queue.next_due(NOW) == NOW + MINUTE
        assert await queue.next_due(NOW + MINUTE) == NOW + HOUR

    async def test_nothing_waits(self, queue: Queue) -> None:
        await queue.add([a_message(arrived=NOW + MINUTE, held=True)])

        assert await queue.next_due(NOW) is None


class TestExpire:
    async def test_what_is_old_is_claimed_due_or_not(self, queue: Queue) -> None:
        old, young = a_message("a@one.example", "b@two.example"), a_message(arrived=NOW + MINUTE)
        await queue.add([old, young])
        (delivery,) = await claimed(queue, "one.example")
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + 9 * HOUR)])

        (expired,) = await queue.expire(NOW + SECOND, 10, NOW, until=NOW + HOUR)

        assert expired.id == old.id
        assert addresses([expired]) == ["a@one.example", "b@two.example"]
        assert await queue.expire(NOW + SECOND, 10, NOW, until=NOW + HOUR) == []
        await queue.settle([settled(expired, Status.FAILED)])
        assert await listed(queue) == [young.id]

    async def test_what_is_held_or_in_flight_is_not_claimed(self, queue: Queue) -> None:
        held, flying = a_message(held=True), a_message()
        await queue.add([held, flying])
        await claimed(queue)

        assert await queue.expire(NOW + HOUR, 10, NOW, until=NOW + HOUR) == []

    async def test_the_oldest_come_first_up_to_the_limit(self, queue: Queue) -> None:
        messages = [a_message(arrived=NOW + minutes * MINUTE) for minutes in (2, 1, 3)]
        await queue.add(messages)

        expired = await queue.expire(NOW + HOUR, 2, NOW, until=NOW + HOUR)

        assert [each.id for each in expired] == [messages[1].id, messages[0].id]

    @pytest.mark.parametrize("mode", [DeadlineMode.OWN, DeadlineMode.RETURN])
    async def test_what_is_past_a_deadline_that_ends_it_is_claimed_however_young(
        self, queue: Queue, mode: DeadlineMode
    ) -> None:
        over, met = a_message(deadline=by(NOW + MINUTE, mode)), a_message(deadline=by(NOW + HOUR, mode))
        await queue.add([met, over, a_message()])
        (delivery, *others) = await claimed(queue, limit=3)
        await queue.give_back([delivery, *others])

        assert await queue.expire(NOW - HOUR, 10, NOW + MINUTE - SECOND, until=NOW + HOUR) == []
        (expired,) = await queue.expire(NOW - HOUR, 10, NOW + MINUTE, until=NOW + HOUR)

        assert (expired.id, expired.deadline) == (over.id, over.envelope.deadline)
        assert await queue.expire(NOW - HOUR, 10, NOW + MINUTE, until=NOW + HOUR) == []

    async def test_a_site_that_backs_off_does_not_keep_it(self, queue: Queue) -> None:
        await queue.add([a_message(deadline=by(NOW + MINUTE))])
        await queue.settle([settled(each, Status.DEFERRED, due=NOW + 9 * HOUR) for each in await claimed(queue)])

        assert len(await queue.expire(NOW - HOUR, 10, NOW + MINUTE, until=NOW + HOUR)) == 1

    async def test_a_deadline_that_only_notifies_ends_nothing(self, queue: Queue) -> None:
        await queue.add([a_message(deadline=by(NOW + MINUTE, DeadlineMode.NOTIFY))])

        assert await queue.expire(NOW - HOUR, 10, NOW + HOUR, until=NOW + HOUR) == []
        assert len(await queue.expire(NOW + SECOND, 10, NOW + HOUR, until=NOW + HOUR)) == 1

    async def test_past_its_deadline_too_what_is_held_in_flight_or_final_is_not_claimed(self, queue: Queue) -> None:
        deadline = by(NOW + MINUTE)
        held, flying = a_message(held=True, deadline=deadline), a_message("a@two.example", deadline=deadline)
        partly = a_message("a@one.example", "b@three.example", deadline=deadline)
        await queue.add([held, flying, partly])
        await claimed(queue, "two.example")
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue, "three.example")])

        expired = await queue.expire(NOW - HOUR, 10, NOW + HOUR, until=NOW + HOUR)

        assert addresses(expired) == ["a@one.example"]
        await queue.release([held.id])
        assert len(await queue.expire(NOW - HOUR, 10, NOW + HOUR, until=NOW + HOUR)) == 1

    async def test_deadlines_come_before_age_and_nothing_comes_twice(self, queue: Queue) -> None:
        old = [a_message(arrived=NOW + minutes * MINUTE) for minutes in (1, 2)]
        due = [a_message(arrived=NOW + 3 * MINUTE, deadline=by(NOW + minutes * MINUTE)) for minutes in (9, 8)]
        await queue.add([*old, *due])

        expired = [await queue.expire(NOW + HOUR, limit, NOW + HOUR, until=NOW + 2 * HOUR) for limit in (1, 2, 10)]

        assert [[each.id for each in batch] for batch in expired] == [[due[1].id], [due[0].id, old[0].id], [old[1].id]]

    async def test_what_was_warned_of_expires_in_its_turn(self, queue: Queue) -> None:
        first, second, third = (a_message(arrived=NOW + minutes * MINUTE) for minutes in (1, 2, 3))
        nobody = a_message(arrived=NOW, sender=None)
        await queue.add([first, second, third, nobody])
        await queue.warn(NOW + 2 * MINUTE, 10, NOW + HOUR)

        expired = await queue.expire(NOW + HOUR, 10, NOW + HOUR, until=NOW + 2 * HOUR)

        assert [each.id for each in expired] == [nobody.id, first.id, second.id, third.id]


class TestNotices:
    async def test_recipients_of_a_message_and_action_are_told_of_together(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example", "c@three.example", ret="FULL")
        await queue.add([message])
        for name in ("one", "two"):
            (delivery,) = await claimed(queue, f"{name}.example")
            number = delivery.recipients[0].number
            await queue.settle([settled(delivery, Status.FAILED, notices={number: Action.FAILED}, reply="550 no")])

        (notice,) = await queue.notices(10)

        assert (notice.action, notice.message_id, notice.arrived) == (Action.FAILED, message.id, NOW)
        assert (notice.reverse_path, notice.body, notice.ret) == (message.envelope.reverse_path, message.body, "FULL")
        assert [(str(each.address), each.reply) for each in notice.recipients] == [
            ("a@one.example", "550 no"),
            ("b@two.example", "550 no"),
        ]

    async def test_a_notice_is_owed_until_its_message_is_added(self, queue: Queue) -> None:
        await queue.add([a_message()])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])

        assert await queue.notices(10) == await queue.notices(10) != []
        assert await listed(queue) == [delivery.id]

    async def test_what_fails_while_a_notice_is_made_is_told_in_another(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (one,), (two,) = await claimed(queue, "one.example"), await claimed(queue, "two.example")
        await queue.settle([settled(one, Status.FAILED, notices={0: Action.FAILED})])
        (first,) = await queue.notices(10)

        await queue.settle([settled(two, Status.FAILED, notices={1: Action.FAILED})])
        await queue.add([a_message(id=first.id, sender=None, notification=True)])
        (second,) = await queue.notices(10)
        await queue.add([a_message(id=second.id, sender=None, notification=True)])

        assert [len(each.recipients) for each in (first, second)] == [1, 1]
        assert second.recipients[0].number == 1
        assert isinstance(await queue.show(message.id), HistoryRow)

    async def test_a_message_from_nobody_never_causes_one(self, queue: Queue) -> None:
        message = a_message(sender=None)
        await queue.add([message])
        (delivery,) = await claimed(queue)

        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])

        assert await queue.notices(10) == []
        assert (await the_history(queue, message.id)).sender == ""

    async def test_a_dropped_notice_is_not_owed_and_its_message_finishes(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])
        (notice,) = await queue.notices(10)

        await queue.drop_notice(notice.id)

        assert await queue.notices(10) == []
        assert isinstance(await queue.show(message.id), HistoryRow)

    async def test_a_late_delivered_takes_back_a_failure_that_nobody_was_told_of(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (lost,) = await claimed(queue)
        (expired,) = await queue.expire(NOW + SECOND, 10, NOW + 2 * HOUR, until=NOW + 3 * HOUR)
        await queue.settle([settled(expired, Status.FAILED, notices={0: Action.FAILED})])

        await queue.settle([settled(lost, Status.DELIVERED)])

        assert await queue.notices(10) == []
        assert (await the_history(queue, message.id)).recipients[0].status is Status.DELIVERED


class TestWarn:
    async def test_a_delay_is_told_once_for_each_message(self, queue: Queue) -> None:
        late, young = a_message("a@one.example", "b@two.example"), a_message(arrived=NOW + HOUR)
        await queue.add([late, young])

        assert await queue.warn(NOW + SECOND, 10, NOW) == 1
        assert await queue.warn(NOW + SECOND, 10, NOW) == 0

        (notice,) = await queue.notices(10)
        assert (notice.action, notice.message_id, len(notice.recipients)) == (Action.DELAYED, late.id, 2)

    @pytest.mark.parametrize("notify", [Notify.NEVER, Notify.FAILURE, Notify.SUCCESS | Notify.FAILURE])
    async def test_nobody_is_told_who_did_not_ask_for_delays(self, queue: Queue, notify: Notify) -> None:
        await queue.add([a_message(notify=notify), a_message(sender=None)])

        assert await queue.warn(NOW + HOUR, 10, NOW) == 0
        assert await queue.notices(10) == []

    async def test_who_asked_for_delays_is_told(self, queue: Queue) -> None:
        await queue.add([a_message(notify=Notify.DELAY | Notify.FAILURE)])

        assert await queue.warn(NOW + HOUR, 10, NOW) == 1

    async def test_only_recipients_that_still_wait_are_told_of(self, queue: Queue) -> None:
        await queue.add([a_message("a@one.example", "b@two.example")])
        (delivery,) = await claimed(queue, "one.example")
        await queue.settle([settled(delivery, Status.DELIVERED)])

        await queue.warn(NOW + HOUR, 10, NOW)

        (notice,) = await queue.notices(10)
        assert [each.number for each in notice.recipients] == [1]

    async def test_messages_that_need_no_warning_do_not_hide_those_that_do(self, queue: Queue) -> None:
        await queue.add([a_message(notify=Notify.NEVER, arrived=NOW - HOUR) for _ in range(5)])
        await queue.add([a_message()])

        assert await queue.warn(NOW + HOUR, 2, NOW) == 1

    async def test_a_missed_deadline_is_told_once_and_no_delay_after_it(self, queue: Queue) -> None:
        deadline = by(NOW + MINUTE, DeadlineMode.NOTIFY, trace=True)
        message = a_message(deadline=deadline)
        await queue.add([message])

        assert await queue.warn(None, 10, NOW + MINUTE - SECOND) == 0
        assert await queue.warn(None, 10, NOW + MINUTE) == 1
        assert await queue.warn(NOW + HOUR, 10, NOW + HOUR) == 0

        (notice,) = await queue.notices(10)
        assert (notice.action, notice.message_id, notice.deadline) == (Action.DELAYED, message.id, deadline)

    async def test_a_delay_and_later_a_missed_deadline_are_both_told(self, queue: Queue) -> None:
        await queue.add([a_message(deadline=by(NOW + HOUR, DeadlineMode.NOTIFY))])

        assert await queue.warn(NOW + SECOND, 10, NOW + MINUTE) == 1
        (first,) = await queue.notices(10)
        await queue.drop_notice(first.id)
        assert await queue.warn(NOW + SECOND, 10, NOW + HOUR) == 1
        assert len(await queue.notices(10)) == 1

    @pytest.mark.parametrize(
        "deadline",
        [
            by(NOW + MINUTE),
            by(NOW + MINUTE, DeadlineMode.RETURN),
            by(NOW, DeadlineMode.NOTIFY),
            by(NOW - HOUR, DeadlineMode.NOTIFY),
        ],
    )
    async def test_one_that_ends_the_message_or_had_passed_before_it_came_is_not_told(
        self, queue: Queue, deadline: Deadline
    ) -> None:
        await queue.add([a_message(deadline=deadline)])

        assert await queue.warn(None, 10, NOW + HOUR) == 0

    async def test_a_missed_deadline_is_told_to_those_who_may_be_told(self, queue: Queue) -> None:
        deadline = by(NOW + MINUTE, DeadlineMode.NOTIFY)
        told = [a_message(deadline=deadline, notify=notify) for notify in (None, Notify.DELAY)]
        untold = [a_message(deadline=deadline, notify=notify) for notify in (Notify.NEVER, Notify.FAILURE)]
        held, nobody = a_message(deadline=deadline, held=True), a_message(deadline=deadline, sender=None)
        await queue.add([*told, *untold, held, nobody])

        assert await queue.warn(None, 10, NOW + MINUTE) == 2
        assert {each.message_id for each in await queue.notices(10)} == {each.id for each in told}

    async def test_a_delay_that_is_over_is_not_told_any_more(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        await queue.warn(NOW + HOUR, 10, NOW)

        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        assert await queue.notices(10) == []
        assert isinstance(await queue.show(message.id), HistoryRow)


DAY = timedelta(days=1)


def a_back_off(failures: int = 1) -> BackOff:
    return BackOff(
        site="mx.one.example",
        failures=failures,
        retry_at=NOW + MINUTE,
        since=NOW - MINUTE,
        reply="connection refused",
        dsn="4.4.1",
        peer="mx.one.example[192.0.2.1]:25",
    )


class TestSites:
    async def test_a_site_that_backs_off_is_remembered_until_it_recovers(self, queue: Queue) -> None:
        site = a_back_off(failures=2)
        await queue.back_off(site)
        await queue.back_off(replace(site, failures=3))

        assert await queue.sites() == [replace(site, failures=3)]
        await queue.back_off(replace(site, failures=0))
        assert await queue.sites() == []

    async def test_what_was_never_tried_is_listed_with_the_words_of_its_site(self, queue: Queue) -> None:
        await queue.add([a_message("ann@one.example", "bob@two.example")])
        await queue.routed({"one.example": "mx.one.example", "two.example": "mx.two.example"}, NOW)
        await queue.back_off(a_back_off())

        (found,) = [each async for each in queue.messages()]

        replies = [recipient.reply for recipient in found.message.envelope.recipients]
        assert replies == ["connection refused", ""]
        assert await queue.sites_of(["one.example", "three.example"]) == {"one.example": "mx.one.example"}

    async def test_where_mail_went_that_nobody_sends_any_more_is_forgotten(self, queue: Queue) -> None:
        await queue.routed({"one.example": "mx.one.example", "two.example": "mx.two.example"}, NOW)
        await queue.routed({"one.example": "mx.one.example"}, NOW + 10 * DAY)

        await queue.routed({"three.example": "mx.three.example"}, NOW + 15 * DAY)

        assert set(await queue.sites_of(["one.example", "two.example", "three.example"])) == {
            "one.example",
            "three.example",
        }

    async def test_what_could_never_be_tried_expires_with_the_words_of_its_site(self, queue: Queue) -> None:
        await queue.add([a_message()])
        await queue.routed({"one.example": "elsewhere"}, NOW)
        await queue.routed({"one.example": "mx.one.example"}, NOW)
        await queue.back_off(a_back_off())

        (delivery,) = await queue.expire(NOW + HOUR, 10, NOW + HOUR, until=NOW + 2 * HOUR)

        assert [(each.reply, each.dsn) for each in delivery.recipients] == [("connection refused", "4.4.1")]


class TestClockWasSet:
    LATEST = NOW + DAY

    async def deferred(self, queue: Queue, due: datetime = NOW + HOUR) -> str:
        message = a_message()
        await queue.add([message])
        await queue.settle([settled(each, Status.DEFERRED, due=due) for each in await claimed(queue)])
        return message.id

    async def test_what_waits_waits_as_long_as_before(self, queue: Queue) -> None:
        """P7: whichever way it was set."""
        message = await self.deferred(queue)
        await queue.back_off(a_back_off())

        await queue.clock_was_set(-2 * HOUR, NOW - 2 * HOUR, self.LATEST - 2 * HOUR)

        assert (await the_recipient(queue, message)).due == NOW - HOUR
        assert await queue.next_due(NOW - 2 * HOUR) == NOW - HOUR
        (site,) = await queue.sites()
        assert (site.retry_at, site.since) == (NOW + MINUTE - 2 * HOUR, NOW - MINUTE - 2 * HOUR)
        await queue.clock_was_set(2 * HOUR, NOW + 2 * MINUTE, self.LATEST)
        assert (await the_recipient(queue, message)).due == NOW + HOUR
        assert await queue.sites() == [a_back_off()]

    async def test_what_was_not_tried_yet_is_due(self, queue: Queue) -> None:
        """P7: it arrived at a time that is to come now."""
        await queue.add([a_message()])

        await queue.clock_was_set(-HOUR, NOW - HOUR, self.LATEST)

        assert len(await claimed(queue, now=NOW - HOUR)) == 1

    async def test_what_came_or_was_tried_since_the_clock_was_set_forward_stays_as_it_is(self, queue: Queue) -> None:
        """P7: the queue is told some seconds later, and what came in these has its times from the new clock."""
        tried = a_message(arrived=NOW - HOUR)
        await queue.add([tried])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + MINUTE)])
        new = a_message(arrived=NOW)
        await queue.add([new])

        await queue.clock_was_set(2 * HOUR, NOW + MINUTE / 2, self.LATEST)

        assert (await the_recipient(queue, new.id)).due == NOW
        assert (await the_recipient(queue, tried.id)).due == NOW + MINUTE

    async def test_what_waits_for_a_time_that_nobody_can_have_meant_is_due(self, queue: Queue) -> None:
        """P7: as at a start of which nobody knows what happened to the clock before it."""
        wrong, right = await self.deferred(queue, self.LATEST + HOUR), await self.deferred(queue)
        await queue.back_off(replace(a_back_off(), retry_at=self.LATEST + HOUR))

        await queue.clock_was_set(timedelta(0), NOW, self.LATEST)

        assert (await the_recipient(queue, wrong)).due == NOW
        assert (await the_recipient(queue, right)).due == NOW + HOUR
        assert [site.retry_at for site in await queue.sites()] == [NOW]

    async def test_what_seems_to_have_arrived_in_the_future_arrived_now(self, queue: Queue) -> None:
        """P7: its life is not longer by what the clock was set back."""
        await queue.add([a_message(arrived=NOW + 10 * DAY)])

        await queue.clock_was_set(timedelta(0), NOW, self.LATEST)

        assert len(await queue.expire(NOW + MINUTE, 10, NOW + MINUTE, until=NOW + HOUR)) == 1

    async def test_what_is_in_flight_stays_so(self, queue: Queue) -> None:
        """P7: its lease is renewed by whoever has it."""
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)

        await queue.clock_was_set(HOUR, NOW + HOUR, self.LATEST)

        await queue.settle([settled(delivery, Status.DELIVERED)])
        assert isinstance(await queue.show(message.id), HistoryRow)


class TestTurns:
    async def test_notifications_go_first(self, queue: Queue) -> None:
        await queue.add([a_message(arrived=NOW - MINUTE), notification := a_message(notification=True)])

        first = await queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)

        assert [each.id for each in first] == [notification.id]

    async def test_so_does_what_has_a_deadline_to_meet(self, queue: Queue) -> None:
        missed = a_message(arrived=NOW - HOUR, deadline=by(NOW - 2 * HOUR, DeadlineMode.NOTIFY))
        met = [a_message(deadline=by(NOW + HOUR, mode)) for mode in DeadlineMode]
        await queue.add([a_message(arrived=NOW - MINUTE), missed, *met])

        first = await claimed(queue, limit=3)

        assert {each.id for each in first} == {each.id for each in met}

    async def test_what_was_tried_and_what_was_not_take_turns(self, queue: Queue) -> None:
        old = [a_message(arrived=NOW - HOUR + timedelta(seconds=n)) for n in range(5)]
        await queue.add(old)
        tried = await queue.claim(["one.example"], 5, NOW, until=NOW + HOUR)
        await queue.settle([settled(each, Status.DEFERRED, due=NOW - MINUTE) for each in tried])
        new = [a_message(arrived=NOW - timedelta(seconds=9 - n)) for n in range(5)]
        await queue.add(new)

        claimed_now = await queue.claim(["one.example"], 6, NOW, until=NOW + HOUR)

        ids = [each.id for each in claimed_now]
        assert [each in {m.id for m in new} for each in ids] == [True, False] * 3

    async def test_where_there_is_only_one_kind_it_has_the_whole_claim(self, queue: Queue) -> None:
        await queue.add([a_message(arrived=NOW - MINUTE) for _ in range(5)])

        assert len(await queue.claim(["one.example"], 4, NOW, until=NOW + HOUR)) == 4


class TestOperators:
    async def test_messages_are_listed_oldest_first(self, queue: Queue) -> None:
        messages = [a_message(arrived=NOW + timedelta(milliseconds=n)) for n in range(450)]
        await queue.add(messages[::-1])

        assert await listed(queue) == [each.id for each in messages]
        assert [each.message.id async for each in queue.messages(limit=3)] == [each.id for each in messages[:3]]

    async def test_what_is_in_flight_is_shown_so(self, queue: Queue) -> None:
        flying, waits = a_message(), a_message("bob@two.example")
        await queue.add([flying, waits])
        await claimed(queue)

        shown = {each.message.id: each.in_flight async for each in queue.messages()}

        assert shown == {flying.id: True, waits.id: False}

    async def test_an_unknown_message_is_none(self, queue: Queue) -> None:
        assert await queue.show("nothing") is None

    async def test_hold_and_release(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])

        assert await queue.hold([message.id, "nothing"]) == 1
        assert (await the_listed(queue, message.id)).held
        assert await claimed(queue) == []
        assert await queue.release([message.id, "nothing"]) == 1
        assert len(await claimed(queue)) == 1

    async def test_a_hold_during_an_attempt_takes_effect_when_it_settles(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (delivery,) = await claimed(queue)

        await queue.hold([message.id])
        assert await queue.withdrawn() == {message.id}
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW)])

        assert await queue.withdrawn() == frozenset()
        assert await claimed(queue, "one.example", "two.example") == []

    async def test_withdrawn_names_what_was_removed_in_flight(self, queue: Queue) -> None:
        flying, waits, other = a_message(), a_message("b@two.example"), a_message()
        await queue.add([flying, waits, other])
        await claimed(queue)

        await queue.remove([flying.id, waits.id], NOW)

        assert await queue.withdrawn() == {flying.id}

    async def test_retry_makes_all_due_and_forgets_the_back_off_of_sites(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        await queue.settle([settled(each, Status.DEFERRED, due=NOW + HOUR) for each in await claimed(queue)])
        await queue.back_off(a_back_off())

        assert await queue.retry([message.id, "nothing"], NOW + SECOND) == 1

        assert (await queue.due(NOW + SECOND, 10))[0].since == NOW + SECOND
        assert await queue.sites() == []

    async def test_remove_ends_what_waits_at_once_and_tells_nobody(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])

        assert await queue.remove([message.id, "nothing"], NOW + HOUR) == 1

        row = await the_history(queue, message.id)
        assert {each.status for each in row.recipients} == {Status.REMOVED}
        assert row.finished == NOW + HOUR
        assert await queue.notices(10) == []
        assert await queue.remove([message.id], NOW) == 0

    async def test_remove_leaves_what_is_in_flight_to_settle(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (delivery,) = await claimed(queue, "one.example")

        await queue.remove([message.id], NOW)
        statuses = [each.status for each in (await the_listed(queue, message.id)).envelope.recipients]
        await queue.settle([settled(delivery, Status.DELIVERED)])

        assert statuses == [Status.QUEUED, Status.REMOVED]
        after = [each.status for each in (await the_history(queue, message.id)).recipients]
        assert after == [Status.DELIVERED, Status.REMOVED]

    async def test_a_removed_message_still_tells_of_what_had_failed(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])

        await queue.remove([message.id], NOW)

        (notice,) = await queue.notices(10)
        assert [each.number for each in notice.recipients] == [0]


class TestSelection:
    """What is meant is said twice, in Python and in SQL: `ids` of both are compared by being the same test."""

    async def ids(self, queue: Queue, **fields: Any) -> list[str]:
        selection = Selection(**fields)
        found = await queue.ids(selection, "", 100)
        assert [each.message.id async for each in queue.messages(selection=selection)] == found
        assert (await queue.chosen(selection)).messages == len(found)
        return found

    async def test_each_condition_leaves_out_what_it_is_not_true_of(self, queue: Queue) -> None:
        a = a_message("ann@one.example", arrived=NOW)
        b = a_message("bob@sub.one.example", arrived=NOW + SECOND, sender=None)
        c = a_message(
            "cyd@two.example", "dan@[192.0.2.1]", arrived=NOW + 2 * SECOND, sender=Address("x@y", "a.two.example")
        )
        await queue.add([a, b, c])
        await queue.routed({"one.example": "mx.one", "two.example": "mx.two"}, NOW)
        await queue.redirect([c.id], "spare", NOW + MINUTE)

        assert await self.ids(queue) == [a.id, b.id, c.id]
        assert await self.ids(queue, domain="one.example") == [a.id]
        assert await self.ids(queue, domain="*.one.example") == [b.id]
        assert await self.ids(queue, domain="*") == [a.id, b.id, c.id]
        assert await self.ids(queue, domain="two.example") == [c.id]
        assert await self.ids(queue, domain="[192.0.2.1]") == [c.id]
        assert await self.ids(queue, domain="ne.example") == []
        assert await self.ids(queue, recipient=Address("cyd", "two.example")) == [c.id]
        assert await self.ids(queue, recipient=Address("cyd", "one.example")) == []
        assert await self.ids(queue, recipient=Address("CYD", "two.example")) == [c.id]
        assert await self.ids(queue, site="mx.one") == [a.id]
        assert await self.ids(queue, sender="") == [b.id]
        assert await self.ids(queue, sender=str(SENDER).upper()) == [a.id]
        assert await self.ids(queue, sender=str(SENDER)) == [a.id]
        assert await self.ids(queue, sender="@a.two.example") == [c.id]
        assert await self.ids(queue, sender="@*.two.example") == [c.id]
        assert await self.ids(queue, sender="@*") == [a.id, c.id]
        assert await self.ids(queue, arrived_before=NOW + SECOND) == [a.id]
        assert await self.ids(queue, arrived_after=NOW + SECOND) == [b.id, c.id]
        assert await self.ids(queue, up_to=b.id) == [a.id, b.id]
        assert await self.ids(queue, domain="two.example", sender=str(SENDER)) == []

    async def test_messages_are_selected_by_how_they_stand(self, queue: Queue) -> None:
        names = ("held", "flying", "deferred", "queued")
        held, flying, deferred, queued = messages = [a_message(f"a@{name}.example") for name in names]
        await queue.add(messages)
        await queue.hold([held.id])
        (delivery,) = await claimed(queue, "deferred.example")
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + HOUR)])
        await claimed(queue, "flying.example")

        assert await self.ids(queue, waiting=Waiting.HELD) == [held.id]
        assert await self.ids(queue, waiting=Waiting.IN_FLIGHT) == [flying.id]
        assert await self.ids(queue, waiting=Waiting.DEFERRED) == [deferred.id]
        assert await self.ids(queue, waiting=Waiting.QUEUED) == [queued.id]

    async def test_what_is_meant_is_counted_and_what_goes_with_it(self, queue: Queue) -> None:
        assert (await queue.chosen(ALL)).up_to == ""
        message, last = a_message("a@one.example", "b@two.example"), a_message("a@two.example")
        await queue.add([message, last])

        chosen = await queue.chosen(Selection(domain="one.example"))

        assert chosen == Chosen(messages=1, recipients=2, meant=1, up_to=max(message.id, last.id))


class TestRedirect:
    async def test_what_waits_goes_by_the_route_and_is_due_there_now(self, queue: Queue) -> None:
        message = a_message("ann@one.example", "bob@two.example")
        await queue.add([message])
        for delivery in await claimed(queue, "one.example", "two.example"):
            await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + HOUR)])

        assert await queue.redirect([message.id, "nothing"], "spare", NOW) == 1

        assert await claimed(queue, "one.example", "two.example", now=NOW + HOUR) == []
        due = {each.destination for each in await queue.due(NOW, 10)}
        assert due == {"spare/one.example", "spare/two.example"}
        (delivery,) = await claimed(queue, *due)
        assert [str(one.address) for one in delivery.recipients] == ["ann@one.example", "bob@two.example"]
        assert [one.destination for one in delivery.recipients] == ["spare/one.example", "spare/two.example"]

    async def test_it_can_be_redirected_again_and_back(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        for route, destination in (("a", "a/one.example"), ("b", "b/one.example"), ("", "one.example")):
            await queue.redirect([message.id], route, NOW)
            assert [each.destination for each in await queue.due(NOW, 10)] == [destination]

    async def test_what_is_in_flight_settles_first_and_goes_there_then(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.redirect([message.id], "spare", NOW)

        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW + HOUR)])

        assert await claimed(queue, now=NOW + HOUR) == []
        assert len(await claimed(queue, "spare/one.example", now=NOW + HOUR)) == 1

    async def test_the_history_has_the_address(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        await queue.redirect([message.id], "spare", NOW)
        (delivery,) = await claimed(queue, "spare/one.example")

        await queue.settle([settled(delivery, Status.DELIVERED)])

        assert (await the_history(queue, message.id)).recipients[0].address == Address("ann", "one.example")
        assert await queue.messages_to(Address("ann", "one.example"), 10) == [message.id]


class TestBounce:
    async def test_the_recipients_fail_and_the_sender_is_owed_a_notice(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])

        assert await queue.bounce([message.id, "nothing"], "removed") == Bounced(messages=1, in_flight=0)

        (notice,) = await queue.notices(10)
        assert (notice.message_id, notice.action) == (message.id, Action.FAILED)
        assert [(one.status, one.reply, one.dsn) for one in notice.recipients] == [
            (Status.FAILED, "removed", "5.0.0")
        ] * 2
        await queue.drop_notice(notice.id)
        assert {one.status for one in (await the_history(queue, message.id)).recipients} == {Status.FAILED}

    async def test_what_is_in_flight_is_left_alone(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example")
        await queue.add([message])
        (delivery,) = await claimed(queue, "one.example")

        assert await queue.bounce([message.id], "removed") == Bounced(messages=1, in_flight=1)

        await queue.settle([settled(delivery, Status.DELIVERED)])
        statuses = [one.status for one in (await queue.notices(10))[0].recipients]
        assert statuses == [Status.FAILED]
        assert (await the_recipient(queue, message.id)).status is Status.DELIVERED

    @pytest.mark.parametrize(("sender", "notify"), [(None, None), (SENDER, Notify.NEVER), (SENDER, Notify.SUCCESS)])
    async def test_who_is_not_to_be_told_is_not(
        self, queue: Queue, sender: Address | None, notify: Notify | None
    ) -> None:
        message = a_message(sender=sender, notify=notify)
        await queue.add([message])

        await queue.bounce([message.id], "removed")

        assert await queue.notices(10) == []
        assert (await the_history(queue, message.id)).recipients[0].status is Status.FAILED

    async def test_what_was_final_stays_so_and_a_warning_that_was_owed_is_not_made(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@two.example", arrived=NOW - HOUR)
        await queue.add([message])
        (delivery,) = await claimed(queue, "one.example")
        await queue.settle([settled(delivery, Status.DELIVERED)])
        await queue.warn(NOW, 10, NOW)

        await queue.bounce([message.id], "removed")

        assert [notice.action for notice in await queue.notices(10)] == [Action.FAILED]
        assert (await the_recipient(queue, message.id)).status is Status.DELIVERED


class TestTheEnd:
    async def test_a_body_goes_after_its_row_and_the_row_after_the_body(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        assert await queue.finished_bodies(NOW, 10) == []
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        assert await queue.finished_bodies(NOW, 10) == [message.id]
        assert await queue.forget(NOW + HOUR, 10) == 0
        await queue.bodies_gone([message.id])
        assert await queue.finished_bodies(NOW, 10) == []
        assert await queue.forget(NOW, 10) == 0
        assert await queue.forget(NOW + SECOND, 10) == 1
        assert await queue.show(message.id) is None

    async def test_the_body_of_a_failed_message_from_nobody_is_kept_as_long_as_its_row(self, queue: Queue) -> None:
        message = a_message(sender=None)
        await queue.add([message])
        await queue.settle([settled(each, Status.FAILED) for each in await claimed(queue)])
        assert await queue.finished_bodies(NOW, 10) == []

        assert await queue.forget(NOW + SECOND, 10) == 0
        assert await queue.finished_bodies(NOW, 10) == [message.id]
        await queue.bodies_gone([message.id])

        assert await queue.forget(NOW + SECOND, 10) == 1

    async def test_the_limits_hold(self, queue: Queue) -> None:
        await queue.add([a_message() for _ in range(5)])
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        ids = await queue.finished_bodies(NOW, 2)
        assert len(ids) == 2
        await queue.bodies_gone(await queue.finished_bodies(NOW, 10))
        assert await queue.forget(NOW + SECOND, 3) == 3
        assert await queue.forget(NOW + SECOND, 3) == 2


class TestShape:
    async def test_recipients_are_counted_by_age_at_each_destination(self, queue: Queue) -> None:
        for minutes in (0, 4, 6, 11, 21, 41, 81, 161, 321, 641, 1_281, 9_999):
            await queue.add([a_message("a@one.example", arrived=NOW - minutes * MINUTE)])
        await queue.add([a_message("a@two.example", "b@two.example", "c@one.example", arrived=NOW - 700 * MINUTE)])
        await queue.routed({"one.example": "mx.example"}, NOW)

        one, two = await queue.shape(NOW)

        assert (one.destination, one.site, one.ages) == ("one.example", "mx.example", (2, 1, 1, 1, 1, 1, 1, 1, 2, 2))
        assert (two.destination, two.site, two.ages) == ("two.example", None, (0, 0, 0, 0, 0, 0, 0, 0, 2, 0))
        assert (one.oldest, two.oldest) == (NOW - 9_999 * MINUTE, NOW - 700 * MINUTE)
        assert (one.total, one.held, one.in_flight) == (13, 0, 0)

    async def test_what_is_held_is_apart_and_what_is_in_flight_is_among_the_others(self, queue: Queue) -> None:
        held, withdrawn, flying, waits = (a_message() for _ in range(4))
        await queue.add([withdrawn, flying])
        await claimed(queue)
        await queue.add([held, waits])
        await queue.hold([held.id, withdrawn.id])

        (shape,) = await queue.shape(NOW)

        assert (shape.total, shape.in_flight, shape.held) == (3, 2, 1)

    async def test_what_is_final_is_not_counted(self, queue: Queue) -> None:
        await queue.add([a_message("a@one.example", "b@two.example")])
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        assert [(each.destination, each.total) for each in await queue.shape(NOW)] == [("two.example", 1)]

    async def test_mail_from_the_future_is_new(self, queue: Queue) -> None:
        await queue.add([a_message(arrived=NOW + HOUR)])

        assert (await queue.shape(NOW))[0].ages[0] == 1


class TestCensus:
    async def test_recipients_are_counted_by_how_they_wait_and_by_age(self, queue: Queue) -> None:
        held, new, old = a_message(), a_message("a@one.example", "b@two.example"), a_message(arrived=NOW - 30 * HOUR)
        await queue.add([held, new])
        await queue.hold([held.id])
        deferred = [settled(each, Status.DEFERRED, due=NOW + HOUR) for each in await claimed(queue)]
        await queue.settle(deferred)
        await queue.add([old])
        await claimed(queue, "two.example", limit=1)

        census = await queue.census(NOW)

        young = (1, *[0] * 9)
        assert census == {
            Waiting.QUEUED: (0, *[0] * 8, 1),
            Waiting.DEFERRED: young,
            Waiting.HELD: young,
            Waiting.IN_FLIGHT: young,
        }

    async def test_what_is_final_is_in_no_census(self, queue: Queue) -> None:
        await queue.add([a_message("a@one.example")])
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])

        assert {sum(ages) for ages in (await queue.census(NOW)).values()} == {0}


class TestWaitingFor:
    async def test_the_oldest_messages_for_an_address_are_found(self, queue: Queue) -> None:
        young, old, other = (
            a_message("ann@one.example", "ann@two.example", arrived=NOW),
            a_message("ann@one.example", "ann@one.example", arrived=NOW - HOUR),
            a_message("bob@one.example", "ann@two.example"),
        )
        await queue.add([young, old, other])

        assert await queue.waiting_for(Address("ann", "one.example"), 10) == [old.id, young.id]
        assert await queue.waiting_for(Address("Ann", "one.example"), 1) == [old.id]

    async def test_only_letters_of_ascii_are_the_same_in_either_case(self, queue: Queue) -> None:
        message = a_message("M\xdcLLER@one.example")
        await queue.add([message])

        for local_part, found in [("m\xdcller", [message.id]), ("m\xfcller", [])]:
            address = Address(local_part, "one.example")
            assert await queue.waiting_for(address, 10) == found
            assert await queue.messages_to(address, 10) == found
            assert await queue.ids(Selection(recipient=address), "", 10) == found

    async def test_what_goes_first_is_due_first_of_what_may_go(self, queue: Queue) -> None:
        late, early, held, other = a_message(), a_message(), a_message(), a_message("ann@two.example")
        await queue.add([held])
        await queue.hold([held.id])
        assert await queue.foremost("one.example") == held.id
        await queue.add([late, early, other])
        by_id = {each.id: each for each in await claimed(queue)}
        await queue.settle(
            [
                settled(by_id[late.id], Status.DEFERRED, due=NOW + 2 * HOUR),
                settled(by_id[early.id], Status.DEFERRED, due=NOW + HOUR),
            ]
        )

        assert await queue.foremost("one.example") == early.id
        assert await queue.foremost("three.example") is None

    async def test_what_is_held_or_in_flight_waits_and_what_is_final_does_not(self, queue: Queue) -> None:
        done, flying, held = a_message(), a_message(), a_message()
        await queue.add([done])
        await queue.settle([settled(each, Status.DELIVERED) for each in await claimed(queue)])
        await queue.add([flying])
        await claimed(queue)
        await queue.add([held])
        await queue.hold([held.id])

        assert set(await queue.waiting_for(Address("ann", "one.example"), 10)) == {flying.id, held.id}


SAID = (Line(0.0, Speaker.WE, "MAIL FROM:<a@b>"), Line(0.25, Speaker.SERVER, "250-ok\n250 \u20ac"))


def tried(settlement: Settlement, at: datetime = NOW, transcript: Transcript = SAID) -> Settlement:
    """Return a settlement whose attempt is to be remembered."""
    told = Tried(
        ended=at, seconds=1.5, peer="mx[192.0.2.1]:25", tls="1.3/verified", altered="folded", transcript=transcript
    )
    return replace(settlement, tried=told)


class TestAttempts:
    async def deferred(self, queue: Queue, times: int, *to: str) -> str:
        """Put a message off so many times, a minute apart, and return its id."""
        message = a_message(*to)
        await queue.add([message])
        for minute in range(times):
            at = NOW + minute * MINUTE
            deliveries = await claimed(queue, *{one.address.domain for one in message.envelope.recipients}, now=at)
            await queue.settle(
                [tried(settled(d, Status.DEFERRED, due=at, at=at, reply="450 no"), at) for d in deliveries]
            )
        return message.id

    async def test_an_attempt_is_remembered_as_it_was(self, queue: Queue) -> None:
        message = await self.deferred(queue, 1)

        (attempt,) = await queue.attempts(message)

        assert attempt.tried == Tried(
            ended=NOW, seconds=1.5, peer="mx[192.0.2.1]:25", tls="1.3/verified", altered="folded", transcript=SAID
        )
        assert attempt.outcomes == (PastOutcome(numbers=(0,), status=Status.DEFERRED, dsn="", reply="450 no"),)

    async def test_they_come_in_order_the_delivery_as_the_last_also_when_it_is_finished(self, queue: Queue) -> None:
        message = await self.deferred(queue, 2)
        (delivery,) = await claimed(queue, now=NOW + HOUR)
        done = settled(delivery, Status.DELIVERED, at=NOW + HOUR, reply="250 ok", dsn="2.0.0")
        await queue.settle([tried(done, NOW + HOUR, ())])

        attempts = await queue.attempts(message)

        assert [attempt.tried.ended for attempt in attempts] == [NOW, NOW + MINUTE, NOW + HOUR]
        assert [attempt.tried.transcript for attempt in attempts] == [SAID, SAID, ()]
        assert attempts[-1].outcomes[0].reply == "250 ok"
        assert attempts[-1].tried.peer == "mx[192.0.2.1]:25"

    async def test_recipients_of_whom_the_same_was_said_are_together(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@one.example", "c@one.example")
        await queue.add([message])
        (delivery,) = await claimed(queue)
        a, b, c = settled(delivery, Status.DELIVERED, reply="250 ok").recipients
        refused = replace(b, status=Status.FAILED, reply="550 no")
        await queue.settle([tried(Settlement(delivery=delivery, recipients=(a, refused, c)))])

        (attempt,) = await queue.attempts(message.id)

        assert {outcome.numbers: outcome.reply for outcome in attempt.outcomes} == {(0, 2): "250 ok", (1,): "550 no"}

    async def test_the_last_are_kept_and_of_fewer_what_was_said(self, queue: Queue) -> None:
        message = await self.deferred(queue, ATTEMPTS_KEPT + 2)

        attempts = await queue.attempts(message)

        assert [each.tried.ended for each in attempts] == [NOW + n * MINUTE for n in range(2, ATTEMPTS_KEPT + 2)]
        shown = [bool(each.tried.transcript) for each in attempts]
        assert shown == [False] * (ATTEMPTS_KEPT - TRANSCRIPTS_KEPT) + [True] * TRANSCRIPTS_KEPT

    async def test_those_of_other_sites_do_not_push_them_out(self, queue: Queue) -> None:
        message = await self.deferred(queue, ATTEMPTS_KEPT, "a@one.example", "b@two.example")

        attempts = await queue.attempts(message)

        assert Counter(number for each in attempts for o in each.outcomes for number in o.numbers) == {0: 20, 1: 20}

    async def test_a_late_delivery_is_remembered(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.settle([settled(delivery, Status.FAILED)])

        await queue.settle([tried(settled(delivery, Status.DELIVERED, reply="250 late"))])

        assert [each.outcomes[0].reply for each in await queue.attempts(message.id)][-1:] == ["250 late"]

    async def test_a_report_that_counts_for_nothing_is_not_remembered(self, queue: Queue) -> None:
        message = a_message()
        await queue.add([message])
        (delivery,) = await claimed(queue)
        await queue.give_back([delivery])

        await queue.settle([tried(settled(delivery, Status.DEFERRED, due=NOW))])

        assert await queue.attempts(message.id) == []

    async def test_they_are_forgotten_with_the_history(self, queue: Queue) -> None:
        message = await self.deferred(queue, 1)
        await queue.remove([message], NOW)
        assert len(await queue.attempts(message)) == 1
        await queue.bodies_gone([message])

        assert await queue.forget(NOW + HOUR, 10) == 1

        assert await queue.attempts(message) == []

    async def test_messages_to_an_address_are_found_waiting_or_finished_the_newest_first(self, queue: Queue) -> None:
        odd = Address('a"b\\', "one.example")
        ids = []
        for second in range(4):
            message = a_message(arrived=NOW + second * SECOND)
            to = Recipient(number=1, address=odd)
            envelope = replace(message.envelope, recipients=(*message.envelope.recipients, to))
            await queue.add([replace(message, envelope=envelope), a_message("b@one.example")])
            ids.append(message.id)
        await queue.remove(ids[:2], NOW)

        assert (
            await queue.messages_to(odd, 3) == await queue.messages_to(Address('A"b\\', "one.example"), 3) == ids[:0:-1]
        )
        assert await queue.messages_to(Address("b", "one.example"), 10) != []
        assert await queue.messages_to(Address('a"b', "one.example"), 10) == []


class TestFinished:
    async def finished(self, queue: Queue, status: Status, seconds: float, at: datetime = NOW, **fields: Any) -> None:
        message = a_message("a@one.example", "b@one.example", arrived=at - seconds * SECOND, **fields)
        await queue.add([message])
        await queue.settle([settled(each, status, at=at) for each in await claimed(queue, now=at)])

    async def test_what_finished_lately_is_counted_with_how_long_it_took_to_be_delivered(self, queue: Queue) -> None:
        for seconds in range(1, 21):
            await self.finished(queue, Status.DELIVERED, seconds)
        await self.finished(queue, Status.FAILED, 1000, sender=None)
        await self.finished(queue, Status.DELIVERED, 5000, at=NOW - HOUR)
        removed = a_message(arrived=NOW - MINUTE)
        await queue.add([removed])
        await queue.remove([removed.id], NOW)

        found = await queue.finished(NOW - MINUTE)

        assert found == Finished(
            messages=22,
            recipients={Status.DELIVERED: 40, Status.FAILED: 2, Status.REMOVED: 1},
            median=10 * SECOND,
            slow=19 * SECOND,
        )

    async def test_of_nothing_nothing_is_told(self, queue: Queue) -> None:
        assert await queue.finished(NOW) == Finished(messages=0, recipients={}, median=None, slow=None)


class TestLeases:
    async def test_each_claim_is_a_lease_of_its_owner(self, queue: Queue) -> None:
        message = a_message("a@one.example", "b@one.example", "c@two.example")
        await queue.add([message, a_message()])
        first = await claimed(queue)

        (lease,) = await queue.leases()

        assert (lease.number, lease.owner, lease.ends, lease.recipients) == (first[0].lease, "this", NOW + HOUR, 3)
        assert await queue.leased(message.id) == {0: lease, 1: lease}

    async def test_what_is_settled_or_given_back_is_under_none(self, queue: Queue) -> None:
        settles, returns = a_message("a@one.example"), a_message("b@two.example")
        await queue.add([settles, returns])
        await queue.settle([settled(each, Status.DEFERRED, due=NOW) for each in await claimed(queue, "one.example")])
        await queue.give_back(await claimed(queue, "two.example"))

        assert sum(lease.recipients for lease in await queue.leases()) == 0
        assert await queue.leased(settles.id) == await queue.leased(returns.id) == await queue.leased("nothing") == {}
