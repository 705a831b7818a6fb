"""What a daemon does with what its predecessor left in flight."""

from __future__ import annotations

from pathlib import Path

from relayd.mail.recipient import Status
from relayd.spool.notes import Noted
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.sqlite import SqliteQueue
from relayd.spool.takeover import MARKED_REPLY, TakenOver
from tests.spool.mail import HOUR, NOW, a_message, settled

NOTHING = Noted()


async def start(directory: Path, owner: str) -> SqliteQueue:
    return await SqliteQueue.open(directory / "queue.db", owner=owner)


async def die(queue: SqliteQueue) -> None:
    """End without the word that an orderly stop leaves."""
    queue._owner = None
    await queue.close()


async def test_only_what_was_noted_is_marked_and_all_is_due_again(tmp_path: Path) -> None:
    sent, unsent = a_message("a@one.example"), a_message("b@one.example")
    first = await start(tmp_path, "first")
    await first.add([sent, unsent])
    deliveries = await first.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    lease = deliveries[0].lease
    await die(first)
    second = await start(tmp_path, "second")

    taken = await second.take_over(NOW, Noted(ending=frozenset({(lease, sent.id)})))
    again = await second.claim(["one.example"], 10, NOW, until=NOW + HOUR)

    assert taken == TakenOver(marked=((sent.id, "a@one.example"),))
    recipients = {each.id: each.recipients[0] for each in again}
    assert (recipients[sent.id].status, recipients[sent.id].possible_duplicate) == (Status.DEFERRED, True)
    assert (recipients[unsent.id].status, recipients[unsent.id].possible_duplicate) == (Status.QUEUED, False)
    await second.close()


async def test_when_nobody_knows_all_that_was_claimed_is_marked(tmp_path: Path) -> None:
    messages = [a_message() for _ in range(3)]
    first = await start(tmp_path, "first")
    await first.add([*messages, a_message("b@two.example")])
    await first.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await die(first)
    second = await start(tmp_path, "second")

    taken = await second.take_over(NOW, None)

    assert {message_id for message_id, _ in taken.marked} == {each.id for each in messages}
    await second.close()


async def test_a_mark_stays_when_the_message_is_delivered(tmp_path: Path) -> None:
    message = a_message()
    first = await start(tmp_path, "first")
    await first.add([message])
    await first.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await die(first)
    second = await start(tmp_path, "second")
    await second.take_over(NOW, None)

    await second.settle([settled(d, Status.DELIVERED) for d in await second.claim(["one.example"], 1, NOW, until=NOW)])

    shown = await second.show(message.id)
    assert isinstance(shown, HistoryRow)
    assert shown.recipients[0].possible_duplicate
    await second.close()


async def test_a_message_in_hand_at_three_deaths_is_held_and_says_why(tmp_path: Path) -> None:
    message, claimed_only = a_message(), a_message()
    queue = await start(tmp_path, "0")
    await queue.add([message, claimed_only])
    held = []
    for death in range(1, 4):
        (delivery, _) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        await die(queue)
        queue = await start(tmp_path, str(death))
        begun = Noted(begun=frozenset({(delivery.lease, message.id)}))
        held.append((await queue.take_over(NOW, begun)).held)

    shown = await queue.show(message.id)

    assert held == [(), (), ((message.id, 3),)]
    assert isinstance(shown, Listed)
    assert shown.message.held
    assert shown.hold_reason == "the relay died 3 times with it in hand"
    await queue.close()


async def test_an_attempt_that_settles_starts_the_count_anew(tmp_path: Path) -> None:
    queue = await start(tmp_path, "0")
    await queue.add([a_message()])
    for death in range(1, 6):
        (delivery,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW)])
        (again,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        await die(queue)
        queue = await start(tmp_path, str(death))
        begun = Noted(begun=frozenset({(again.lease, again.id)}))
        assert (await queue.take_over(NOW, begun)).held == ()
    await queue.close()


async def test_an_orderly_stop_is_not_a_death(tmp_path: Path) -> None:
    queue = await start(tmp_path, "0")
    await queue.add([a_message()])
    for stop in range(1, 6):
        (delivery,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        await queue.close()
        queue = await start(tmp_path, str(stop))
        begun = Noted(begun=frozenset({(delivery.lease, delivery.id)}))
        assert (await queue.take_over(NOW, begun)).held == ()
    await queue.close()


async def test_what_was_removed_in_flight_is_removed(tmp_path: Path) -> None:
    message = a_message()
    first = await start(tmp_path, "first")
    await first.add([message])
    await first.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await first.remove([message.id], NOW)
    await die(first)
    second = await start(tmp_path, "second")

    await second.take_over(NOW, NOTHING)

    shown = await second.show(message.id)
    assert isinstance(shown, HistoryRow)
    assert shown.recipients[0].status is Status.REMOVED
    await second.close()


async def test_a_late_delivered_of_the_dead_is_still_taken(tmp_path: Path) -> None:
    message = a_message()
    first = await start(tmp_path, "first")
    await first.add([message])
    (delivery,) = await first.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await die(first)
    second = await start(tmp_path, "second")
    await second.take_over(NOW, None)

    await second.settle([settled(delivery, Status.DELIVERED)])

    assert isinstance(await second.show(message.id), HistoryRow)
    await second.close()


# the death of a worker, while the daemon lives


async def test_what_a_dead_worker_was_ending_is_marked_and_due_and_the_rest_stays_claimed(tmp_path: Path) -> None:
    sent, begun, untouched = a_message("a@one.example"), a_message("b@one.example"), a_message("c@one.example")
    queue = await start(tmp_path, "0")
    await queue.add([sent, begun, untouched])
    deliveries = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    lease = deliveries[0].lease
    noted = Noted(begun=frozenset({(lease, sent.id), (lease, begun.id)}), ending=frozenset({(lease, sent.id)}))

    buried = await queue.bury(noted, NOW)
    (again,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)

    assert buried == TakenOver(marked=((sent.id, "a@one.example"),))
    assert again.id == sent.id
    assert (again.recipients[0].status, again.recipients[0].possible_duplicate) == (Status.DEFERRED, True)
    assert again.recipients[0].reply == MARKED_REPLY
    for each in (begun, untouched):
        shown = await queue.show(each.id)
        assert isinstance(shown, Listed)
        assert shown.in_flight
    await queue.close()


async def test_deaths_of_workers_and_of_the_daemon_are_counted_together(tmp_path: Path) -> None:
    message = a_message()
    queue = await start(tmp_path, "0")
    await queue.add([message])
    for ending in (False, True):
        (delivery,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        claimed = frozenset({(delivery.lease, message.id)})
        noted = Noted(begun=claimed, ending=claimed if ending else frozenset())
        assert (await queue.bury(noted, NOW)).held == ()
        await queue.give_back([delivery])
    (delivery,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await die(queue)
    queue = await start(tmp_path, "1")

    taken = await queue.take_over(NOW, Noted(begun=frozenset({(delivery.lease, message.id)})))

    assert taken.held == ((message.id, 3),)
    assert await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR) == []
    await queue.close()


async def test_the_third_death_of_a_worker_holds_what_it_had_begun_and_not_what_it_had_only_been_given(
    tmp_path: Path,
) -> None:
    poison, beside = a_message(), a_message()
    queue = await start(tmp_path, "0")
    await queue.add([poison, beside])
    held = []
    for _ in range(3):
        deliveries = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        buried = await queue.bury(Noted(begun=frozenset({(deliveries[0].lease, poison.id)})), NOW)
        held.append(buried.held)
        await queue.give_back(deliveries)

    assert held == [(), (), ((poison.id, 3),)]
    assert [each.id for each in await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)] == [beside.id]
    await queue.close()


async def test_what_was_removed_while_a_dead_worker_was_ending_it_is_removed(tmp_path: Path) -> None:
    message = a_message()
    queue = await start(tmp_path, "0")
    await queue.add([message])
    (delivery,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.remove([message.id], NOW)

    await queue.bury(Noted(ending=frozenset({(delivery.lease, message.id)})), NOW)

    shown = await queue.show(message.id)
    assert isinstance(shown, HistoryRow)
    assert (shown.recipients[0].status, shown.recipients[0].possible_duplicate) == (Status.REMOVED, True)
    await queue.close()


async def test_what_is_claimed_anew_is_not_marked_by_old_notes(tmp_path: Path) -> None:
    message = a_message()
    queue = await start(tmp_path, "0")
    await queue.add([message])
    (before,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.give_back([before])
    (now,) = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)

    buried = await queue.bury(Noted(ending=frozenset({(before.lease, message.id)})), NOW)

    assert now.lease != before.lease
    assert buried.marked == ()
    shown = await queue.show(message.id)
    assert isinstance(shown, Listed)
    assert shown.in_flight
    await queue.close()
