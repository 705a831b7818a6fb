"""Bodies without a row are adopted beside all other work, whatever is wrong with one of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from relayd import orphans
from relayd.health import Health
from relayd.mail.errors import QueueError
from relayd.mail.events import Accepted, Degraded, Event, FileRejected, Repeated, Restored, Trouble
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message, new_id
from relayd.orphans import Orphans
from relayd.spool.spool import Spool
from relayd.submission.pickup import Pickup
from relayd.submission.settings import SubmissionSettings
from tests.spool.test_spool import orphans_of
from tests.submission.support import NOW, SIMPLE
from tests.support.managed import APickup, World, managing, until


class Sweep:
    """Orphans of a real spool, read by a real pickup; and what was told of them."""

    def __init__(self, root: Path, spool: Spool) -> None:
        self.spool = spool
        self.events: list[Event] = []
        self.arrived: list[Message] = []
        self.over = 0
        settings = SubmissionSettings(hostname="relay.test", origin="relay.test", spool=root)
        self.orphans = Orphans(
            Pickup(settings, clock=lambda: NOW, events=self.events.append),
            spool,
            arrived=self.arrived.extend,
            health=Health(self.events.append),
            events=self.events.append,
            over=self._is_over,
            busy=lambda: False,
            monotonic=time.monotonic,
        )

    def _is_over(self) -> None:
        self.over += 1

    def body(self, content: bytes) -> str:
        message_id = new_id(NOW)
        self.spool.bodies.write(message_id, content)
        return message_id


@asynccontextmanager
async def sweeping(root: Path) -> AsyncIterator[Sweep]:
    spool = await Spool.open(root, now=NOW, history=timedelta(days=3), events=lambda event: None)
    try:
        yield Sweep(root, spool)
    finally:
        await spool.close()


async def test_each_is_adopted_under_its_id_and_told_of(tmp_path: Path) -> None:
    async with sweeping(tmp_path) as sweep:
        ids = sorted(sweep.body(SIMPLE) for _ in range(20))

        await sweep.orphans.adopt_all()

        assert not sweep.orphans.sweeping
        assert sweep.over == 1
        assert sorted(each.id for each in sweep.arrived) == ids
        assert sorted(each.message.id for each in sweep.events if isinstance(each, Accepted)) == ids
        assert await sweep.spool.queue.known(ids) == set(ids)
        assert await orphans_of(sweep.spool) == []


async def test_what_is_no_message_is_rejected_and_what_cannot_be_read_stays(tmp_path: Path) -> None:
    async with sweeping(tmp_path) as sweep:
        good, bad, sick = sweep.body(SIMPLE), sweep.body(b"nothing"), new_id(NOW)
        sweep.spool.bodies.path(sick).parent.mkdir(exist_ok=True)
        sweep.spool.bodies.path(sick).mkdir()

        await sweep.orphans.adopt_all()

        assert [each.id for each in sweep.arrived] == [good]
        assert [each.file for each in sweep.events if isinstance(each, FileRejected)] == [bad]
        assert [each.part for each in sweep.events if isinstance(each, Trouble)] == ["spool"]
        assert sweep.spool.bodies.path(sick).exists()


async def test_what_a_crash_left_of_a_repetition_is_told_and_goes(tmp_path: Path) -> None:
    """Whichever of the two was in the queue first; what its owner dropped was moved, so the body tells whose it was."""
    async with sweeping(tmp_path) as sweep:
        ids = {sweep.body(b"X-Relayd-Key: order 7\n" + SIMPLE) for _ in range(2)}

        await sweep.orphans.adopt_all()

        (adopted,) = sweep.arrived
        (repeated,) = [each for each in sweep.events if isinstance(each, Repeated)]
        assert repeated.id == adopted.id
        assert repeated.key == SubmissionKey(os.geteuid(), "order 7")
        assert {adopted.id, repeated.file} == ids
        assert not sweep.spool.bodies.exists(repeated.file)


async def test_a_body_that_has_gone_meanwhile_is_no_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sweeping(tmp_path) as sweep:
        gone = new_id(NOW)

        async def one_that_is_gone() -> AsyncIterator[list[tuple[str, Path]]]:
            yield [(gone, sweep.spool.bodies.path(gone))]

        monkeypatch.setattr(sweep.spool, "orphans", one_that_is_gone)

        await sweep.orphans.adopt_all()

        assert sweep.events == []


async def test_while_the_queue_takes_nothing_they_are_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "AGAIN", 0.01)
    async with sweeping(tmp_path) as sweep:
        ids = {sweep.body(SIMPLE) for _ in range(3)}
        sick = sweep.body(SIMPLE)
        sweep.spool.bodies.path(sick).unlink()
        sweep.spool.bodies.path(sick).mkdir()
        add, refusals = sweep.spool.queue.add, 3

        async def sometimes(messages: Sequence[Message]) -> dict[str, str]:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise QueueError("the disk is full")
            return await add(messages)

        monkeypatch.setattr(sweep.spool.queue, "add", sometimes)

        await sweep.orphans.adopt_all()

        assert {each.id for each in sweep.arrived} == ids
        kinds = [type(each) for each in sweep.events if not isinstance(each, Accepted)]
        assert kinds.count(Degraded) == kinds.count(Restored) == kinds.count(Trouble) == 1


async def test_who_relays_once_waits_until_all_bodies_were_seen() -> None:
    world = World()
    world.gate.set()
    world.stray = [[("m1", Path("m1"))], [], [("m2", Path("m2"))]]
    looked = asyncio.Event()

    class Slow(APickup):
        async def examine_body(self, path: Path, queue_id: str) -> Message | str:
            await looked.wait()
            return await super().examine_body(path, queue_id)

    async with managing(world, Slow()) as manager:
        once = asyncio.ensure_future(manager.run(once=True))
        await asyncio.wait([once], timeout=0.2)
        assert not once.done()
        looked.set()
        await until(once.done)

    assert {"m1", "m2"} <= set(world.adopted)


async def test_mail_does_not_wait_for_it() -> None:
    world = World()
    world.gate.set()
    world.waiting["one.test"] = 3
    world.stray = [[("m1", Path("m1"))]]
    never = asyncio.Event()

    class Stuck(APickup):
        async def examine_body(self, path: Path, queue_id: str) -> Message | str:
            await never.wait()
            raise AssertionError

    async with managing(world, Stuck()):
        await until(lambda: len(world.sent) == 3)
