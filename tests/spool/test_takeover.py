"""What a daemon does with what its predecessor left in flight."""

from __future__ import annotations

from pathlib import Path

from relayd.mail.recipient import Status
from relayd.spool.notes import Noted
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.sqlite import SqliteQueue
from relayd.spool.takeover import TakenOver
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
