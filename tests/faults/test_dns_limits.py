"""FAULTS.md, "Hostile DNS": answers that are too many, too often or too long good, and a network that loses some
(D5, D10, D12, D13)."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from functools import partial

from tests.faults.kit import bounces, outcome, unwell
from tests.faults.zones import exchanged, hosts_missing, hosts_trouble
from tests.support.process import wait_until
from tests.support.smtp import Answer, ScriptedServer, serving
from tests.support.world import World

BUSY = {"greeting": Answer("421 4.3.2 busy", then="close")}


MANY = {
    "many-a.test": (1000, 20),
    "most-a.test": (4000, 40),
    "too-many-a.test": (10_000, 80),
    "no-tcp.test": (1000, 200),
}


def test_of_very_many_answers_a_few_are_tried_each_once(world: World) -> None:
    """D10: a thousand exchangers, four thousand addresses by TCP, more than fit; then a server without TCP."""
    dns = world.dns
    for name, (count, block) in MANY.items():
        dns.mx(name, (10, f"mx.{name}"))
        dns.a(f"mx.{name}", *(f"127.7.{block + n // 250}.{1 + n % 250}" for n in range(count)))
    dns.mx("many-mx.test", *((n, f"mx{n}.many-mx.test") for n in range(1000)))
    for n in range(1000):
        dns.a(f"mx{n}.many-mx.test", f"127.7.{n // 250}.{1 + n % 250}")
    with serving(world.run, ScriptedServer(BUSY, host="0.0.0.0")) as server:
        world.port = server.port
        world.configure(retry={"first": "1h", "max": "1h"}, dns={"timeout": "20s"})
        with world.relaying() as daemon:
            began = time.monotonic()
            names = ["many-mx.test", *MANY][:-1]
            for name in names:
                world.send(f"bob@{name}")
            wait_until(lambda: all(outcome(daemon, name) for name in names), "every outcome")
            world.run(dns.refuse_tcp())
            world.send("bob@no-tcp.test")
            wait_until(lambda: outcome(daemon, "no-tcp.test"), "the last outcome")
            assert time.monotonic() - began < 60
            assert not unwell(daemon)
        found = {name: outcome(daemon, name) for name in ("many-mx.test", *MANY)}
        tried = Counter(connection.local for connection in server.connections)

    assert found == {
        "many-mx.test": "deferred 4.3.2",
        "many-a.test": "deferred 4.3.2",
        "most-a.test": "deferred 4.3.2",
        "too-many-a.test": "deferred 4.4.3",
        "no-tcp.test": "deferred 4.4.3",
    }
    assert set(tried.values()) == {1}
    blocks = Counter(int(address.split(".")[2]) // 20 for address in tried)
    assert blocks[0] <= 10  # MAX_HOSTS, relayd/route/mx.py
    assert 1 <= blocks[1] <= 5  # MAX_ADDRESSES, relayd/route/targets.py
    assert 1 <= blocks[2] <= 5
    assert sum(blocks.values()) <= 20


def test_whatever_a_ttl_says_a_name_is_asked_for_at_most_once_a_second(world: World) -> None:
    """D12: a TTL of nothing, of 2^31 seconds, answers that change each time, names that fail; a connection for each
    message asks anew."""
    dns, mx, other = world.dns, world.exchanger("mx.well.test"), world.exchanger("mx2.well.test")
    world.domain("well.test", mx)
    dns.ttl = dns.negative_ttl = 0
    for name in ("zero.test", "flaps.test"):
        exchanged(dns, name, mx.address)
    dns.flap("mx.flaps.test", *(partial(dns.a, "mx.flaps.test", each.address) for each in (mx, other)))
    dns.servfail("broken.test")
    dns.ttl = 2**31
    exchanged(dns, "long.test", mx.address)
    world.configure(relay={"max_messages_per_connection": 1}, retry={"first": "100ms", "max": "200ms"})
    names = ["zero.test", "flaps.test", "long.test"]
    with world.relaying() as daemon:
        began = time.monotonic()
        world.send("bob@broken.test")
        for number in range(25):
            for name in names:
                world.send(f"bob{number}@{name}")
            time.sleep(0.08)  # what is measured is what happens in a while
        wait_until(lambda: len(mx.taken) + len(other.taken) == 25 * len(names), "all of them")
        took = time.monotonic() - began
        assert not unwell(daemon)

    asked = Counter(dns.queries)
    assert {name for name, _ in asked} >= {*names, "broken.test", "mx.flaps.test"}
    assert max(asked.values()) <= took + 1, asked.most_common(3)


def test_mail_gets_through_a_network_that_loses_a_tenth(world: World) -> None:
    """D13: 40 domains, a datagram in ten lost, each look-up bounded; what was unlucky is tried again."""
    mx = world.exchanger("mx.well.test")
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    domains = [f"d{number}.test" for number in range(40)]
    for name in domains:
        exchanged(world.dns, name, mx.address)
    world.dns.lossy(0.1, seed)
    world.configure(dns={"timeout": "1s"})
    with world.relaying() as daemon:
        for name in domains:
            world.send(f"bob@{name}")
        wait_until(lambda: len(mx.taken) == len(domains), "all of them", timeout=60)
        assert not unwell(daemon)

    assert {each.rcpt_tos[0].partition("@")[2] for each in mx.taken} == set(domains)


def test_what_nobody_can_look_up_in_its_lifetime_bounces(world: World) -> None:
    """D4, D5: put off first, since names come and go, and told when the lifetime has ended."""
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    zones = {"missing.test": hosts_missing, "trouble.test": hosts_trouble}
    for name, zone in zones.items():
        zone(world.dns, name, home.address)
    world.dns.servfail("servfail.test")
    world.configure(retry={"first": "500ms", "max": "1s", "lifetime": "2s", "warn_after": "0s"})
    with world.relaying() as daemon:
        for name in (*zones, "servfail.test"):
            world.send(f"bob@{name}")
        wait_until(lambda: len(home.taken) == 3, "three bounces")
        assert {outcome(daemon, name).split()[0] for name in (*zones, "servfail.test")} == {"deferred"}

    assert bounces(home) == dict.fromkeys((*zones, "servfail.test"), "failed 5.4.7")
