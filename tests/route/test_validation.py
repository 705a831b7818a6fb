"""Whether DANE can be had, as time goes by and settings change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from relayd.mail.events import Event, Lifecycle, Warned
from relayd.route.resolver import DnsResolver
from relayd.route.settings import DnsSettings
from relayd.route.trust import Validation
from relayd.route.validation import AGAIN, SELDOM, SOON, DaneAvailability
from tests.support.dns import FaultyDns


class Ground:
    """A resolver at a real server, and all that was told."""

    def __init__(self, server: FaultyDns, *, wanted: bool = True) -> None:
        self.server = server
        self.events: list[Event] = []
        self.forgotten = 0
        settings = DnsSettings(nameservers=(server.address,), timeout=timedelta(seconds=0.3))
        self.resolver = DnsResolver(settings)
        self.dane = DaneAvailability(self.resolver, self.events.append, self.forget, wanted=wanted)

    def forget(self) -> None:
        self.forgotten += 1

    @property
    def warnings(self) -> list[str]:
        return [event.detail for event in self.events if isinstance(event, Warned) and event.about == "tls.dane"]

    async def knows_what_is_secure(self) -> bool:
        self.server.a("example.org", "192.0.2.1")
        self.server.sign("example.org")
        return bool(getattr(await self.resolver.alias("example.org"), "secure", None))


@pytest.fixture
async def server() -> AsyncIterator[FaultyDns]:
    async with FaultyDns() as server:
        yield server


@asynccontextmanager
async def watching(ground: Ground) -> AsyncIterator[None]:
    task = asyncio.create_task(ground.dane.watch())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_with_a_resolver_that_validates_it_is_on_and_nobody_is_told(server: FaultyDns) -> None:
    server.validates()
    ground = Ground(server)

    assert await ground.dane.look() == SELDOM

    assert await ground.dane.works()
    assert await ground.knows_what_is_secure()
    assert (ground.events, ground.forgotten) == ([], 1)


async def test_without_one_it_is_off_and_the_operator_is_told_once(server: FaultyDns) -> None:
    ground = Ground(server)

    assert [await ground.dane.look() for _ in range(3)] == [AGAIN] * 3

    assert not await ground.dane.works()
    assert not await ground.knows_what_is_secure()
    (warning,) = ground.warnings
    assert "DANE is off: 127.0.0.1 does not validate DNSSEC" in warning
    assert "tls.dane" in warning
    assert ground.forgotten == 0


async def test_one_that_begins_to_validate_is_used_and_one_that_ends_is_not(server: FaultyDns) -> None:
    ground = Ground(server)
    await ground.dane.look()
    server.validates()
    await ground.dane.look()
    assert await ground.dane.works()
    assert ground.events[-1] == Lifecycle(state="dane-on", detail="the resolver validates DNSSEC")

    server.stops_validating()
    await ground.dane.look()

    assert not await ground.dane.works()
    assert not await ground.knows_what_is_secure()
    assert len(ground.warnings) == 2
    assert ground.forgotten == 2


async def test_silence_is_off_at_first_and_asked_again_soon_and_changes_nothing_later(server: FaultyDns) -> None:
    ground = Ground(server)
    server.silent(".")
    waits = [await ground.dane.look() for _ in range(7)]
    assert waits == [SOON, 2 * SOON, 4 * SOON, 8 * SOON, 16 * SOON, AGAIN, AGAIN]
    assert not await ground.dane.works()
    assert len(ground.warnings) == 1

    server.remove(".")
    server.validates()
    await ground.dane.look()
    server.silent(".")
    await ground.dane.look()

    assert await ground.dane.works()
    assert await ground.knows_what_is_secure()


async def test_where_it_is_not_wanted_nobody_is_asked_and_nobody_told(server: FaultyDns) -> None:
    server.validates()
    ground = Ground(server, wanted=False)

    await ground.dane.look()

    assert not await ground.dane.works()
    assert (server.queries, ground.events) == ([], [])


async def test_who_asks_before_the_first_look_is_over_waits_for_it(server: FaultyDns) -> None:
    server.validates()
    server.delay(".", 0.1)
    ground = Ground(server)
    async with watching(ground):
        async with asyncio.timeout(5):
            assert await ground.dane.works()


@pytest.mark.parametrize(("before", "after"), [(True, False), (False, True)])
async def test_after_a_reload_it_is_looked_anew(server: FaultyDns, before: bool, after: bool) -> None:
    server.validates()
    ground = Ground(server, wanted=before)
    async with watching(ground), asyncio.timeout(5):
        assert await ground.dane.works() is before

        ground.dane.reload(wanted=after)

        assert await ground.dane.works() is after
        ground.dane.reload(wanted=before)
        assert await ground.dane.works() is before


async def test_a_reload_during_a_look_makes_its_answer_count_for_nothing(server: FaultyDns) -> None:
    """A look asks twice, with and without care."""
    server.flap(".", *[server.validates] * 2, *[server.stops_validating] * 2)
    ground = Ground(server)
    async with watching(ground), asyncio.timeout(5):
        while not server.queries:
            await asyncio.sleep(0)
        ground.dane.reload(wanted=True)

        assert not await ground.dane.works()
    assert len(server.queries) == 4


async def test_trouble_of_our_own_keeps_nobody_waiting() -> None:
    class Broken:
        async def validation(self) -> Validation:
            raise RuntimeError("a bug")

        def ask_for_security(self, wanted: bool) -> None:
            raise AssertionError(wanted)

    events: list[Event] = []
    dane = DaneAvailability(Broken(), events.append, lambda: None, wanted=True)

    await dane.look()

    assert not await dane.works()
    (warning,) = events
    assert "a bug" in str(warning)
