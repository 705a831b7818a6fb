"""relayd's own Spool on the disk in memory, when the machine loses its power."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from relayd.mail.errors import QueueError
from relayd.spool.spool import Spool
from tests.simulation.disk import Disk
from tests.simulation.drops import MemoryPickup
from tests.simulation.ground import MemoryGround
from tests.simulation.sabotage import Calm
from tests.spool.mail import NOW

CONTENT = b"X-Sender: <ann@one.example>\r\nX-Receiver: <bob@two.example>\r\n\r\nbody\r\n"


class Worst(random.Random):
    """Nothing that was not synced survives."""

    def choice(self, seq: Sequence[Any]) -> Any:  # type: ignore[override]
        return seq[0]

    def random(self) -> float:
        return 0.0


class SyncFails(Calm):
    """The first sync of a body fails."""

    def __init__(self) -> None:
        self.failed = False

    def files(self, operation: str) -> None:
        if operation == "sync" and not self.failed:
            self.failed = True
            raise OSError(5, "Input/output error")


async def opened(disk: Disk, faults: Calm) -> tuple[Spool, MemoryPickup]:
    ground = MemoryGround(disk, new_notice_id=lambda: "unused", faults=faults)
    spool = await Spool.on(ground, owner="one", now=NOW, history=timedelta(days=3), events=lambda event: None)
    chance = random.Random(1)
    return spool, MemoryPickup(disk, clock=lambda: NOW, monotonic=lambda: 0.0, chance=chance, faults=faults)


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "another-owner"])
async def test_a_power_cut_does_not_bring_back_what_was_accepted(foreign: bool) -> None:
    disk = Disk()
    spool, pickup = await opened(disk, Calm())
    disk.drop("x", CONTENT, foreign=foreign)

    (accepted,) = await spool.accept(await pickup.take(10))
    disk.power_cut(Worst())

    assert list(disk.dropped) == []
    assert disk.files.read(f"/spool/queue/{accepted.message.id[-2:]}/{accepted.message.id}") == CONTENT


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "another-owner"])
async def test_nor_what_was_accepted_after_a_sync_had_failed(foreign: bool) -> None:
    disk = Disk()
    spool, pickup = await opened(disk, SyncFails())
    disk.drop("x", CONTENT, foreign=foreign)
    with pytest.raises(QueueError):
        await spool.accept(await pickup.take(10))

    (accepted,) = await spool.accept([])
    disk.power_cut(Worst())

    assert list(disk.dropped) == []
    assert disk.files.read(f"/spool/queue/{accepted.message.id[-2:]}/{accepted.message.id}") == CONTENT
