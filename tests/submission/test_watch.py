"""Hearing of files at once: real inotify."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relayd.mail.events import Degraded, Restored
from relayd.submission import pickup
from tests.submission.support import SIMPLE, a_drop, watched


async def test_a_rename_wakes_and_is_taken_without_settling(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path, settle=60)) as drop:
        (tmp_path / "tmp" / "x").write_bytes(SIMPLE)
        (tmp_path / "tmp" / "x").rename(drop.new / "x")

        await asyncio.wait_for(drop.woken.wait(), 10)

        assert len(await drop.taken()) == 1


async def test_a_file_written_in_place_is_taken_when_its_writer_closes_it(tmp_path: Path) -> None:
    octets = SIMPLE + b"more\n" * 5

    def write_slowly() -> None:
        with open(tmp_path / "slow.eml", "wb", buffering=0) as file:
            for start in range(0, len(octets), 20):
                file.write(octets[start : start + 20])
                time.sleep(0.05)

    async with watched(a_drop(tmp_path, settle=60)) as drop:
        writer = threading.Thread(target=write_slowly)
        writer.start()
        [submission] = await drop.taken()
        writer.join()

        assert drop.body(submission) == octets


async def test_a_hard_link_into_new_wakes(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path)) as drop:
        (tmp_path / "tmp" / "x").write_bytes(SIMPLE)
        drop.woken.clear()
        os.link(tmp_path / "tmp" / "x", drop.new / "x")
        (tmp_path / "tmp" / "x").unlink()

        await asyncio.wait_for(drop.woken.wait(), 10)
        assert len(await drop.taken()) == 1


async def test_other_files_of_the_spool_do_not_wake(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path)) as drop:
        drop.woken.clear()
        (tmp_path / "queue.db").write_bytes(b"")
        (drop.new / ".hidden").write_bytes(b"")
        (tmp_path / "tmp" / "x").write_bytes(SIMPLE)
        (tmp_path / "tmp" / "x").rename(tmp_path / "marker.eml")
        await asyncio.wait_for(drop.woken.wait(), 10)

        assert [submission.file for submission in await drop.taken()] == ["marker.eml"]


async def test_a_directory_that_is_removed_and_made_again_is_watched_again(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path, settle=60)) as drop:
        for name in ("first", "second"):
            drop.new.rmdir()
            drop.woken.clear()
            await asyncio.sleep(0)
            drop.new.mkdir()
            await asyncio.wait_for(drop.woken.wait(), 10)
            (tmp_path / "tmp" / name).write_bytes(SIMPLE)
            (tmp_path / "tmp" / name).rename(drop.new / name)

            assert [submission.file for submission in await drop.taken()] == [name]


async def test_a_directory_moved_away_is_replaced_by_its_successor(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path, settle=60)) as drop:
        drop.new.rename(tmp_path / "old")
        drop.new.mkdir()
        (tmp_path / "tmp" / "x").write_bytes(SIMPLE)
        (tmp_path / "tmp" / "x").rename(drop.new / "x")

        assert [submission.file for submission in await drop.taken()] == ["x"]
        await asyncio.sleep(0)


async def test_a_watch_that_the_kernel_does_not_give_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P5: without a file descriptor to spare files are found by the scan, and at once again when there is one."""
    monkeypatch.setattr(pickup, "WATCH_AGAIN", 0.01)
    drop = a_drop(tmp_path)
    with no_file_descriptors():
        watching = asyncio.create_task(drop.pickup.watch(drop.woken.set))
        await asyncio.sleep(0.05)
    await asyncio.wait_for(drop.woken.wait(), 10)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)

    assert [(type(event), event.part) for event in drop.events if isinstance(event, Degraded | Restored)] == [
        (Degraded, "watch"),
        (Restored, "watch"),
    ]


@contextmanager
def no_file_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
