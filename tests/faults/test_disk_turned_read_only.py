"""P3: a file system that the kernel turns read-only under the daemon, as it does after an error of the disk.

What was written and not synced is gone then, as after a power cut, but the machine goes on.  It is repaired as an
operator does it: stop, unmount, check, mount, start.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator

import pytest
from aiosmtpd.smtp import Envelope

from tests.support.disks import JournaledDisk, calm, journaled_disk, root_only, seen_degraded
from tests.support.mta import free_port
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, with_and_without_workers

pytestmark = root_only

NAMES = [f"r{number}@example.test" for number in range(40)]
WATCHED = {"WATCHDOG_USEC": "400000"}  # so that the status is told often


@pytest.fixture
def disk(world: World) -> Iterator[JournaledDisk]:
    world.http_port = free_port()
    with journaled_disk(world.spool, world.directory / "disk.img") as disk:
        yield disk


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


@with_and_without_workers
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_what_could_not_be_recorded_comes_twice_and_is_marked(
    world: World, mx: Exchanger, disk: JournaledDisk, end: signal.Signals
) -> None:
    """What is delivered while the disk takes nothing is not known to the next start, and its notes are old."""
    reached: list[str] = []
    opened: list[bool] = []

    async def late(envelope: Envelope, address: str) -> str:
        reached.append(address)
        while not opened:
            await asyncio.sleep(0.01)
        return "250 2.0.0 taken"

    mx.on_data = late
    world.configure(relay={"stop_grace": "2s"})
    with world.daemon(environment=WATCHED) as daemon:
        daemon.ready()
        for name in NAMES:
            world.send(name)
        wait_until(lambda: reached and daemon.log.count("event=accepted") == len(NAMES), "the queue")
        os.sync()
        disk.fail()
        with calm(daemon):
            opened.append(True)
            daemon.logged("event=degraded part=queue")
        seen_degraded(world, daemon, "queue")
        daemon.signal(end)
        daemon.wait()
        assert "Traceback" not in daemon.log
    before = recipients(mx)
    disk.repair()
    with world.relaying() as daemon:
        wait_until(lambda: set(recipients(mx)) == set(NAMES), "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")
        marked = set(re.findall(r"event=possible-duplicate q=\S+ r=(\S+)", daemon.log))

    twice = {name for name, copies in recipients(mx).items() if copies > 1}
    assert len(twice) > 1, before
    assert max(recipients(mx).values()) == 2
    assert twice <= marked
