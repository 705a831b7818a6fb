"""What is SQLite's own of the queue: its file, its plans, its troubles, and other processes beside it."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from relayd.mail.deadline import DeadlineMode
from relayd.mail.errors import QueueError
from relayd.mail.events import Committed, Degraded, Event, Restored
from relayd.mail.message import Body
from relayd.mail.recipient import Status
from relayd.spool import claims, expiry, history, leases, notices, rows, settling, waiting
from relayd.spool.database import AT_ONCE
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.schema import MIGRATIONS, VERSION
from relayd.spool.sqlite import SqliteQueue
from tests.spool.mail import HOUR, NOW, SECOND, a_message, by, settled


@pytest.fixture
async def queue(tmp_path: Path) -> AsyncIterator[SqliteQueue]:
    queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this")
    yield queue
    await queue.close()


@contextmanager
def by_hand(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


class TestTheFile:
    async def test_it_is_private_and_synced_in_full(self, queue: SqliteQueue, tmp_path: Path) -> None:
        assert (tmp_path / "queue.db").stat().st_mode & 0o777 == 0o600
        with by_hand(tmp_path / "queue.db") as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)

    async def test_each_migration_brings_an_older_file_up(self, tmp_path: Path) -> None:
        for version in range(VERSION):
            path = tmp_path / f"{version}.db"
            with by_hand(path) as connection:
                for migration in MIGRATIONS[:version]:
                    for statement in migration:
                        connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")

            message = a_message()
            queue = await SqliteQueue.open(path, owner="this")
            await queue.add([message])
            assert await queue.known([message.id]) == {message.id}
            await queue.close()

    async def test_mail_that_is_older_than_deadlines_expires_and_is_warned_of_as_before(self, tmp_path: Path) -> None:
        before = next(n for n, migration in enumerate(MIGRATIONS) if any("messages_open" in each for each in migration))
        with by_hand(tmp_path / "queue.db") as connection:
            for statement in (each for migration in MIGRATIONS[:before] for each in migration):
                connection.execute(statement)
            for message, sender in (("from-ann", "ann@origin.example"), ("from-nobody", "")):
                connection.execute(
                    "INSERT INTO messages (id, arrived, sender, size, wire_size, header_end, cuts, prefix, facts,"
                    " notification, held, total, open) VALUES (?, 1, ?, 1, 1, 1, '[]', x'', 0, 0, 0, 1, 1)",
                    (message, sender),
                )
                connection.execute(
                    "INSERT INTO recipients (message, number, local_part, destination, status, attempts, due, arrived,"
                    " reply, dsn, peer, possible_duplicate, held)"
                    " VALUES (?, 0, 'bob', 'one.example', 'queued', 0, 1, 1, '', '', '', 0, 0)",
                    (message,),
                )
            connection.execute(f"PRAGMA user_version = {before}")

        queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this")

        assert await queue.warn(NOW, 10, NOW) == 1
        (notice,) = await queue.notices(10)
        assert (notice.message_id, notice.deadline) == ("from-ann", None)
        expired = await queue.expire(NOW, 10, NOW, until=NOW + HOUR)
        assert {each.id for each in expired} == {"from-ann", "from-nobody"}
        await queue.close()

    async def test_a_newer_version_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "queue.db"
        with by_hand(path) as connection:
            connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        before = path.read_bytes()

        with pytest.raises(QueueError, match="newer relayd"):
            await SqliteQueue.open(path, owner="this")

        assert path.read_bytes() == before

    async def test_a_corrupt_file_names_the_way_out(self, tmp_path: Path) -> None:
        path = tmp_path / "queue.db"
        path.write_bytes(b"not a database " * 1000)

        with pytest.raises(QueueError, match="relayd recover"):
            await SqliteQueue.open(path, owner="this")

    async def test_damage_that_shows_later_names_the_way_out_too(self, tmp_path: Path) -> None:
        path = tmp_path / "queue.db"
        queue = await SqliteQueue.open(path, owner="this")
        await queue.add([a_message() for _ in range(200)])
        await queue.close()
        content = bytearray(path.read_bytes())
        intact = len(content) * 3 // 4  # what a start reads is before that
        content[intact:] = b"\xa5" * (len(content) - intact)
        path.write_bytes(content)

        queue = await SqliteQueue.open(path, owner="this")
        with pytest.raises(QueueError, match="relayd recover"):
            assert [each async for each in queue.messages()]
        await queue.close()

    async def test_what_was_added_is_there_after_a_restart(self, tmp_path: Path) -> None:
        message = a_message()
        queue = await SqliteQueue.open(tmp_path / "queue.db", owner="first")
        await queue.add([message])
        await queue.close()

        queue = await SqliteQueue.open(tmp_path / "queue.db", owner="second")

        assert [each.message.id async for each in queue.messages()] == [message.id]
        await queue.close()

    async def test_a_closed_queue_says_so(self, tmp_path: Path) -> None:
        queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this")
        await queue.close()

        with pytest.raises(QueueError, match="closed"):
            await queue.add([a_message()])


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (claims.SELECT_DUE, 3),
        (claims.SELECT_DUE_AT, 3),
        (expiry.SELECT_OVER, 2),
        (expiry.SELECT_OLD, 2),
        (claims.SELECT_NEXT, 1),
        (leases.SELECT_WITHDRAWN, 0),
        (claims.SELECT_WAITING, 1),
        (notices.SELECT_LATE, 2),
        (notices.SELECT_MISSED, 2),
    ],
)
async def test_what_is_asked_often_never_reads_a_whole_table(
    queue: SqliteQueue, tmp_path: Path, statement: str, parameters: int
) -> None:
    with by_hand(tmp_path / "queue.db") as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["1"] * parameters)]

    steps = [step for step in plan if "recipients" in step or "messages" in step]
    assert steps
    assert all("INDEX" in step or "PRIMARY KEY" in step for step in steps), plan
    assert not any(step in ("SCAN recipients", "SCAN messages") for step in steps), plan


@pytest.mark.parametrize(
    ("statement", "parameters", "step"),
    [
        (
            claims.SELECT_DUE_AT,
            3,
            "SEARCH recipients USING INDEX recipients_due (waiting=? AND destination=? AND turn=? AND due<?)",
        ),
        (claims.SELECT_WAITING, 1, "SEARCH recipients USING PRIMARY KEY (message=?)"),
        (claims.TAKE, 2, "SEARCH recipients USING PRIMARY KEY (message=? AND number=?)"),
        (
            rows.RELEASE,
            1,
            "SEARCH recipients USING COVERING INDEX recipients_leased (lease=? AND message=? AND number=?)",
        ),
        (settling.SELECT_STANDING, 1, "SEARCH r USING PRIMARY KEY (message=? AND number=?)"),
        (history.COUNT_CLOSED, 1, "SEARCH messages USING PRIMARY KEY (id=?)"),
        (history.DELETE_RECIPIENTS, 1, "SEARCH recipients USING PRIMARY KEY (message=?)"),
        (history.DELETE_MESSAGES, 1, "SEARCH messages USING PRIMARY KEY (id=?)"),
        (history.SELECT_FINISHED, 1, "SCAN history USING INDEX history_bodies"),
    ],
)
async def test_the_cost_of_a_message_does_not_grow_with_the_queue(
    queue: SqliteQueue, tmp_path: Path, statement: str, parameters: int, step: str
) -> None:
    with by_hand(tmp_path / "queue.db") as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["1"] * parameters)]

    tables = ("recipients", "messages", "history", " r ")
    assert {each for each in plan if any(table in f"{each} " for table in tables)} == {step}, plan


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [(waiting.SELECT_WAITING, 0), (waiting.SELECT_WAITING_FOR, 3), (leases.SELECT_LEASES, 0)],
)
async def test_what_reads_the_whole_queue_keeps_nothing_of_it(
    queue: SqliteQueue, tmp_path: Path, statement: str, parameters: int
) -> None:
    with by_hand(tmp_path / "queue.db") as connection:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["1"] * parameters)]

    assert not any("TEMP B-TREE" in step for step in plan), plan


async def test_who_reads_the_whole_queue_keeps_nobody_from_writing(queue: SqliteQueue, tmp_path: Path) -> None:
    await queue.add([a_message() for _ in range(500)])
    with by_hand(tmp_path / "queue.db") as connection:
        reading = connection.execute(waiting.SELECT_WAITING)
        assert reading.fetchone()

        await queue.add([a_message()])

        assert len(reading.fetchall()) == 499


def instructions(connection: sqlite3.Connection, statement: str, *parameters: object) -> int:
    """Return how many instructions of its machine SQLite takes for a statement."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    connection.set_progress_handler(tick, 1)
    try:
        connection.execute(statement, parameters).fetchall()
    finally:
        connection.set_progress_handler(None, 1)
    return count


async def test_a_sweep_reads_nothing_of_what_it_does_not_take(queue: SqliteQueue, tmp_path: Path) -> None:
    past, ahead = NOW - HOUR, NOW + HOUR
    untaken: list[dict[str, Any]] = [
        {"deadline": by(ahead)},
        {"deadline": by(past, DeadlineMode.RETURN), "held": True},
        {"deadline": by(past, DeadlineMode.NOTIFY), "sender": None},
        {"deadline": by(NOW - 3 * HOUR, DeadlineMode.NOTIFY)},
        {},
        {"sender": None},
    ]
    asked = [
        (expiry.SELECT_OVER, rows.microseconds(NOW), 10),
        (expiry.SELECT_OLD, rows.microseconds(NOW - 2 * HOUR), 10),
        (notices.SELECT_MISSED, rows.microseconds(NOW), 10),
        (notices.SELECT_LATE, rows.microseconds(NOW - 2 * HOUR), 10),
    ]

    async def cost_with(more: int) -> list[int]:
        await queue.add([a_message(arrived=NOW - 2 * HOUR, **fields) for fields in untaken for _ in range(more)])
        with by_hand(tmp_path / "queue.db") as connection:
            return [instructions(connection, *each) for each in asked]

    assert await cost_with(1) == await cost_with(200)


async def test_a_claim_reads_nothing_of_what_it_does_not_take(queue: SqliteQueue, tmp_path: Path) -> None:
    """Nothing of what is held, in flight, due later, or of another destination."""
    asked = (claims.SELECT_DUE_AT, "one.example", rows.microseconds(NOW), 10)

    async def cost_with(more: int) -> int:
        await queue.add([a_message("ann@two.example") for _ in range(more)])
        await queue.add([a_message(held=True) for _ in range(more)])
        await queue.add([a_message() for _ in range(2 * more)])
        in_flight = await queue.claim(["one.example"], 2 * more, NOW, until=NOW + HOUR)
        later = [settled(each, Status.DEFERRED, due=NOW + HOUR) for each in in_flight[::2]]
        await queue.settle(later)
        await queue.add([a_message() for _ in range(10)])
        with by_hand(tmp_path / "queue.db") as connection:
            cost = instructions(connection, *asked)
        assert len(await queue.claim(["one.example"], 100, NOW, until=NOW + HOUR)) == 10
        return cost

    assert await cost_with(200) == await cost_with(2)


class TestTroubles:
    async def test_after_an_io_error_it_reports_reopens_and_works(self, tmp_path: Path) -> None:
        told: list[Event] = []
        queue = await SqliteQueue.open(tmp_path / "queue.db", owner="this", events=told.append)
        await queue.add([a_message()])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        full = (tmp_path / "queue.db-wal").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, hard))  # writes beyond fail, as on a full disk
        try:
            failed = await asyncio.gather(*(queue.add([a_message()]) for _ in range(3)), return_exceptions=True)
            degraded = queue.degraded
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        await queue.add([a_message()])

        assert all(isinstance(each, QueueError) for each in failed)
        assert degraded
        assert queue.degraded is None
        assert [type(each) for each in told if not isinstance(each, Committed)] == [Degraded, Restored]
        assert len([each async for each in queue.messages()]) == 2
        await queue.close()

    async def test_a_job_that_is_wrong_takes_nobody_with_it(self, queue: SqliteQueue) -> None:
        good, bad = a_message(), a_message(body=Body(size=2**80, wire_size=1, header_end=1))

        results = await asyncio.gather(queue.add([good]), queue.add([bad]), return_exceptions=True)

        assert results[0] == {}
        assert isinstance(results[1], OverflowError)
        assert [each.message.id async for each in queue.messages()] == [good.id]
        assert queue.degraded is None


OPERATOR = """
import asyncio, sys
from datetime import datetime, UTC
from pathlib import Path
from relayd.spool.sqlite import SqliteQueue

async def main(path, verb, *ids):
    queue = await SqliteQueue.open(Path(path), owner=None)
    if verb == "list":
        print(*[each.message.id async for each in queue.messages()])
    elif verb in ("hold", "release"):
        print(await getattr(queue, verb)(ids))
    else:
        print(await getattr(queue, verb)(ids, datetime(2026, 11, 22, 12, tzinfo=UTC)))
    await queue.close()

asyncio.run(main(*sys.argv[1:]))
"""


async def operator(path: Path, verb: str, *ids: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPERATOR, str(path), verb, *ids, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


class TestOtherProcesses:
    async def test_operators_work_beside_a_running_daemon(self, queue: SqliteQueue, tmp_path: Path) -> None:
        held, removed, flying = a_message(), a_message("b@two.example"), a_message("c@three.example")
        await queue.add([held, removed, flying])
        (delivery,) = await queue.claim(["three.example"], 10, NOW, until=NOW + HOUR)
        path = tmp_path / "queue.db"

        listed, *counts = await asyncio.gather(
            operator(path, "list"), operator(path, "hold", held.id), operator(path, "remove", removed.id, flying.id)
        )

        assert len(listed.split()) in (2, 3)
        assert counts == ["1", "2"]
        assert await queue.claim(["one.example", "two.example"], 10, NOW, until=NOW + HOUR) == []
        assert await queue.withdrawn() == {flying.id}
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW)])
        assert isinstance(await queue.show(flying.id), HistoryRow)
        shown = await queue.show(held.id)
        assert isinstance(shown, Listed)
        assert shown.hold_reason == "held by an operator"

    async def test_they_claim_nothing_and_create_nothing(self, queue: SqliteQueue, tmp_path: Path) -> None:
        other = await SqliteQueue.open(tmp_path / "queue.db", owner=None)

        with pytest.raises(QueueError, match="only a daemon"):
            await other.claim(["one.example"], 1, NOW, until=NOW)
        await other.close()
        with pytest.raises(QueueError, match="no queue"):
            await SqliteQueue.open(tmp_path / "another.db", owner=None)
        assert not (tmp_path / "another.db").exists()


class TestManyAtOnce:
    async def test_a_large_batch_is_stored_as_it_is(self, queue: SqliteQueue) -> None:
        prefixes = [b"", b"X: \xff\0\r\n", "Y: ä\r\n".encode()]
        messages = [
            a_message(
                f"r{number}@one.example", body=Body(size=1, wire_size=1, header_end=1, prefix=prefixes[number % 3])
            )
            for number in range(3 * AT_ONCE + 7)
        ]

        await queue.add(messages)

        listed = [each.message async for each in queue.messages()]
        assert {each.id: each.body for each in listed} == {each.id: each.body for each in messages}
        assert {each.id: r.address for each in listed for r in each.envelope.recipients} == {
            each.id: each.envelope.recipients[0].address for each in messages
        }

    async def test_what_a_server_said_comes_back_from_a_claim_as_it_was_stored(self, queue: SqliteQueue) -> None:
        await queue.add([a_message()])
        (delivery,) = await queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)
        reply = '450 "a"\\b\0c\u2028ä'
        await queue.settle([settled(delivery, Status.DEFERRED, due=NOW, reply=reply)])

        (again,) = await queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)

        assert again.recipients[0].reply == reply

    async def test_a_claim_finds_its_messages_behind_one_with_many_recipients(self, queue: SqliteQueue) -> None:
        first = a_message(*(f"r{number}@one.example" for number in range(50)))
        others = [a_message("x@one.example", arrived=NOW + SECOND * number) for number in (1, 2, 3)]
        await queue.add([*others, first])

        claimed = await queue.claim(["one.example"], 3, NOW + HOUR, until=NOW + 2 * HOUR)

        assert [each.id for each in claimed] == [first.id, others[0].id, others[1].id]
        assert [len(each.recipients) for each in claimed] == [50, 1, 1]
