"""A site's turn, from claim to the end of the connection: what becomes of the mail, and what is learned of the site."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relayd.mail.delivery import Delivery
from relayd.mail.events import Trouble
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from tests.support.managed import ARelayer, Ended, World, managing, until

REFUSED = Deferred(scope=Scope.HOST, reason="connection refused", status=EnhancedStatus(4, 4, 1))


async def test_a_dead_site_costs_one_message_an_attempt_however_much_waits() -> None:
    world = World(waiting={"dead.test": 1000}, relay=lambda deliveries: Ended(undone=deliveries, failure=REFUSED))
    world.gate.set()
    async with managing(world, max_connections_per_site=1):
        await until(lambda: world.failed)
        for _ in range(10):
            await asyncio.sleep(0.01)

    assert len(world.settled) == 1
    assert world.waiting["dead.test"] == 999


async def test_a_connection_refused_while_others_are_served_makes_no_back_off() -> None:
    """A server that takes three connections at a time, and shows the door to the fourth."""
    inside: set[int] = set()
    most = 0

    class Limited(ARelayer):
        async def run(self, deliveries: Sequence[Delivery]) -> Ended:
            nonlocal most
            if len(inside) == 3:
                return Ended(undone=deliveries, failure=Deferred(scope=Scope.HOST, reason="421 too many connections"))
            inside.add(id(self))
            most = max(most, len(inside))
            await asyncio.sleep(0.005)
            inside.discard(id(self))
            world.sent += [delivery.id for delivery in deliveries]
            return Ended(settled=len(deliveries))

    world = World(waiting={"limited.test": 2000})
    async with managing(world, max_connections_per_site=5) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Limited(world)
        await until(lambda: len(world.sent) == 2000)

    assert most == 3
    assert not world.failed


async def test_a_relayer_without_a_sign_of_life_is_given_up_and_its_mail_tried_again() -> None:
    class Hung(ARelayer):
        async def run(self, deliveries: Sequence[Delivery]) -> Ended:
            self.stirred = time.monotonic() - 3600
            world.running += 1
            await asyncio.Event().wait()
            return Ended()

    world = World(waiting={"hung.test": 3})
    async with managing(world, watchdog=timedelta(milliseconds=200)) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Hung(world)
        await until(lambda: len(world.settled) == 3)

    assert {reason for _, reason in world.settled} == {"internal error: TimeoutError"}
    told = [event for event in world.events if isinstance(event, Trouble) and event.part == "watchdog"]
    assert len(told) == 1
    assert "hung.test: no sign of life for 36" in told[0].detail


async def test_a_relayer_that_stirs_is_left_alone() -> None:
    class Slow(ARelayer):
        async def run(self, deliveries: Sequence[Delivery]) -> Ended:
            for _ in range(20):
                self.stirred = time.monotonic()
                await asyncio.sleep(0.02)
            world.sent += [delivery.id for delivery in deliveries]
            return Ended(settled=len(deliveries))

    world = World(waiting={"slow.test": 3})
    async with managing(world, watchdog=timedelta(milliseconds=200)) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Slow(world)
        await until(lambda: len(world.sent) == 3)

    assert not [event for event in world.events if isinstance(event, Trouble) and event.part == "watchdog"]


async def test_stopping_while_a_relayer_hangs_does_not_wait_for_the_watchdog() -> None:
    class Hung(ARelayer):
        async def run(self, deliveries: Sequence[Delivery]) -> Ended:
            world.running += 1
            await asyncio.Event().wait()
            return Ended()

        def finish(self) -> None:
            pass

    world = World(waiting={"hung.test": 1})
    async with managing(world) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Hung(world)
        await until(lambda: world.running)
        hurry = asyncio.Event()
        hurry.set()
        async with asyncio.timeout(5):
            await manager.stop(hurry, timedelta(hours=1))

    assert not world.settled


RATE_LIMITED = Reply(451, "rate limited", EnhancedStatus(4, 7, 28))


async def test_a_site_that_throttles_and_takes_nothing_is_left_alone() -> None:
    def throttle(deliveries: Sequence[Delivery]) -> Ended:
        return Ended(undone=deliveries[1:], settled=1, throttled=RATE_LIMITED)

    world = World(waiting={"strict.test": 100}, relay=throttle)
    world.gate.set()
    async with managing(world, max_connections_per_site=1):
        await until(lambda: world.failed)
        for _ in range(10):
            await asyncio.sleep(0.01)

    assert world.failed == ["strict.test"]
    assert world.waiting["strict.test"] == 99


async def test_a_site_that_throttles_but_takes_mail_goes_on_with_fewer_connections() -> None:
    def throttle(deliveries: Sequence[Delivery]) -> Ended:
        return Ended(undone=deliveries[5:], settled=5, delivered=4, throttled=RATE_LIMITED)

    world = World(waiting={"strict.test": 100}, relay=throttle)
    world.gate.set()
    async with managing(world, max_connections_per_site=8) as manager:
        await until(lambda: world.waiting["strict.test"] == 0)
        allowed = manager._scheduler.state_of("strict.test").window.size

    assert not world.failed
    assert allowed == 4


async def test_a_run_that_settled_nothing_is_no_sign_that_a_site_works_again() -> None:
    failures: list[int] = []

    def relay(deliveries: Sequence[Delivery]) -> Ended:
        failures.append(manager._scheduler.failures("restored.test"))
        return Ended(undone=deliveries) if len(failures) == 1 else Ended(settled=len(deliveries))

    world = World(waiting={"restored.test": 1}, relay=relay)
    world.gate.set()
    async with managing(world, clock=lambda: datetime.now(UTC) + timedelta(hours=2)) as manager:
        await manager.restore()
        await until(lambda: world.sent)
        await until(lambda: not manager._scheduler.failures("restored.test"))

    assert failures == [3, 3]


async def test_where_no_more_sites_may_back_off_all_that_was_claimed_waits_one_by_one() -> None:
    class Crowded(World):
        async def site_failed(self, *arguments: Any, **words: Any) -> None:  # type: ignore[override]
            self.failed.append(arguments[0])

    world = Crowded(waiting={"down.test": 7}, relay=lambda deliveries: Ended(undone=deliveries, failure=REFUSED))
    world.gate.set()
    async with managing(world, max_connections_per_site=1):
        await until(lambda: len(world.settled) == 6)  # and the first by `site_failed`

    assert world.failed == ["down.test"]
    assert not world.given_back
