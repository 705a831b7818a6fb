"""The order of operations around the queue, step by step and across restarts."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from relayd.mail.errors import QueueError, SpoolLocked
from relayd.mail.events import Committed, Event, Marked
from relayd.mail.key import KEPT, SubmissionKey
from relayd.mail.message import Message, new_id
from relayd.mail.recipient import Status
from relayd.mail.settlement import Action
from relayd.mail.submission import Submission
from relayd.spool.lock import Lock
from relayd.spool.queue import HistoryRow
from relayd.spool.spool import Spool
from tests.spool.mail import HOUR, MINUTE, NOW, a_message, a_submission, settled

HISTORY = timedelta(days=3)
KEY = SubmissionKey(33, "order 7")


def ignore(event: Event) -> None:
    pass


async def opened(root: Path, *, now: datetime = NOW) -> Spool:
    return await Spool.open(root, now=now, history=HISTORY, events=ignore)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = await opened(tmp_path / "spool")
    yield spool
    await spool.close()


async def accept(spool: Spool, submissions: Sequence[Submission]) -> list[Message]:
    return [submission.message for submission in await spool.accept(submissions)]


def dropped(spool: Spool, content: bytes = b"Subject: x\r\n\r\nbody\r\n") -> Submission:
    return a_submission(spool.root / "new", content)


def copied(spool: Spool) -> Submission:
    """Return a copy that the pickup made of another owner's file."""
    submission = a_submission(spool.root / "queue" / "incoming")
    original = submission.path.with_name(f"{submission.message.id}.orig")
    original.write_bytes(submission.path.read_bytes())
    path = submission.path.rename(submission.path.with_name(submission.message.id))
    return replace(submission, path=path, original=original)


def bodies_of(spool: Spool) -> set[str]:
    return {path.name for path in (spool.root / "queue").glob("??/*")}


async def orphans_of(spool: Spool) -> list[tuple[str, Path]]:
    return sorted([each async for found in spool.orphans() for each in found])


async def finish(spool: Spool, status: Status = Status.DELIVERED) -> None:
    claimed = await spool.queue.claim(["one.example"], 1_000, NOW + HOUR, until=NOW + 2 * HOUR)
    await spool.queue.settle([settled(each, status) for each in claimed])


def with_key(submission: Submission, key: SubmissionKey = KEY) -> Submission:
    return replace(submission, message=replace(submission.message, key=key))


class TestOpen:
    async def test_what_is_missing_is_created_with_its_modes(self, spool: Spool) -> None:
        modes = {
            name: (spool.root / name).stat().st_mode & 0o7777 for name in ("new", "tmp", "cur", "queue", "rejected")
        }

        public, private = 0o3770, 0o700
        assert modes == {"new": public, "tmp": public, "cur": public, "queue": private, "rejected": private}

    async def test_modes_that_somebody_chose_are_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "new").mkdir()
        (tmp_path / "new").chmod(0o777)

        await (await opened(tmp_path)).close()

        assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o777

    async def test_a_second_daemon_is_refused(self, spool: Spool) -> None:
        with pytest.raises(SpoolLocked):
            await opened(spool.root)

    async def test_a_start_waits_for_the_last_workers_of_a_daemon_that_was_killed(self, tmp_path: Path) -> None:
        await (await opened(tmp_path)).close()
        lock = Lock.acquire(tmp_path / "lock")
        asyncio.get_running_loop().call_later(0.1, lock.release)

        await (await opened(tmp_path)).close()

    async def test_a_failed_start_lets_go_of_the_spool(self, tmp_path: Path) -> None:
        (tmp_path / "queue.db").write_bytes(b"not a database " * 1000)
        with pytest.raises(QueueError):
            await opened(tmp_path)

        (tmp_path / "queue.db").unlink()
        await (await opened(tmp_path)).close()

    async def test_only_what_was_noted_is_marked_and_told(self, tmp_path: Path) -> None:
        first = await opened(tmp_path)
        sent, unsent = await accept(first, [dropped(first), dropped(first)])
        claimed = await first.queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        first.notes.ending(claimed[0].lease, sent.id)
        await first.close()
        told: list[Event] = []

        second = await Spool.open(tmp_path, now=NOW + MINUTE, history=HISTORY, events=told.append)

        assert [each for each in told if not isinstance(each, Committed)] == [
            Marked(id=sent.id, address="ann@one.example")
        ]
        assert [path.name for path in (tmp_path / "queue").glob("*notes*")] != []
        assert len(list((tmp_path / "queue").glob("*notes*"))) == 1
        assert unsent.id not in {message_id for message_id, _ in second.taken_over.marked}
        await second.close()

    async def test_what_was_noted_and_settled_is_not_marked(self, tmp_path: Path) -> None:
        first = await opened(tmp_path)
        await accept(first, [dropped(first)])
        (delivery,) = await first.queue.claim(["one.example"], 10, NOW, until=NOW + HOUR)
        first.notes.ending(delivery.lease, delivery.id)
        await first.queue.settle([settled(delivery, Status.DEFERRED, due=NOW)])
        await first.close()

        second = await opened(tmp_path, now=NOW + MINUTE)

        assert second.taken_over.marked == ()
        await second.close()

    async def test_after_a_power_cut_all_that_was_claimed_is_marked(self, tmp_path: Path) -> None:
        first = await opened(tmp_path)
        await accept(first, [dropped(first) for _ in range(3)])
        claimed = await first.queue.claim(["one.example"], 2, NOW + HOUR, until=NOW + 2 * HOUR)
        await first.close()
        (notes,) = (tmp_path / "queue").glob("notes.*")
        notes.write_text("another boot\n")

        second = await opened(tmp_path, now=NOW + MINUTE)

        assert {message_id for message_id, _ in second.taken_over.marked} == {each.id for each in claimed}
        await second.close()


class TestAccept:
    @pytest.mark.parametrize("count", [1, 20])
    async def test_a_file_becomes_a_body_and_a_row(self, spool: Spool, count: int) -> None:
        submissions = [dropped(spool, b"%d" % n) for n in range(count)]

        messages = await accept(spool, submissions)

        assert messages == [each.message for each in submissions]
        assert list((spool.root / "new").iterdir()) == []
        for n, message in enumerate(messages):
            assert spool.bodies.path(message.id).read_bytes() == b"%d" % n
        assert await spool.queue.known([each.id for each in messages]) == {each.id for each in messages}

    async def test_a_copy_is_taken_and_its_original_unlinked(self, spool: Spool) -> None:
        submission = copied(spool)

        (message,) = await accept(spool, [submission])

        assert bodies_of(spool) == {message.id}
        assert list((spool.root / "queue" / "incoming").iterdir()) == []

    async def test_a_file_that_changed_since_or_vanished_is_left_out(self, spool: Spool) -> None:
        replaced, vanished, good = dropped(spool), dropped(spool), dropped(spool)
        other = spool.root / "tmp" / "other"
        other.write_bytes(b"other")
        os.rename(other, replaced.path)
        vanished.path.unlink()

        assert await accept(spool, [replaced, vanished, good]) == [good.message]

        assert replaced.path.read_bytes() == b"other"
        assert bodies_of(spool) == {good.message.id}

    async def test_what_could_not_be_committed_is_offered_again_under_the_same_id(self, spool: Spool) -> None:
        submissions = [dropped(spool), copied(spool)]
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # every write fails, as on a full disk
        try:
            with pytest.raises(QueueError):
                await accept(spool, submissions)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await orphans_of(spool) == []
        assert submissions[1].original
        assert submissions[1].original.exists()

        left_over = spool.unfinished
        copy_first = [submissions[1], submissions[0]]

        assert left_over
        assert await spool.accept([]) == copy_first
        assert await spool.queue.known([each.message.id for each in submissions]) == bodies_of(spool)
        assert len(bodies_of(spool)) == 2
        assert not submissions[1].original.exists()
        assert not spool.unfinished
        assert await accept(spool, []) == []

    async def test_while_it_cannot_commit_no_more_files_are_taken_on(self, spool: Spool) -> None:
        first, later = dropped(spool), dropped(spool)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # every write fails, as on a full disk
        try:
            for submission in (first, later):
                with pytest.raises(QueueError):
                    await accept(spool, [submission])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        assert later.path.exists()
        assert await accept(spool, [later]) == [first.message, later.message]

    async def test_what_a_failed_sync_left_in_doubt_is_written_anew(self, spool: Spool) -> None:
        submission = dropped(spool)
        assert spool.bodies.place(submission.path, submission.identity, submission.message.id)
        spool._unsynced.append(submission)

        assert await accept(spool, []) == [submission.message]

        assert spool.bodies.path(submission.message.id).stat().st_ino != submission.identity[1]


class TestNotifications:
    async def test_a_notification_settles_its_debt(self, spool: Spool) -> None:
        (message,) = await accept(spool, [dropped(spool)])
        (delivery,) = await spool.queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)
        await spool.queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])
        (notice,) = await spool.queue.notices(10)
        assert await spool.read_original(notice.message_id, 7) == b"Subject"

        await spool.add_notification(a_message(id=notice.id, sender=None, notification=True), b"it failed")

        assert await spool.queue.notices(10) == []
        assert spool.bodies.path(notice.id).read_bytes() == b"it failed"
        assert isinstance(await spool.queue.show(message.id), HistoryRow)

    async def test_half_a_notification_is_no_orphan(self, tmp_path: Path) -> None:
        spool = await opened(tmp_path)
        await accept(spool, [dropped(spool)])
        (delivery,) = await spool.queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)
        await spool.queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])
        (notice,) = await spool.queue.notices(10)
        spool.bodies.write(notice.id, b"half of i")
        await spool.close()

        spool = await opened(tmp_path)

        assert not spool.bodies.path(notice.id).exists()
        assert await orphans_of(spool) == []
        assert await spool.queue.notices(10) == [notice]
        await spool.close()


class TestSweep:
    async def test_bodies_go_at_once_and_rows_after_their_time(self, spool: Spool) -> None:
        (message,) = await accept(spool, [dropped(spool)])
        await finish(spool)

        await spool.sweep(NOW)
        assert bodies_of(spool) == set()
        await spool.sweep(NOW + HISTORY - MINUTE)
        assert await spool.queue.show(message.id)
        await spool.sweep(NOW + HISTORY + MINUTE)
        assert await spool.queue.show(message.id) is None

    async def test_more_than_a_batch_goes_in_one_sweep(self, spool: Spool) -> None:
        await accept(spool, [dropped(spool) for _ in range(600)])
        await finish(spool)

        await spool.sweep(NOW)

        assert bodies_of(spool) == set()

    async def test_a_disk_that_does_not_allow_it_is_a_trouble_of_the_spool_and_it_is_tried_again(
        self, spool: Spool
    ) -> None:
        (message,) = await accept(spool, [dropped(spool)])
        await finish(spool)
        body = spool.bodies.path(message.id)
        body.unlink()
        body.mkdir()

        with pytest.raises(QueueError, match="Is a directory"):
            await spool.sweep(NOW)

        body.rmdir()
        body.touch()
        await spool.sweep(NOW)
        assert bodies_of(spool) == set()

    async def test_a_log_that_cannot_grow_any_more_is_begun_anew(self, spool: Spool) -> None:
        await spool.queue.sites()  # a second connection, whose presence keeps the log
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
        try:
            with pytest.raises(QueueError):  # noqa: PT012
                while True:
                    await spool.queue.add([a_message()])

            await spool.sweep(NOW)

            await spool.queue.add([a_message()])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    async def test_what_still_waits_keeps_its_body(self, spool: Spool) -> None:
        (message,) = await accept(spool, [dropped(spool)])

        await spool.sweep(NOW + HISTORY + HOUR)

        assert bodies_of(spool) == {message.id}


class TestOrphans:
    async def test_a_body_without_a_row_is_found_and_adopted(self, spool: Spool) -> None:
        submission = dropped(spool)
        assert spool.bodies.place(submission.path, submission.identity, submission.message.id)

        assert await orphans_of(spool) == [(submission.message.id, spool.bodies.path(submission.message.id))]
        await spool.adopt(submission.message)

        assert await orphans_of(spool) == []
        assert await spool.queue.known([submission.message.id])

    async def test_bodies_with_rows_or_history_are_none(self, spool: Spool) -> None:
        await accept(spool, [dropped(spool)])
        await finish(spool)
        await accept(spool, [dropped(spool)])

        assert await orphans_of(spool) == []
        assert len(bodies_of(spool)) == 2

    async def test_a_body_that_a_power_cut_brought_back_goes_again(self, spool: Spool) -> None:
        (message,) = await accept(spool, [dropped(spool)])
        await finish(spool)
        await spool.sweep(NOW)
        spool.bodies.write(message.id, b"back again")

        assert await orphans_of(spool) == []
        assert bodies_of(spool) == set()

    async def test_they_come_some_at_a_time(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("relayd.spool.spool.BATCH", 3)
        ids = {new_id(NOW) for _ in range(10)}
        for each in ids:
            spool.bodies.write(each, b"x")

        batches = [[message_id for message_id, _ in found] async for found in spool.orphans()]

        assert sorted(ids) == sorted(each for batch in batches for each in batch)
        assert len(batches) > 1

    async def test_a_body_that_is_being_accepted_is_none(self, spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
        sync, placed, go_on = spool.bodies.sync, threading.Event(), threading.Event()

        def slowly(message_ids: Sequence[str], sources: Iterable[Path]) -> None:
            placed.set()
            assert go_on.wait(30)
            sync(message_ids, sources)

        monkeypatch.setattr(spool.bodies, "sync", slowly)
        arriving = asyncio.ensure_future(spool.accept([dropped(spool)]))
        assert await asyncio.to_thread(placed.wait, 30)
        looking = asyncio.ensure_future(orphans_of(spool))
        await asyncio.wait([looking], timeout=0.2)
        go_on.set()
        await arriving

        assert await looking == []
        assert len(bodies_of(spool)) == 1

    async def test_a_notification_that_is_being_made_is_none(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await accept(spool, [dropped(spool)])
        (delivery,) = await spool.queue.claim(["one.example"], 1, NOW, until=NOW + HOUR)
        await spool.queue.settle([settled(delivery, Status.FAILED, notices={0: Action.FAILED})])
        (notice,) = await spool.queue.notices(1)
        add, written, go_on = spool.queue.add, asyncio.Event(), asyncio.Event()

        async def slowly(messages: Sequence[Message]) -> None:
            written.set()
            await go_on.wait()
            await add(messages)

        monkeypatch.setattr(spool.queue, "add", slowly)
        notification = a_message(id=notice.id, sender=None, notification=True)
        making = asyncio.ensure_future(spool.add_notification(notification, b"it failed"))
        await written.wait()

        before = await orphans_of(spool)
        go_on.set()
        await making

        assert before == await orphans_of(spool) == []
        assert spool.bodies.path(notice.id).read_bytes() == b"it failed"

    async def test_a_body_whose_row_could_not_be_written_is_none(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def full(messages: Sequence[Message]) -> None:
            raise QueueError("the disk is full")

        submission = dropped(spool)
        with monkeypatch.context() as patch:
            patch.setattr(spool.queue, "add", full)
            with pytest.raises(QueueError):
                await spool.accept([submission])

        assert await orphans_of(spool) == []
        assert bodies_of(spool) == {submission.message.id}

    async def test_what_cannot_be_read_as_a_message_is_set_aside_with_the_reason(self, spool: Spool) -> None:
        message_id = new_id(NOW)
        spool.bodies.write(message_id, b"x")

        place = await spool.reject(message_id, "It has no recipients.")

        assert place == spool.root / "rejected" / message_id
        assert place.read_bytes() == b"x"
        assert (spool.root / "rejected" / f"{message_id}.reason.txt").read_text() == "It has no recipients.\n"

    async def test_which_incoming_files_are_ours_already(self, spool: Spool) -> None:
        incoming = spool.root / "queue" / "incoming"
        (committed,) = await accept(spool, [dropped(spool)])
        placed = new_id(NOW)
        spool.bodies.write(placed, b"x")
        for message_id in (committed.id, placed, new_id(NOW)):
            (incoming / f"{message_id}.orig").write_bytes(b"x")

        assert await spool.incoming_known() == {committed.id}
        assert bodies_of(spool) == {committed.id}  # of the other the original is better: all of it is on the disk


class TestRepetitions:
    @pytest.mark.parametrize("make", [dropped, copied], ids=["moved", "copied"])
    async def test_what_repeats_a_message_is_gone_and_is_told_as_that(
        self, spool: Spool, make: Callable[[Spool], Submission]
    ) -> None:
        first, second = with_key(make(spool)), with_key(make(spool))
        (accepted,) = await spool.accept([first])

        (repeated,) = await spool.accept([second])

        assert (accepted.repeats, repeated.repeats) == ("", first.message.id)
        assert bodies_of(spool) == {first.message.id}
        assert not second.path.exists()
        assert second.original is None or not second.original.exists()
        assert await orphans_of(spool) == []

    async def test_two_of_one_batch_are_one_message(self, spool: Spool) -> None:
        first, other, second = with_key(dropped(spool)), dropped(spool), with_key(copied(spool))

        accepted = await spool.accept([first, other, second])

        assert {each.message.id: each.repeats for each in accepted}[first.message.id] in ("", second.message.id)
        assert sorted(bool(each.repeats) for each in accepted) == [False, False, True]
        assert bodies_of(spool) == {each.message.id for each in accepted if not each.repeats}

    async def test_while_the_first_is_not_durable_the_second_is_kept(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, second = with_key(dropped(spool)), with_key(copied(spool))
        add = spool.queue.add

        async def fails(messages: Sequence[Message]) -> dict[str, str]:
            raise QueueError("the disk is full")

        monkeypatch.setattr(spool.queue, "add", fails)
        with pytest.raises(QueueError):
            await spool.accept([first, second])
        assert second.original is not None
        assert second.original.exists()

        monkeypatch.setattr(spool.queue, "add", add)
        accepted = await spool.accept([])

        assert sorted(bool(each.repeats) for each in accepted) == [False, True]
        assert not second.original.exists()

    async def test_where_a_copy_cannot_be_removed_its_original_stays_for_the_next_start(
        self, spool: Spool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Our copy does not tell whose key it has: as an orphan it would be a message of its own."""
        first, second = with_key(copied(spool)), with_key(copied(spool))
        await spool.accept([first])

        def fails(message_ids: Sequence[str]) -> list[str]:
            raise OSError(errno.EIO, "no")

        monkeypatch.setattr(spool.bodies, "unlink", fails)
        (repeated,) = await spool.accept([second])
        monkeypatch.undo()

        assert repeated.repeats == first.message.id
        assert second.original is not None
        assert second.original.exists()
        assert second.message.id not in await spool.incoming_known()
        assert bodies_of(spool) == {first.message.id}

    async def test_an_orphan_that_repeats_is_not_adopted(self, spool: Spool) -> None:
        first = with_key(dropped(spool))
        await spool.accept([first])
        late = a_message(key=KEY)
        spool.bodies.write(late.id, b"x")

        assert await spool.adopt(late) == first.message.id
        assert bodies_of(spool) == {first.message.id}
        assert await spool.queue.show(late.id) is None

    async def test_a_key_is_forgotten_some_time_after_it_has_ceased_to_count(self, spool: Spool) -> None:
        await spool.accept([with_key(dropped(spool))])
        await spool.sweep(NOW + KEPT + HOUR)

        late = with_key(dropped(spool))
        (repeated,) = await spool.accept([late])  # it arrived in time, and a crash kept it since
        await spool.sweep(NOW + 2 * KEPT + HOUR)
        (accepted,) = await spool.accept([with_key(dropped(spool))])

        assert repeated.repeats
        assert not accepted.repeats
