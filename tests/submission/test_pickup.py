"""The drop directory: real files, without events unless a test says so."""

from __future__ import annotations

import asyncio
import mailbox
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from relayd.mail.events import Degraded, Restored
from relayd.mail.message import new_id
from relayd.submission.taker import STUCK_PAUSE
from tests.submission.support import ID, NOW, SIMPLE, Drop, a_drop, watched


@pytest.fixture
def drop(tmp_path: Path) -> Drop:
    return a_drop(tmp_path / "spool")


async def test_a_file_renamed_into_new_is_taken_in_place(drop: Drop) -> None:
    source = drop.spool / "tmp" / "x"
    source.write_bytes(SIMPLE)
    source.rename(drop.new / "x")
    status = (drop.new / "x").stat()

    [submission] = await drop.pickup.take(10)

    assert submission.path == drop.new / "x"
    assert submission.identity == (status.st_dev, status.st_ino)
    assert (submission.original, submission.file) == (None, "x")
    assert str(submission.message.envelope.reverse_path) == "ann@example.org"
    assert (drop.new / "x").exists()


async def test_eml_files_of_the_spool_itself_are_taken_and_nothing_else_there(drop: Drop) -> None:
    for name in ("x.eml", "queue.db", "lock", ".y.eml", "z.eml.tmp"):
        (drop.spool / name).write_bytes(SIMPLE)

    assert [submission.file for submission in await drop.at_rest()] == ["x.eml"]
    assert drop.left() == []


async def test_names_of_unfinished_files_are_left_alone(drop: Drop) -> None:
    for name in (".hidden", "x.tmp", "x.part", "x~"):
        (drop.new / name).write_bytes(SIMPLE)

    assert await drop.at_rest() == []
    assert drop.events == []


async def test_a_maildir_writer_needs_nothing_else(drop: Drop) -> None:
    mailbox.Maildir(str(drop.spool)).add(SIMPLE)

    [submission] = await drop.at_rest()

    assert drop.body(submission) == SIMPLE


async def test_cp_with_an_old_time_and_mv_are_served(drop: Drop, tmp_path: Path) -> None:
    source = tmp_path / "message.eml"
    source.write_bytes(SIMPLE)
    os.utime(source, (1, 1))
    subprocess.run(["cp", "-p", source, drop.new / "copied"], check=True)
    subprocess.run(["mv", source, drop.spool / "moved.eml"], check=True)

    assert sorted(submission.file for submission in await drop.at_rest()) == ["copied", "moved.eml"]


async def test_a_writer_that_pauses_with_the_file_open_is_waited_for(drop: Drop) -> None:
    octets = SIMPLE + b"second half\n"
    with open(drop.new / "slow", "wb", buffering=0) as file:
        file.write(octets[:50])
        until = time.monotonic() + 1.2  # four times settle_time
        while time.monotonic() < until:
            assert await drop.take_once() == []
            assert drop.pickup.waiting()
            await drop.pause()
        file.write(octets[50:])

    [submission] = await drop.at_rest()

    assert drop.body(submission) == octets


async def test_a_limit_bounds_a_call_and_the_rest_comes_later(drop: Drop) -> None:
    for number in range(7):
        (drop.new / str(number)).write_bytes(SIMPLE)

    counts = [len(await drop.take_once(3)) for _ in range(3)]

    assert counts == [3, 3, 1]
    assert len(set(os.listdir(drop.spool / "queue"))) == 8  # and `incoming`


async def test_the_same_content_twice_is_two_messages(drop: Drop) -> None:
    (drop.new / "a").write_bytes(SIMPLE)
    shutil.copy(drop.new / "a", drop.new / "b")

    assert len({submission.message.id for submission in await drop.at_rest()}) == 2


@pytest.mark.parametrize("name", [b"a\nb", b"-rf", b"\xff\xfe", b"x" * 255, b"$(reboot)", b"caf\xc3\xa9"])
async def test_every_name_is_taken_and_rejected_alike(drop: Drop, name: bytes) -> None:
    path = os.path.join(os.fsencode(drop.new), name)
    for octets in (SIMPLE, b""):
        with open(path, "wb") as file:
            file.write(octets)
        await drop.at_rest()

    assert not os.path.lexists(path)
    names = os.listdir(os.fsencode(drop.rejected))
    assert len(names) == 2
    assert all(name[:200] in rejected for rejected in names)
    assert drop.refused()[0].file == os.fsdecode(name)


async def test_a_rejected_file_lies_beside_one_sentence(drop: Drop) -> None:
    (drop.new / "x.eml").write_bytes(b"Subject: nobody\n\n")

    assert await drop.at_rest() == []

    assert (drop.rejected / "x.eml").read_bytes() == b"Subject: nobody\n\n"
    assert (drop.rejected / "x.eml.reason.txt").read_text() == "there is no sender; add X-Sender, Sender or From.\n"
    assert [event.reason for event in drop.refused()] == ["there is no sender; add X-Sender, Sender or From."]


async def test_a_second_rejected_file_of_a_name_does_not_replace_the_first(drop: Drop) -> None:
    for octets in (b"first", b"second"):
        (drop.new / "x").write_bytes(octets)
        await drop.at_rest()

    files = [path for path in drop.rejected.iterdir() if not path.name.endswith(".reason.txt")]
    assert sorted(path.read_bytes() for path in files) == [b"first", b"second"]
    assert len(list(drop.rejected.iterdir())) == 4


async def test_a_file_too_large_is_rejected_before_it_is_read(drop: Drop) -> None:
    with open(drop.new / "sparse", "wb") as file:
        file.truncate(10 * 1024**3)
    started = time.monotonic()

    await drop.at_rest()

    assert time.monotonic() - started < 2
    assert "has 10737418240 octets and the limit is 1048576" in drop.refused()[0].reason


async def test_what_is_no_regular_file_is_never_opened_and_told_of_once(drop: Drop) -> None:
    (drop.new / "to-shadow").symlink_to("/etc/shadow")
    (drop.new / "to-itself").symlink_to("to-itself")
    (drop.new / "dangling").symlink_to("nothing")
    (drop.spool / "directory.eml").mkdir()
    os.mkfifo(drop.new / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(drop.new / "socket"))
        for _ in range(3):
            assert await drop.take_once() == []
    (drop.spool / "directory.eml" / "changes-its-ctime").touch()
    await drop.take_once()

    names = ["dangling", "directory.eml", "fifo", "socket", "to-itself", "to-shadow"]
    assert sorted(event.file for event in drop.left()) == names
    assert sorted(event.file for event in drop.pickup.left) == names
    assert not drop.pickup.waiting()


async def test_what_was_left_and_is_gone_is_forgotten(drop: Drop) -> None:
    os.mkfifo(drop.new / "fifo")
    await drop.take_once()
    (drop.new / "fifo").unlink()

    await drop.take_once()

    assert drop.pickup.left == ()


async def test_a_hard_link_to_another_place_stays(drop: Drop, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(SIMPLE)
    os.link(tmp_path / "elsewhere", drop.new / "x")

    assert await drop.at_rest() == []
    assert await drop.at_rest() == []

    assert [event.reason for event in drop.left()] == ["it has 2 links; copy it, and drop the copy"]
    (tmp_path / "elsewhere").unlink()
    assert len(await drop.at_rest()) == 1


async def test_the_link_that_a_maildir_writer_left_in_tmp_is_removed(drop: Drop) -> None:
    (drop.spool / "tmp" / "its.name").write_bytes(SIMPLE)
    os.link(drop.spool / "tmp" / "its.name", drop.new / "another.name")

    [submission] = await drop.at_rest()

    assert submission.file == "another.name"
    assert os.listdir(drop.spool / "tmp") == []


async def test_files_that_vanish_are_ignored(drop: Drop) -> None:
    stop = asyncio.Event()

    async def come_and_go() -> None:
        while not stop.is_set():
            path = drop.new / "x"
            path.write_bytes(SIMPLE)
            await asyncio.sleep(0)
            path.unlink(missing_ok=True)

    task = asyncio.create_task(come_and_go())
    for _ in range(100):
        await drop.pickup.take(10)
    stop.set()
    await task

    assert [event for event in drop.events if "x" not in str(event)] == []
    assert drop.left() == []


async def test_a_missing_drop_directory_is_told_of_once_and_heals(drop: Drop) -> None:
    drop.new.rmdir()
    (drop.spool / "x.eml").write_bytes(SIMPLE)

    assert len(await drop.at_rest()) == 1
    await drop.at_rest()
    drop.new.mkdir()
    (drop.new / "y").write_bytes(SIMPLE)
    assert len(await drop.at_rest()) == 1

    assert [type(event) for event in drop.events] == [Degraded, Restored]


async def test_what_is_given_back_is_taken_again(drop: Drop) -> None:
    (drop.new / "x").write_bytes(SIMPLE)
    [first] = await drop.pickup.take(10)

    await drop.pickup.give_back([first])
    [second] = await drop.pickup.take(10)

    assert second.identity == first.identity
    assert second.message.id != first.message.id
    assert drop.left() == []


async def test_what_cannot_be_moved_rests_is_told_of_once_and_does_not_keep_the_daemon_waiting(tmp_path: Path) -> None:
    now = 100.0
    drop = a_drop(tmp_path, monotonic=lambda: now)
    (drop.new / "x").write_bytes(SIMPLE)
    for _ in range(2):
        submissions = await drop.pickup.take(10)
        assert len(submissions) == 1
        await drop.pickup.give_back(submissions, reason="it cannot be moved into the queue")
        assert await drop.pickup.take(10) == []
        assert not drop.pickup.waiting()
        now += STUCK_PAUSE

    assert [event.reason for event in drop.left()] == ["it cannot be moved into the queue"]
    [submission] = await drop.pickup.take(10)
    await drop.pickup.give_back([submission], reason="it cannot be moved into the queue")
    (drop.new / "x").chmod(0o600)
    assert len(await drop.pickup.take(10)) == 1


async def test_a_body_that_is_ours_is_read_like_a_dropped_file(drop: Drop, tmp_path: Path) -> None:
    (drop.new / "x").write_bytes(SIMPLE)
    [submission] = await drop.take_once()
    body = drop.spool / "queue" / submission.message.id

    assert await drop.pickup.examine_body(body, submission.message.id) == submission.message
    (tmp_path / "junk").write_bytes(b"junk")
    assert await drop.pickup.examine_body(tmp_path / "junk", ID) == "there is no sender; add X-Sender, Sender or From."
    with pytest.raises(FileNotFoundError):
        await drop.pickup.examine_body(tmp_path / "none", ID)


async def test_what_a_crash_left_of_claimed_files_is_put_right(drop: Drop) -> None:
    claimed, committed = (new_id(NOW, random=number) for number in range(2))
    incoming = drop.spool / "queue" / "incoming"
    incoming.mkdir()
    for name in (f"{claimed}.orig", claimed, f"{committed}.orig", "README"):
        (incoming / name).write_bytes(SIMPLE)

    assert await drop.pickup.restore_incoming(lambda queue_id: queue_id == committed) == 1

    assert sorted(os.listdir(incoming)) == ["README"]
    assert sorted(os.listdir(drop.new)) == [claimed]
    assert len(await drop.at_rest()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")
async def test_trusted_producers_files_are_moved_whoever_owns_them(tmp_path: Path) -> None:
    drop = a_drop(tmp_path, trust=True)
    (drop.new / "x").write_bytes(SIMPLE)
    os.chown(drop.new / "x", 1, 1)

    [submission] = await drop.pickup.take(10)

    assert (submission.path, submission.original) == (drop.new / "x", None)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")
async def test_a_copy_does_not_follow_what_its_producer_does_later(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path)) as drop:
        with open(tmp_path / "tmp" / "x", "wb", buffering=0) as file:
            file.write(SIMPLE)
            os.chown(file.fileno(), 1, 1)
            (tmp_path / "tmp" / "x").rename(drop.new / "x")
            [submission] = await drop.taken()
            file.write(b"an afterthought\n")

        assert drop.body(submission) == SIMPLE


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files to other users")
async def test_a_foreign_file_that_is_given_back_goes_to_new_without_waking(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path)) as drop:
        (tmp_path / "tmp" / "x").write_bytes(SIMPLE)
        os.chown(tmp_path / "tmp" / "x", 1, 1)
        (tmp_path / "tmp" / "x").rename(drop.new / "x")
        await drop.woken.wait()
        [first] = await drop.pickup.take(10)
        drop.woken.clear()

        await drop.pickup.give_back([first])
        (drop.new / "marker").write_bytes(SIMPLE)
        await drop.woken.wait()

        assert sorted(os.listdir(drop.new)) == sorted([first.message.id, "marker"])
        assert os.listdir(drop.spool / "queue" / "incoming") == []
        assert len(await drop.taken(2)) == 2


async def test_a_cancelled_call_leaves_everything_to_be_taken_again(drop: Drop) -> None:
    for number in range(200):
        (drop.new / str(number)).write_bytes(SIMPLE)
    (drop.new / "junk").write_bytes(b"junk")
    task = asyncio.create_task(drop.pickup.take(1000))
    await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert len(await drop.at_rest()) == 200
    assert len(drop.refused()) == 1


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A directory on another file system than the spool's."""
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def a_drop_elsewhere(tmp_path: Path, elsewhere: Path, *, limit: int = 1024 * 1024) -> Drop:
    drop = a_drop(tmp_path / "spool", limit=limit)
    drop.new.rmdir()
    drop.new.symlink_to(elsewhere)
    return drop


async def test_a_file_on_another_file_system_than_the_queue_is_copied(tmp_path: Path, elsewhere: Path) -> None:
    """F12: what cannot be renamed is claimed where it is, copied, and removed when the copy is a message."""
    drop = a_drop_elsewhere(tmp_path, elsewhere)
    (elsewhere / "x").write_bytes(SIMPLE)
    (elsewhere / "junk").write_bytes(b"junk\n")

    (submission,) = await drop.pickup.take(10)

    assert os.listdir(elsewhere) == [f".{submission.message.id}.orig"]
    assert submission.original == drop.new / f".{submission.message.id}.orig"
    assert submission.path.read_bytes() == SIMPLE
    assert submission.path.stat().st_mode & 0o777 == 0o600
    assert (drop.rejected / "junk").read_bytes() == b"junk\n"
    assert drop.left() == []
    await drop.pickup.give_back([submission], reason="it cannot be moved")
    assert os.listdir(elsewhere) == [submission.message.id]
    assert list((drop.spool / "queue" / "incoming").iterdir()) == []


async def test_what_is_too_large_on_another_file_system_stays(tmp_path: Path, elsewhere: Path) -> None:
    """F12: to move it to `rejected/` would be to copy it."""
    drop = a_drop_elsewhere(tmp_path, elsewhere, limit=100)
    (elsewhere / "x").write_bytes(SIMPLE + b"x" * 100)

    assert [await drop.at_rest() for _ in range(3)] == [[], [], []]

    assert os.listdir(elsewhere) == ["x"]
    (left,) = drop.left()
    assert left.reason.startswith(f"the file has {len(SIMPLE) + 100} octets and the limit is 100")


async def test_what_a_crash_left_claimed_on_another_file_system_is_put_right(tmp_path: Path, elsewhere: Path) -> None:
    """F12: what is a message already is removed, the rest is a dropped file again."""
    drop = a_drop_elsewhere(tmp_path, elsewhere)
    known, lost = new_id(NOW), new_id(NOW)
    (drop.spool / "queue" / "incoming").mkdir()
    for name in (known, lost):
        (elsewhere / f".{name}.orig").write_bytes(SIMPLE)
        (drop.spool / f".{name}.orig").write_bytes(SIMPLE)

    assert await drop.pickup.restore_incoming({known}.__contains__) == 2

    assert os.listdir(elsewhere) == [lost]
    assert sorted(path.name for path in drop.spool.glob("*.eml")) == [f"{lost}.eml"]
    assert not list(drop.spool.glob(".*.orig"))


async def test_a_full_system_pauses_the_pickup_and_loses_nothing(tmp_path: Path) -> None:
    now = 100.0
    drop = a_drop(tmp_path, monotonic=lambda: now)
    await drop.pickup.take(10)  # starts the thread
    (drop.new / "x").write_bytes(SIMPLE)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, limits[1]))
    try:
        assert await drop.pickup.take(10) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert [type(event) for event in drop.events] == [Degraded]
    assert drop.pickup.degraded
    assert not drop.pickup.waiting()
    assert drop.pickup.next_look() == now + 1
    assert await drop.pickup.take(10) == []
    now += 1
    assert len(await drop.take_once()) == 1
    assert [type(event) for event in drop.events] == [Degraded, Restored]
