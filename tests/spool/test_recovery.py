"""A lost or damaged queue is rebuilt from the bodies; whenever that is killed, it is only run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.mail.errors import QueueError, SpoolLocked
from relayd.mail.message import Message
from relayd.mail.recipient import Status
from relayd.spool.bodies import sync_file_system
from relayd.spool.recovery import Found, damage_of, recover
from relayd.spool.sqlite import SqliteQueue
from tests.spool.mail import MINUTE, NOW, a_message, a_submission
from tests.spool.test_spool import opened, orphans_of

LATER = NOW + MINUTE


async def examine(path: Path, message_id: str) -> Message | str:
    """Read bodies as the pickup would: here, one that says so is none."""
    content = path.read_bytes()
    if content.startswith(b"no message"):
        return "It has no recipients."
    if content.startswith(b"a bad sector"):
        raise OSError(5, "Input/output error")
    return a_message(id=message_id)


async def a_spool(root: Path, *contents: bytes) -> list[str]:
    """Fill a spool and close it; return the ids."""
    spool = await opened(root)
    accepted = await spool.accept([a_submission(root / "new", content) for content in contents])
    await spool.close()
    return [each.message.id for each in accepted]


async def queued(root: Path) -> dict[str, Message]:
    queue = await SqliteQueue.open(root / "queue.db", owner=None)
    try:
        return {listed.message.id: listed.message async for listed in queue.messages()}
    finally:
        await queue.close()


def lose(root: Path) -> None:
    (root / "queue.db").unlink()


def empty(root: Path) -> None:
    (root / "queue.db").write_bytes(b"")


def fill_with_garbage(root: Path) -> None:
    (root / "queue.db").write_bytes(b"not a database " * 1000)


def cut_off(root: Path) -> None:
    os.truncate(root / "queue.db", (root / "queue.db").stat().st_size // 2)


def scribble(root: Path) -> None:
    """Damage pages behind the first ones, so that it can still be opened."""
    with (root / "queue.db").open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xa5" * 4096 * 3)


DAMAGES = [lose, empty, fill_with_garbage, cut_off]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_daemon_does_not_start_and_names_the_remedy(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    await a_spool(tmp_path, b"one", b"two")
    damage(tmp_path)

    with pytest.raises(QueueError, match="relayd recover"):
        await opened(tmp_path)

    assert len(list((tmp_path / "queue").glob("??/*"))) == 2


@pytest.mark.parametrize("damage", [*DAMAGES, scribble])
async def test_every_body_is_queued_again_and_marked(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    ids = await a_spool(tmp_path, b"one", b"two", b"three")
    damage(tmp_path)

    found = await recover(tmp_path, examine, now=LATER)

    assert (found.found, found.queued, found.rejected, found.unreadable) == (Found.REBUILT, 3, 0, [])
    messages = await queued(tmp_path)
    assert set(messages) == set(ids)
    for message in messages.values():
        (recipient,) = message.envelope.recipients
        assert recipient.possible_duplicate
        assert recipient.status is Status.QUEUED
    spool = await opened(tmp_path, now=LATER)
    assert await orphans_of(spool) == []
    await spool.close()


@pytest.mark.parametrize("damage", [fill_with_garbage, cut_off, scribble])
async def test_a_damaged_queue_is_kept_aside(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    await a_spool(tmp_path, b"one")
    damage(tmp_path)
    (tmp_path / "queue.db-wal").write_bytes(b"")
    content = (tmp_path / "queue.db").read_bytes()

    found = await recover(tmp_path, examine, now=LATER)

    assert found.aside
    assert found.aside.name.startswith("queue.db.damaged-2026")
    assert found.aside.read_bytes() == content
    assert not (tmp_path / "queue.db-wal").exists()


async def test_a_sound_queue_is_left_as_it_is(tmp_path: Path) -> None:
    (message_id,) = await a_spool(tmp_path, b"one")
    before = (tmp_path / "queue.db").read_bytes()

    found = await recover(tmp_path, examine, now=LATER)

    assert found.found is Found.SOUND
    assert (tmp_path / "queue.db").read_bytes() == before
    assert not (await queued(tmp_path))[message_id].envelope.recipients[0].possible_duplicate


async def test_a_new_spool_has_nothing_to_recover_and_starts(tmp_path: Path) -> None:
    found = await recover(tmp_path, examine, now=LATER)

    assert found.found is Found.EMPTY
    await (await opened(tmp_path)).close()


async def test_a_queue_of_a_newer_relayd_is_no_damage(tmp_path: Path) -> None:
    spool = await opened(tmp_path)
    assert isinstance(spool.queue, SqliteQueue)
    await spool.queue._change(lambda db: db.execute("PRAGMA user_version = 99"))
    await spool.close()

    with pytest.raises(QueueError, match="newer"):
        await recover(tmp_path, examine, now=LATER)

    assert await _version(tmp_path / "queue.db") == 99


async def _version(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[60:64], "big")


async def test_a_running_daemon_is_not_disturbed(tmp_path: Path) -> None:
    spool = await opened(tmp_path)

    with pytest.raises(SpoolLocked):
        await recover(tmp_path, examine, now=LATER)

    await spool.close()


async def test_without_a_spool_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(QueueError, match="no spool"):
        await recover(tmp_path / "nowhere", examine, now=LATER)


async def test_what_is_no_message_is_set_aside_and_what_cannot_be_read_stays(tmp_path: Path) -> None:
    good, bad, sick = await a_spool(tmp_path, b"good", b"no message", b"a bad sector")
    lose(tmp_path)

    found = await recover(tmp_path, examine, now=LATER)

    assert (found.queued, found.rejected) == (1, 1)
    assert [message_id for message_id, _ in found.unreadable] == [sick]
    assert (tmp_path / "rejected" / bad).read_bytes() == b"no message"
    assert (tmp_path / "rejected" / f"{bad}.reason.txt").read_text() == "It has no recipients.\n"
    assert set(await queued(tmp_path)) == {good}
    assert (tmp_path / "queue" / sick[-2:] / sick).read_bytes() == b"a bad sector"


class Killed(BaseException):
    """As if by `kill -9`: nothing that catches errors catches it."""


def dying_at(number: int, steps: list[str]) -> Callable[[str], None]:
    def step(name: str) -> None:
        steps.append(name)
        if len(steps) == number:
            raise Killed

    return step


async def killed_at(root: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Recover, and die before file-changing step `number`; return the steps that were begun."""
    steps: list[str] = []
    step = dying_at(number, steps)
    rename, unlink, add, sync = Path.rename, Path.unlink, SqliteQueue.add, sync_file_system

    def renaming(self: Path, target: Path) -> Path:
        step(f"rename {self.name}")
        return rename(self, target)

    def unlinking(self: Path, missing_ok: bool = False) -> None:
        step(f"unlink {self.name}")
        unlink(self, missing_ok)

    async def adding(self: SqliteQueue, messages: list[Message]) -> None:
        step("add")
        await add(self, messages)

    def syncing(path: Path) -> None:
        step("sync")
        sync(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renaming)
        patch.setattr(Path, "unlink", unlinking)
        patch.setattr(SqliteQueue, "add", adding)
        patch.setattr("relayd.spool.recovery.sync_file_system", syncing)
        patch.setattr("relayd.spool.recovery.BATCH", 1)
        try:
            await recover(root, examine, now=LATER)
        except Killed:
            return steps
    return []


@pytest.mark.parametrize("damage", [lose, cut_off, fill_with_garbage])
async def test_killed_before_any_step_it_is_run_again_and_nothing_is_lost(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 40):
        root = tmp_path / f"{number}"
        *good, bad = await a_spool(root, b"one", b"two", b"no message")
        damage(root)
        (root / "queue.db-wal").write_bytes(b"a log that must not be replayed")
        died = await killed_at(root, number, monkeypatch)
        if not died:
            assert number > 10
            return

        again = await recover(root, examine, now=LATER + MINUTE)

        assert again.found is (Found.SOUND if died[-1] == "sync" and died.count("sync") == 2 else Found.REBUILT), died
        messages = await queued(root)
        assert set(messages) == set(good), died
        assert all(m.envelope.recipients[0].possible_duplicate for m in messages.values()), died
        assert (root / "rejected" / bad).exists(), died
        if damage is not lose:
            assert list(root.glob("queue.db.damaged-*")), died
        spool = await opened(root, now=LATER + 2 * MINUTE)
        assert {message_id for message_id, _ in await orphans_of(spool)} == set(), died
        await spool.close()
    raise AssertionError("it never came to its end")


async def test_a_queue_in_use_by_the_command_line_is_no_damage(tmp_path: Path) -> None:
    await a_spool(tmp_path, b"one")

    assert await damage_of(tmp_path / "queue.db") is None


async def test_the_log_of_a_lost_queue_is_not_replayed_into_a_new_one(tmp_path: Path) -> None:
    await (await opened(tmp_path)).close()
    lose(tmp_path)
    (tmp_path / "queue.db-wal").write_bytes(b"\x37\x7f\x06\x82" + b"stale" * 2000)

    spool = await opened(tmp_path, now=LATER)

    assert [listed async for listed in spool.queue.messages()] == []
    await spool.close()
