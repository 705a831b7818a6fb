"""Very many files at once: taken bit by bit, each once, while the loop goes on with its other work.

`make many` runs this with 200,000 files.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from relayd.submission.heard import Change
from relayd.submission.scan import is_candidate
from relayd.submission.watch import watch
from tests.submission.support import SIMPLE, Drop, a_drop, watched

MANY = os.environ.get("RELAYD_DROPPED_FILES")
COUNT = int(MANY or "5000")
QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")  # more events than these the kernel drops
BATCH = 500  # files, as the intake takes them
FIRST = 5.0  # seconds until the first of them is taken
STALL = 0.1 if MANY else 2.0  # seconds that the loop may stand still; beside other tests all of them are late

RENAMER = """
import os, sys
for name in os.listdir(sys.argv[1]):
    os.rename(f"{sys.argv[1]}/{name}", f"{sys.argv[2]}/{name}")
"""


@dataclass
class Taken:
    """What was taken: names, seconds to the first, how many calls it took, and how long the loop stood still."""

    files: list[str] = field(default_factory=list)
    first: float = 0.0
    calls: int = 0
    stall: float = 0.0


async def take_all(drop: Drop, names: set[str]) -> None:
    """Take as the intake does, and see that all are taken, once, in bounded pieces."""
    taken, began = Taken(), time.perf_counter()
    async with stalls(taken):
        while len(taken.files) < len(names):
            submissions = await drop.pickup.take(BATCH)
            taken.calls += 1
            if submissions:
                taken.first = taken.first or time.perf_counter() - began
                await asyncio.to_thread(_unlink, [each.path for each in submissions])
                taken.files += [each.file for each in submissions]
            elif not drop.pickup.waiting():
                await drop.pause()
    assert await drop.at_rest() == []
    assert set(taken.files) == names
    assert taken.first < FIRST
    assert taken.stall < STALL
    # A call looks at some 2,000 names at most: they were gone through about once, not once for each batch.
    assert taken.calls < 3 * len(names) / BATCH + 50


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


@asynccontextmanager
async def stalls(taken: Taken) -> AsyncIterator[None]:
    """Measure how long the loop stands still, but for the time in which other processes have the processors."""

    async def measure() -> None:
        before = time.perf_counter() - _waited()
        while True:
            await asyncio.sleep(0.005)
            now = time.perf_counter() - _waited()
            taken.stall, before = max(taken.stall, now - before), now

    measuring = asyncio.create_task(measure())
    try:
        yield
    finally:
        measuring.cancel()


def _waited() -> float:
    """Return the seconds that our threads have waited for a processor (proc(5), schedstat)."""
    waited = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            waited += int((task / "schedstat").read_text().split()[1])
    return waited / 1e9


def fill(directory: Path, count: int = COUNT) -> set[str]:
    names = {f"{number:07}" for number in range(count)}
    for name in names:
        (directory / name).write_bytes(SIMPLE)
    return names


@pytest.mark.timeout(900)
async def test_a_full_directory_is_taken_bit_by_bit(tmp_path: Path) -> None:
    drop = a_drop(tmp_path)
    names = fill(drop.new)

    await take_all(drop, names)


@pytest.mark.timeout(900)
async def test_files_dropped_all_at_once_while_we_watch_are_taken_bit_by_bit(tmp_path: Path) -> None:
    async with watched(a_drop(tmp_path)) as drop:
        names = fill(tmp_path / "tmp")
        renamer = subprocess.Popen([sys.executable, "-c", RENAMER, str(tmp_path / "tmp"), str(drop.new)])

        await take_all(drop, names)
        assert renamer.wait() == 0


@pytest.mark.timeout(900)
async def test_events_that_the_kernel_lost_cost_one_more_scan_and_no_file(tmp_path: Path) -> None:
    """More renames than its queue has room for, while the loop is not there to hear of them."""
    async with watched(a_drop(tmp_path)) as drop:
        names = fill(tmp_path / "tmp", max(COUNT, int(QUEUED.read_text()) + 100))
        for name in names:
            os.rename(tmp_path / "tmp" / name, drop.new / name)

        await take_all(drop, names)


async def test_what_was_heard_is_passed_on_a_little_at_a_time(tmp_path: Path) -> None:
    """Thousands of events wait; what else is to be done has its turn in between."""
    heard = 0

    class Counting:
        def changed(self, path: Path, change: Change) -> None:
            nonlocal heard
            heard += 1

        def doubt(self) -> None:
            begun.set()

    begun = asyncio.Event()
    watching = asyncio.create_task(watch({tmp_path: is_candidate}, Counting()))
    await begun.wait()
    for number in range(2000):
        (tmp_path / str(number)).touch()  # created, opened, closed: three events each
    most, before = 0, 0
    async with asyncio.timeout(30):
        while heard < 6000:
            await asyncio.sleep(0)
            most, before = max(most, heard - before), heard
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching

    assert most <= 300
