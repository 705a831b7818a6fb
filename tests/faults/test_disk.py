"""P3, F12: a disk that is full, has no inode left, or is read-only, at each stage of a message, and is well again.

What is claimed each time: nothing lost and nothing twice, no storm (processor time and lines while it lasts), the
trouble is seen in the log, by `relayd doctor` and in the service manager's status, and it ends by itself.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.support.disks import SmallDisk, calm, read_only, root_only, seen_degraded, small_disk, troubles
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message

pytestmark = root_only

Fault = Callable[[SmallDisk], AbstractContextManager[None]]
NOBODY = 65534
MANY = 40


@contextmanager
def full(disk: SmallDisk) -> Iterator[None]:
    disk.fill()
    yield
    disk.free()


@contextmanager
def without_inodes(disk: SmallDisk) -> Iterator[None]:
    disk.fill_inodes()
    yield
    disk.free_inodes()


@contextmanager
def unwritable(disk: SmallDisk) -> Iterator[None]:
    with read_only(disk.path):
        yield


FAULTS = pytest.mark.parametrize("fault", [full, without_inodes, unwritable])


@pytest.fixture
def disk(world: World) -> Iterator[SmallDisk]:
    with small_disk(world.spool, "size=32m,nr_inodes=4096") as disk:
        yield disk


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """What happens in the body happens to the daemon at one instant."""
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


def taken(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


def each_once(mx: Exchanger, names: list[str]) -> bool:
    return taken(mx) == Counter(f"{name}@example.test" for name in names)


@FAULTS
@pytest.mark.parametrize("owner", [0, NOBODY], ids=["own", "others"])
def test_files_that_arrive_stay_until_the_disk_is_well(
    world: World, mx: Exchanger, disk: SmallDisk, fault: Fault, owner: int
) -> None:
    """P3: own files are moved, those of others are copied, which needs room before anything is committed."""
    names = [f"r{number}" for number in range(MANY)]
    with world.relaying() as daemon:
        for name in names:
            (world.spool / "tmp" / name).write_bytes(a_message(f"{name}@example.test"))
            os.chown(world.spool / "tmp" / name, owner, owner)
        with stopped(daemon):
            for name in names:
                (world.spool / "tmp" / name).rename(world.spool / "new" / name)
            trouble = fault(disk)
            trouble.__enter__()
        with calm(daemon):
            daemon.logged("event=degraded")
        assert len(troubles(daemon)) <= 4
        part = daemon.logged(r"event=degraded part=(\w+)")[1]
        seen_degraded(world, daemon, part)
        trouble.__exit__(None, None, None)
        daemon.logged(f"event=restored part={part}")
        wait_until(lambda: len(mx.taken) >= MANY, "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert each_once(mx, names)
    assert not list((world.spool / "queue" / "incoming").iterdir())
    assert "dup=possible" not in daemon.log
