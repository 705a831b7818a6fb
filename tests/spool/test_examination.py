"""What `relayd doctor` asks of the queue: a sound one has nothing, and each damage is found for what it is."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from relayd.mail.recipient import Status
from relayd.mail.settlement import Action
from relayd.spool.examination import Examination
from relayd.spool.sqlite import SqliteQueue
from tests.spool.mail import HOUR, MINUTE, NOW, a_message, by, settled

LIFETIME = timedelta(days=5)
PATIENCE = 10 * MINUTE


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this")
    yield queue
    await queue.close()


async def examined(queue: SqliteQueue, after: timedelta = timedelta(0)) -> dict[str, object]:
    """Return what was found, `after` the beginning, without what was not."""
    found = await queue.examine(NOW + after, LIFETIME, PATIENCE)
    fields = {field.name: getattr(found, field.name) for field in dataclasses.fields(Examination)}
    return {name: value for name, value in fields.items() if value}


async def test_a_queue_in_use_has_nothing(queue: SqliteQueue) -> None:
    flying, waits, held, done, failed = (a_message("a@one.example", "b@two.example") for _ in range(5))
    await queue.add([done])
    for destination in ("one.example", "two.example"):
        claimed = await queue.claim([destination], 10, NOW, until=NOW + HOUR)
        await queue.settle([settled(each, Status.DELIVERED) for each in claimed])
    await queue.add([failed])
    claimed = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.settle([settled(each, Status.FAILED, notices={0: Action.FAILED}) for each in claimed])
    await queue.add([flying])
    await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.add([waits, held])
    await queue.hold([held.id])
    await queue.remove([flying.id], NOW)

    assert await examined(queue) == {}


@pytest.mark.parametrize(
    ("found", "statements"),
    [
        ("miscounted", ["UPDATE messages SET open = 2"]),
        ("unfinished", ["UPDATE recipients SET status = 'delivered'", "UPDATE messages SET open = 0"]),
        ("half_held", ["UPDATE recipients SET held = 1"]),
        ("half_held", ["UPDATE messages SET held = 1"]),
        ("without_message", ["DELETE FROM messages"]),
        ("without_lease", ["UPDATE recipients SET lease = 99"]),
    ],
)
async def test_tables_that_do_not_agree_are_found(
    queue: SqliteQueue, tmp_path: Path, found: str, statements: list[str]
) -> None:
    message = a_message()
    await queue.add([message])
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)

    assert await examined(queue) == {found: [message.id]}


async def test_a_notice_without_its_message_is_found(queue: SqliteQueue, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "queue.db", isolation_level=None)) as connection:
        connection.execute("INSERT INTO notices (id, message, action, numbers) VALUES ('zz', 'gone', 'failed', '[0]')")

    assert await examined(queue) == {"without_message": ["gone"]}


async def test_a_lease_that_nobody_clears_away_is_found_after_a_while(queue: SqliteQueue) -> None:
    message = a_message()
    await queue.add([message])
    await queue.claim(["one.example"], 1, NOW, until=NOW + MINUTE)

    assert await examined(queue, 10 * MINUTE) == {}
    assert await examined(queue, 12 * MINUTE) == {"leased_too_long": [message.id]}


async def test_what_is_older_than_its_lifetime_or_past_its_deadline_is_found_after_a_while(queue: SqliteQueue) -> None:
    old, ends, held = a_message(arrived=NOW - LIFETIME), a_message(deadline=by(NOW)), a_message(deadline=by(NOW))
    await queue.add([old, ends, held])
    await queue.hold([held.id])
    await queue.settle(
        [
            settled(each, Status.DEFERRED, due=NOW + timedelta(days=9))
            for each in await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        ]
    )

    assert await examined(queue, 9 * MINUTE) == {}
    assert await examined(queue, 11 * MINUTE) == {"expired": [ends.id, old.id]}


async def test_mail_that_has_been_due_for_long_is_found_by_destination(queue: SqliteQueue) -> None:
    await queue.add([a_message(), a_message(), a_message("b@two.example", arrived=NOW + MINUTE)])

    assert await examined(queue, 10 * MINUTE - timedelta(seconds=1)) == {}
    (due,) = (await queue.examine(NOW + 10 * MINUTE, LIFETIME, PATIENCE)).overdue
    assert (due.destination, due.recipients, due.since) == ("one.example", 2, NOW)


async def test_a_notification_that_is_not_made_and_a_body_that_is_not_unlinked_are_found(tmp_path: Path) -> None:
    queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this", new_notice_id=lambda: a_message().id)
    owed, finished = a_message(), a_message()
    await queue.add([owed])
    claimed = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.settle([settled(each, Status.FAILED, notices={0: Action.FAILED}) for each in claimed])
    await queue.add([finished])
    claimed = await queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
    await queue.settle([settled(each, Status.DELIVERED) for each in claimed])

    assert await examined(queue, 9 * MINUTE) == {}
    assert await examined(queue, 11 * MINUTE) == {"owed": [owed.id], "not_unlinked": [finished.id]}
    await queue.close()


async def test_of_very_many_some_are_named(queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.spool.examination.MOST", 3)
    await queue.add([a_message(f"a@d{number}.example", arrived=NOW - 2 * LIFETIME) for number in range(10)])

    found = await queue.examine(NOW, LIFETIME, PATIENCE)

    assert (len(found.expired), len(found.overdue)) == (3, 3)


async def test_messages_are_paged_with_the_sizes_of_their_bodies(queue: SqliteQueue) -> None:
    messages = sorted((a_message() for _ in range(5)), key=lambda message: message.id)
    await queue.add(messages)

    first = await queue.sizes("", 3)

    assert first == [(message.id, 100) for message in messages[:3]]
    assert await queue.sizes(first[-1][0], 3) == [(message.id, 100) for message in messages[3:]]
