"""No destination harms another: slow sites, dead sites, sites that want less, seen from outside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

import pytest
from aiosmtpd.smtp import Envelope

from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message


def lines(daemon: Daemon, part: str) -> list[str]:
    return [line for line in daemon.log.splitlines() if part in line]


def drop_many(world: World, messages: int, domain: str) -> None:
    for number in range(messages):
        world.drop(a_message(f"r{number}@{domain}"))


def test_a_thousand_slow_domains_leave_room_for_a_live_one(world: World) -> None:
    """FAULTS.md H25, with few connections instead of many: the slow ones hold all that they can get."""
    release = asyncio.Event()
    slow = world.exchanger("mx.slow.test")

    async def take_long(envelope: Envelope, address: str) -> str:
        await release.wait()
        return "250 2.0.0 taken"

    slow.on_data = take_long
    live = world.exchanger("mx.live.test")
    world.domain("live.test", live)
    world.configure(relay={"max_connections": 8, "max_connections_per_site": 8})
    with world.relaying():
        world.send("first@live.test")
        wait_until(lambda: live.taken, "the first message of the live site")
        for number in range(50):
            exchanger = world.exchanger(f"mx.slow{number}.test")
            exchanger.on_data = take_long
            world.domain(f"slow{number}.test", exchanger)
            world.send(f"r@slow{number}.test")
        wait_until(lambda: held_up(world) >= 6, "slow sites that hold their share of the connections")

        began = time.monotonic()
        world.send("second@live.test")
        wait_until(lambda: len(live.taken) == 2, "the live site's next message")
        took = time.monotonic() - began
        world.run(_set(release))

    assert took < 3


def held_up(world: World) -> int:
    """How many messages are under way."""
    return sum(bool(message["in_flight"]) for message in world.queue())


async def _set(event: asyncio.Event) -> None:
    event.set()


def test_a_dead_site_costs_one_message_an_attempt_and_recovers_at_full_speed(world: World) -> None:
    dead = world.exchanger("mx.dead.test", alive=False)
    world.domain("dead.test", dead)
    world.exchanger("mx.other.test")  # gives the port
    world.configure(retry={"first": "2s", "max": "2s"}, relay={"max_connections_per_site": 20})
    drop_many(world, 300, "dead.test")
    with world.relaying() as daemon:
        wait_until(lambda: lines(daemon, "event=site-backs-off"), "the back-off")
        statuses = Counter(r["status"] for m in world.queue() for r in m["recipients"])
        replies = {r["reply"] for m in world.queue() for r in m["recipients"]}
        assert statuses["deferred"] <= 5
        assert statuses["queued"] >= 295
        assert len(replies) == 1  # what was never tried is listed with the words of its site
        assert "Connection refused" in replies.pop()

        world.revive(dead)
        wait_until(lambda: len(dead.taken) == 300, "all of its mail, at once")

    recipients = Counter(envelope.rcpt_tos[0] for envelope in dead.taken)
    assert len(recipients) == 300
    assert set(recipients.values()) == {1}
    probes = [line for line in lines(daemon, "status=deferred") if "dead.test" in line]
    assert len(probes) <= 10


def test_a_server_that_takes_few_connections_gets_few_and_nothing_is_put_off(world: World) -> None:
    picky = world.exchanger("mx.picky.test")
    world.domain("picky.test", picky)
    open_now: set[int] = set()
    most = 0

    async def count(envelope: Envelope, address: str) -> str:
        nonlocal most
        if len(open_now) >= 2:
            return "421 4.7.0 too many connections"
        open_now.add(id(envelope))
        most = max(most, len(open_now))
        await asyncio.sleep(0.005)
        open_now.discard(id(envelope))
        return "250 2.0.0 taken"

    picky.on_data = count
    drop_many(world, 200, "picky.test")
    world.configure()
    with world.relaying() as daemon:
        wait_until(lambda: len(picky.taken) == 200, "all of its mail")

    assert most <= 2
    assert not lines(daemon, "event=site-backs-off")


@pytest.mark.parametrize("name", ["limited.test", "mx.limited.test"])
def test_a_rate_of_a_site_table_is_kept(world: World, name: str) -> None:
    limited = world.exchanger("mx.limited.test")
    world.domain("limited.test", limited)
    free = world.exchanger("mx.free.test")
    world.domain("free.test", free)
    times: list[float] = []

    def note(envelope: Envelope, address: str) -> str:
        times.append(time.monotonic())
        return "250 2.0.0 taken"

    limited.on_data = note
    drop_many(world, 60, "limited.test")
    drop_many(world, 60, "free.test")
    site: list[dict[str, Any]] = [{"match": [name], "message_rate": "20/1s"}]
    world.configure(site=site)
    with world.relaying():
        wait_until(lambda: len(free.taken) == 60, "the mail of the site without a rate")
        assert len(limited.taken) < 60
        wait_until(lambda: len(limited.taken) == 60, "the mail of the other")

    # Sixty at twenty a second take two seconds from the first to the last; what is handed out in time may arrive late.
    assert times[-1] - times[0] > 1.5


def test_a_site_table_bounds_the_connections(world: World) -> None:
    bounded: Exchanger = world.exchanger("mx.bounded.test")
    world.domain("bounded.test", bounded)
    open_now = most = 0

    async def count(envelope: Envelope, address: str) -> str:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.02)
        open_now -= 1
        return "250 2.0.0 taken"

    bounded.on_data = count
    drop_many(world, 40, "bounded.test")
    world.configure(site=[{"match": ["*.bounded.test"], "max_connections": 2, "max_messages_per_connection": 5}])
    with world.relaying():
        wait_until(lambda: len(bounded.taken) == 40, "all of its mail")

    assert most == 2
    assert bounded.sessions >= 8
