"""Hearing of files at once: real inotify."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

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
