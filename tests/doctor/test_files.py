"""What the doctor finds on the disk: directories, dropped files, bodies; on a real spool."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relayd.doctor.bodies import of_bodies
from relayd.doctor.directories import of_directories
from relayd.doctor.disk import room_of
from relayd.doctor.drop import of_drop
from relayd.doctor.finding import Finding
from relayd.doctor.running import Running
from relayd.mail.message import new_id
from relayd.spool.directories import make_directories
from relayd.spool.spool import Spool
from relayd.spool.sqlite import SqliteQueue
from tests.spool.mail import HOUR, NOW, a_submission
from tests.spool.test_spool import finish, opened

RUNS = Running(holder="17", owner="this")
STOPPED = Running()
LATER = NOW + HOUR


def kinds(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.what, each.severity.value) for each in findings]


# directories


@pytest.fixture
def made(tmp_path: Path) -> Path:
    make_directories(tmp_path / "spool")
    return tmp_path / "spool"


def test_a_spool_as_the_daemon_makes_it_is_well(made: Path) -> None:
    assert list(of_directories(made)) == []


def test_what_is_missing_or_no_directory_is_told(made: Path) -> None:
    (made / "new").rmdir()
    (made / "rejected").rmdir()
    (made / "rejected").write_text("")
    (made / "rejected").chmod(0o600)

    assert kinds(list(of_directories(made))) == [("directory", "warning"), ("directory", "error")]


def test_mail_that_others_can_read_is_told_and_who_may_send_is_good_to_know(made: Path) -> None:
    (made / "queue").chmod(0o755)
    (made / "queue.db").touch(0o640)
    (made / "new").chmod(0o777)

    found = list(of_directories(made))

    assert kinds(found) == [("mode", "warning"), ("mode", "warning"), ("mode", "information")]
    assert [each.advice for each in found[:2]] == [f"chmod 0700 {made}/queue", f"chmod 0600 {made}/queue.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_owner_is_an_error(made: Path) -> None:
    (made / "queue.db-wal").touch(0o600)
    os.chown(made / "queue.db-wal", 65534, 65534)
    (made / "queue" / "AB").mkdir(0o700)
    os.chown(made / "queue" / "AB", 12345, 12345)

    (found,) = of_directories(made)

    assert (found.what, found.severity.value) == ("owner", "error")
    assert found.detail.startswith("2 files belong to another user than root")
    assert found.detail.endswith(": queue.db-wal, queue/AB")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no other file system")
def test_a_queue_on_another_file_system_than_the_drop_directory_is_good_to_know(made: Path) -> None:
    elsewhere = Path(f"/dev/shm/relayd-{new_id(NOW)}")
    elsewhere.mkdir(0o700)
    try:
        (made / "queue" / "incoming").rmdir()
        (made / "queue").rmdir()
        (made / "queue").symlink_to(elsewhere)
        found = kinds(list(of_directories(made)))
    finally:
        elsewhere.rmdir()

    if os.stat("/dev/shm").st_dev != made.stat().st_dev:
        assert ("file-system", "information") in found


def test_room_is_what_the_system_says(made: Path) -> None:
    room = room_of(made)

    assert room.octets > 0
    assert room.inodes is None or room.inodes > 0


# dropped files


def test_what_was_dropped_just_now_is_no_matter(made: Path) -> None:
    (made / "new" / "x.eml").write_text("")

    assert list(of_drop(made, datetime.now(UTC), RUNS)) == []


@pytest.mark.parametrize(
    ("state", "found"), [(RUNS, ("dropped-file", "error")), (STOPPED, ("dropped-file", "information"))]
)
def test_what_stays_for_long_is_an_error_while_a_daemon_runs(
    made: Path, state: Running, found: tuple[str, str]
) -> None:
    (made / "new" / "x").write_text("")
    (made / "y.eml").write_text("")
    (made / "README").write_text("")

    (told,) = of_drop(made, datetime.now(UTC) + HOUR, state)

    assert (told.what, told.severity.value) == found
    assert told.detail.startswith("2 dropped files ")
    assert told.detail.endswith(": x, y.eml")


def test_what_is_no_file_or_linked_twice_is_told_of_as_such(made: Path) -> None:
    (made / "new" / "link").symlink_to("/etc/passwd")
    os.mkfifo(made / "new" / "pipe")
    (made / "new" / "one").write_text("")
    os.link(made / "new" / "one", made / "tmp" / "other")

    strange, linked = of_drop(made, datetime.now(UTC) + HOUR, RUNS)

    assert linked.detail == "1 dropped file has a second link, and is not taken: one"
    assert strange.detail == "2 dropped files are no regular file, and never taken: link, pipe"
    assert {linked.severity.value, strange.severity.value} == {"warning"}


def test_what_a_writer_seems_to_have_left_is_told_after_a_day_and_a_half(made: Path) -> None:
    for name in (".hidden", "x.tmp", "y.part", "z~"):
        (made / "new" / name).write_text("")

    assert list(of_drop(made, datetime.now(UTC) + HOUR, RUNS)) == []
    (told,) = of_drop(made, datetime.now(UTC) + 37 * HOUR, RUNS)
    assert (told.severity.value, told.detail.split(":")[0][:15]) == ("information", "4 dropped files")


def test_what_is_half_taken_in_or_was_rejected_is_told(made: Path) -> None:
    (made / "queue" / "incoming" / f"{new_id(NOW)}.orig").write_text("")
    (made / "rejected" / "x").write_text("")
    (made / "rejected" / "x.reason.txt").write_text("")

    assert kinds(list(of_drop(made, datetime.now(UTC) + HOUR, RUNS))) == [
        ("half-taken", "warning"),
        ("rejected", "information"),
    ]


def test_without_any_directory_nothing_is_said(tmp_path: Path) -> None:
    assert list(of_drop(tmp_path, datetime.now(UTC), STOPPED)) == []


# bodies


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = await opened(tmp_path / "spool")
    yield spool
    await spool.close()


async def found(spool: Spool, now: datetime = LATER, state: Running = RUNS) -> list[Finding]:
    assert isinstance(spool.queue, SqliteQueue)
    return [each async for each in of_bodies(spool.queue, spool.root, now, state)]


async def test_each_message_has_its_body_and_each_body_its_message(spool: Spool) -> None:
    await spool.accept([a_submission(spool.root / "new") for _ in range(5)])
    await finish(spool)
    await spool.accept([a_submission(spool.root / "new") for _ in range(5)])

    assert await found(spool) == []


async def test_a_body_that_is_gone_or_of_another_length_is_an_error(spool: Spool) -> None:
    gone, longer, _ = await spool.accept([a_submission(spool.root / "new") for _ in range(3)])
    spool.bodies.path(gone.message.id).unlink()
    with spool.bodies.path(longer.message.id).open("ab") as body:
        body.write(b"more")

    (told,) = await found(spool)

    assert (told.what, told.severity.value) == ("body", "error")
    assert {gone.message.id, longer.message.id} == set(told.detail.rpartition(": ")[2].split(", "))


async def test_a_body_without_a_message_is_told_after_a_while(spool: Spool) -> None:
    orphan = new_id(NOW)
    spool.bodies.write(orphan, b"x")
    half = spool.bodies.path(orphan).with_name(f".{orphan}")
    half.write_bytes(b"")

    assert await found(spool, NOW + timedelta(minutes=9)) == []
    assert kinds(await found(spool)) == [("orphan", "warning")]
    for state in (STOPPED, Running(holder="17", owner="this", adopting=True)):
        assert kinds(await found(spool, state=state)) == [("orphan", "information")]
    assert half.exists()  # it looks, and touches nothing


async def test_a_body_that_a_power_cut_brought_back_is_good_to_know(spool: Spool) -> None:
    (submission,) = await spool.accept([a_submission(spool.root / "new")])
    await finish(spool)
    await spool.sweep(NOW)
    spool.bodies.write(submission.message.id, b"back again")

    assert kinds(await found(spool)) == [("revived-body", "information")]


async def test_of_very_many_missing_bodies_some_are_named(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.doctor.bodies.MOST", 5)
    monkeypatch.setattr("relayd.doctor.bodies.BATCH", 2)
    accepted = await spool.accept([a_submission(spool.root / "new") for _ in range(20)])
    for each in accepted[:12]:
        spool.bodies.path(each.message.id).unlink()

    (told,) = await found(spool)

    assert told.detail.startswith("5 or more messages have no body")
