"""FAULTS.md, "Hostile DNS", D16: an AD bit that a resolver sets which is not to be believed; and resolvers that change.

In a network namespace of its own, where a name server can be on an address that is not loopback.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit import root_only
from tests.support.certificates import certify, server_context
from tests.support.dns import FaultyDns
from tests.support.netns import own_network
from tests.support.smtp import ScriptedServer, serving
from tests.support.world import World

pytestmark = root_only

ELSEWHERE = "192.0.2.53"
TLS = "250-mx.test\n250 STARTTLS"
SERVER, OTHER = certify("mx.example.test"), certify("mx.example.test")


@pytest.fixture(params=[ELSEWHERE, "127.0.0.1"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    server = ScriptedServer({"EHLO": TLS}, tls=server_context(SERVER))
    with (
        own_network(f"{ELSEWHERE}/32"),
        World(tmp_path, dns=FaultyDns(request.param)) as built,
        serving(built.run, server),
    ):
        built.port = server.port
        publish(built.dns, server.port)
        yield built


def publish(dns: FaultyDns, port: int) -> None:
    """Let example.test be signed, if anybody validates, and have a record that its server does not match."""
    dns.sign("example.test")
    dns.mx("example.test", (10, "mx.example.test"))
    dns.a("mx.example.test", "127.0.0.1")
    dns.tlsa(f"_{port}._tcp.mx.example.test", OTHER.tlsa())


elsewhere = pytest.mark.parametrize("world", [ELSEWHERE], indirect=True)
here = pytest.mark.parametrize("world", ["127.0.0.1"], indirect=True)


def asked_for_records(world: World) -> int:
    return sum(1 for _, kind in world.dns.queries if kind == "TLSA")


@elsewhere
def test_a_bit_that_is_set_elsewhere_counts_for_nothing(world: World) -> None:
    """Else whoever is on the way could have mail deferred, or let another server prove itself."""
    world.dns.forges_ad = True
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=delivered .*tls=1\.3/encrypted")
        daemon.logged(rf"event=warning about=tls\.dane detail=\"DANE is off: {ELSEWHERE} is not on this machine")

    assert asked_for_records(world) == 0


@elsewhere
def test_it_counts_where_the_operator_says_that_the_way_is_safe(world: World) -> None:
    world.configure(dns={"trust_ad": True})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=deferred dsn=4\.7\.5 .*DANE")


@here
def test_without_a_resolver_that_validates_mail_goes_as_if_there_were_none_and_that_is_told_once(world: World) -> None:
    world.dns.stops_validating()
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=delivered .*tls=1\.3/encrypted")
        daemon.reload()
        daemon.logged("event=reloaded")
        world.send("eve@example.test")
        daemon.logged(r"r=eve@example\.test status=delivered")

        assert daemon.log.count("about=tls.dane") == 1
    assert asked_for_records(world) == 0


@here
def test_one_that_does_not_understand_the_question_delays_nothing(world: World) -> None:
    """Every question with EDNS is refused, so that none may be asked so."""
    for name in (".", "example.test", "mx.example.test"):
        world.dns.old(name)
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=delivered .*n=1 ")
        daemon.logged("about=tls.dane")


@here
def test_after_a_reload_a_resolver_that_has_begun_to_validate_is_made_use_of(world: World) -> None:
    world.dns.stops_validating()
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=delivered .*tls=1\.3/encrypted")
        world.dns.validates()
        daemon.reload()
        daemon.logged("event=dane-on")
        world.send("eve@example.test")
        daemon.logged(r"r=eve@example\.test status=deferred dsn=4\.7\.5 .*DANE")


@here
def test_where_dane_is_not_wanted_nobody_asks_for_it(world: World) -> None:
    world.configure(tls={"dane": False})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged(r"r=bob@example\.test status=delivered .*tls=1\.3/encrypted")

        assert "tls.dane" not in daemon.log
    assert asked_for_records(world) == 0
    assert ("@", "SOA") not in world.dns.queries
