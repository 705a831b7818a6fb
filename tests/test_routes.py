"""From destinations to sites: look-ups are bounded and shared, and what they found is written down."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host, Site
from tests.support.managed import World, a_site, managing, until

SERVFAIL = Deferred(reason="SERVFAIL", status=EnhancedStatus(4, 4, 3))


async def test_where_mail_goes_is_written_down() -> None:
    shared = Site(key="mx.shared", hosts=((Host(name="mx.shared"),),))

    def route(destination: str) -> Site | Deferred | Failed:
        return SERVFAIL if destination == "broken.test" else shared

    world = World(waiting={"a.test": 1, "b.test": 1, "broken.test": 1}, route_to=route)
    world.gate.set()
    async with managing(world):
        await until(lambda: len(world.routes) == 3)

    assert world.routes == {"a.test": "mx.shared", "b.test": "mx.shared", "broken.test": "dns:broken.test"}


async def test_what_was_written_down_is_not_written_again() -> None:
    world = World(waiting={"a.test": 1})
    world.gate.set()
    async with managing(world):
        await until(lambda: world.routes)
        world.routes.clear()
        world.waiting["a.test"] = 1
        await until(lambda: len(world.sent) == 2)
        await asyncio.sleep(0.1)

    assert not world.routes


async def test_one_message_of_a_destination_that_cannot_be_looked_up_is_deferred_the_rest_waits() -> None:
    world = World(waiting={"broken.test": 250}, route_to=lambda destination: SERVFAIL)
    async with managing(world):
        await until(lambda: world.failed)
        for _ in range(10):
            await asyncio.sleep(0.01)

    assert len(world.settled) == 1
    assert world.waiting["broken.test"] == 249


async def test_look_ups_at_one_time_are_bounded_and_all_come_to_their_turn() -> None:
    running = most = 0

    class SlowRouter(World):
        async def route(self, destination: str) -> Site | Deferred | Failed:
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return a_site(destination)

    world = SlowRouter(waiting={f"d{number}.test": 1 for number in range(500)})
    world.gate.set()
    async with managing(world):
        await until(lambda: len(world.sent) == 500)

    assert most == 100


async def test_where_mail_went_is_written_down_at_the_end_too() -> None:
    world = World(waiting={"a.test": 1})
    world.gate.set()
    async with managing(world, interval=timedelta(hours=1)):
        await until(lambda: world.sent)
        assert not world.routes

    assert world.routes == {"a.test": "a.test"}


async def test_where_no_more_may_back_off_all_that_cannot_be_looked_up_waits_one_by_one() -> None:
    class Crowded(World):
        async def site_failed(self, *arguments: Any, **words: Any) -> None:  # type: ignore[override]
            self.failed.append(arguments[0])

    world = Crowded(waiting={"broken.test": 250}, route_to=lambda destination: SERVFAIL)
    async with managing(world):
        await until(lambda: len(world.settled) == 249)  # and the first by `site_failed`

    assert world.waiting["broken.test"] == 0
