"""Killed at any instant: what was accepted is there, what was settled stays settled, nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relayd.mail.events import Event
from relayd.mail.message import new_id
from relayd.spool.queue import HistoryRow, Listed
from relayd.spool.spool import Spool
from tests.spool.mail import HOUR, MINUTE, NOW
from tests.spool.test_spool import HISTORY, bodies_of, orphans_of

DAEMON = """
import asyncio, sys
from datetime import timedelta
from pathlib import Path
from relayd.mail.recipient import Status
from tests.spool.mail import HOUR, NOW, a_submission, settled
from tests.spool.test_spool import opened

async def main(root):
    spool = await opened(root)
    while True:
        for count in (1, 3, 10):
            accepted = await spool.accept([a_submission(root / "new") for _ in range(count)])
            print(*("accepted " + each.message.id for each in accepted), sep="\\n", flush=True)
            deliveries = await spool.queue.claim(["one.example"], 3, NOW + HOUR, until=NOW + 2 * HOUR)
            for delivery in deliveries[:2]:
                print("ending " + delivery.id, flush=True)
                spool.notes.ending(delivery.lease, delivery.id)
            await spool.queue.settle([settled(each, Status.DELIVERED) for each in deliveries[:1]])
            print(*("settled " + each.id for each in deliveries[:1]), sep="\\n", flush=True)
            await spool.sweep(NOW + HOUR)

asyncio.run(main(Path(sys.argv[1])))
"""


def ignore(event: Event) -> None:
    pass


BEGUN = 8  # lines that a daemon says before its time begins: more is accepted by then than can be settled


def killed_after(root: Path, seconds: float) -> dict[str, list[str]]:
    """Run the daemon, kill it at some instant after its first messages, and return what it said it had done."""
    said: dict[str, list[str]] = {"accepted": [], "ending": [], "settled": []}
    with subprocess.Popen([sys.executable, "-c", DAEMON, str(root)], stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout
        first = [daemon.stdout.readline() for _ in range(BEGUN)]
        time.sleep(seconds)  # the instant of death is the stimulus, nothing is waited for
        os.kill(daemon.pid, signal.SIGKILL)
        for line in [*first, *daemon.stdout]:
            if line.endswith("\n") and " " in line:
                what, message_id = line.split()
                said[what].append(message_id)
    return said


@pytest.mark.parametrize("seed", range(6))
async def test_nothing_that_was_accepted_is_lost_and_only_what_may_have_left_is_marked(
    tmp_path: Path, seed: int
) -> None:
    root = tmp_path / "spool"
    said = killed_after(root, random.Random(seed).uniform(0.0, 0.2))

    spool = await Spool.open(root, now=NOW + MINUTE, history=HISTORY, events=ignore)
    orphans = {message_id for message_id, _ in await orphans_of(spool)}
    shown = {message_id: await spool.queue.show(message_id) for message_id in said["accepted"]}
    marked = {message_id for message_id, _ in spool.taken_over.marked}
    queued = {each.message.id async for each in spool.queue.messages()}

    assert said["accepted"]
    assert all(shown.values())
    assert all(isinstance(shown[message_id], HistoryRow) for message_id in said["settled"])
    assert marked <= set(said["ending"]) - set(said["settled"])
    assert queued | orphans <= bodies_of(spool)
    assert orphans.isdisjoint(queued)
    for listed in shown.values():
        if isinstance(listed, Listed):
            assert not listed.in_flight
    # Every file is in one place: dropped and not taken yet, or a body.
    dropped = {path.name.removeprefix("file-") for path in (root / "new").iterdir()}
    assert dropped.isdisjoint(bodies_of(spool))
    await spool.close()


async def test_an_accepted_message_can_be_claimed_after_the_crash(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    said = killed_after(root, 0.05)

    spool = await Spool.open(root, now=NOW + MINUTE, history=HISTORY, events=ignore)
    claimed = await spool.queue.claim(["one.example"], 100_000, NOW + HOUR, until=NOW + 2 * HOUR)

    history = [each for each in said["accepted"] if isinstance(await spool.queue.show(each), HistoryRow)]
    assert {each.id for each in claimed} >= set(said["accepted"]) - set(history)
    assert len({each.id for each in claimed}) == len(claimed)
    assert await spool.bodies.read(claimed[:100])
    await spool.close()


async def test_killed_between_body_and_row_the_body_is_an_orphan_under_its_id(tmp_path: Path) -> None:
    spool = await Spool.open(tmp_path, now=NOW, history=HISTORY, events=ignore)
    message_id = new_id(NOW)
    spool.bodies.write(message_id, b"Subject: x\r\n\r\n")
    await spool.close()

    spool = await Spool.open(tmp_path, now=NOW + MINUTE, history=HISTORY, events=ignore)

    assert await orphans_of(spool) == [(message_id, spool.bodies.path(message_id))]
    await spool.close()
