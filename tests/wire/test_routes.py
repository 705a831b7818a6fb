"""Where mail goes and over which connections: the daemon from outside, at servers that keep every octet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.mta import free_port
from tests.support.smtp import CLOSE, LOCK_STEP, STALL, Answer, Script, ScriptedServer, serving
from tests.support.world import World, wait_until

SELDOM = {"first": "1h", "max": "1h"}  # nothing that is seen comes of a retry
KEEPER = {"max_connections_per_site": 1, "max_messages_per_connection": 100}


@contextmanager
def a_server(world: World, replies: dict[str, Script] | None = None, **options: Any) -> Iterator[ScriptedServer]:
    with serving(world.run, ScriptedServer(replies, **options)) as server:
        yield server


@contextmanager
def exchangers(world: World, *scripts: dict[str, Script]) -> Iterator[list[ScriptedServer]]:
    """Mail exchangers of example.test, in order of preference, each with a script."""
    servers = [ScriptedServer(script, host=f"127.0.3.{n}") for n, script in enumerate(scripts, 1)]
    with serving(world.run, servers[0]):
        if len(servers) == 1:
            yield _known(world, servers)
            return
        servers[1].port = servers[0].port
        with serving(world.run, servers[1]):
            yield _known(world, servers)


def _known(world: World, servers: list[ScriptedServer]) -> list[ScriptedServer]:
    for n, server in enumerate(servers, 1):
        world.dns.a(f"mx{n}.example.test", server.host)
    world.dns.mx("example.test", *((n, f"mx{n}.example.test") for n, _ in enumerate(servers, 1)))
    world.port = servers[0].port
    return servers


def a_route(*hosts: str, match: str = "*", name: str = "r", **fields: Any) -> dict[str, Any]:
    return {"name": name, "match": [match], "hosts": list(hosts), "tls": "none", **fields}


class TestRoutes:
    """Smart hosts instead of mail exchangers."""

    @pytest.mark.parametrize("processes", [0, 1])
    def test_an_operator_redirects_what_waits_for_a_dead_host(self, world: World, processes: int) -> None:
        with a_server(world) as spare:
            routes = [
                a_route(f"127.0.0.1:{free_port()}", name="dead"),
                {**a_route(f"127.0.0.1:{spare.port}", name="spare"), "match": []},
            ]
            world.configure(route=routes, retry=SELDOM, relay={"processes": processes})
            with world.relaying() as daemon:
                world.send("bob@example.test", "ann@other.test")
                daemon.logged("event=site-backs-off site=route:dead")
                done = world.command("queue", "redirect", "--route", "spare", "--domain", "example.test", "--yes")
                assert done.stdout == "1 redirected\n"
                daemon.logged("r=bob@example.test status=delivered")
                daemon.logged("r=ann@other.test status=delivered")

            assert [line for message in spare.taken for line in message.recipients] == [
                "RCPT TO:<bob@example.test>",
                "RCPT TO:<ann@other.test>",
            ]

    def test_the_first_pattern_that_matches_decides(self, world: World) -> None:
        with a_server(world) as one, a_server(world) as sub, a_server(world) as rest:
            routes = [
                a_route(f"127.0.0.1:{one.port}", match="example.test", name="one"),
                a_route(f"localhost:{sub.port}", match="*.example.test", name="sub"),
                a_route(f"127.0.0.1:{rest.port}", name="rest"),
            ]
            world.configure(route=routes)
            with world.relaying() as daemon:
                world.send("a@example.test", "b@deep.sub.example.test", "c@notexample.test")
                wait_until(lambda: daemon.log.count("status=delivered") == 3, "three deliveries")

            assert [server.taken[0].recipients for server in (one, sub, rest)] == [
                ["RCPT TO:<a@example.test>"],
                ["RCPT TO:<b@deep.sub.example.test>"],
                ["RCPT TO:<c@notexample.test>"],
            ]

    def test_the_second_host_is_tried_when_the_first_is_dead(self, world: World) -> None:
        with a_server(world) as server:
            world.configure(route=[a_route(f"127.0.0.1:{free_port()}", f"127.0.0.1:{server.port}")], retry=SELDOM)
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"status=delivered .*n=1 host=127\.0\.0\.1 .*:" + str(server.port))

    def test_an_ipv6_literal_is_connected_to(self, world: World) -> None:
        with a_server(world, host="::1") as server:
            world.configure(route=[a_route(f"[::1]:{server.port}")])
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"status=delivered .*host=::1")

            assert server.connections[0].peer == "::1"

    def test_the_source_address_is_the_one_of_the_route(self, world: World) -> None:
        with a_server(world) as server:
            world.configure(
                relay={"source_address": "127.0.0.8"},
                route=[a_route(f"127.0.0.1:{server.port}", source_address=["::1", "127.0.0.9"])],
            )
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")

            assert server.connections[0].peer == "127.0.0.9"

    @pytest.mark.parametrize(("family", "seen"), [("ipv4", "127.0.0.1"), ("ipv6", "::1"), ("prefer-ipv6", "::1")])
    def test_the_address_family_is_the_one_of_the_route(self, world: World, family: str, seen: str) -> None:
        with a_server(world) as four, a_server(world, host="::1", port=four.port) as six:
            world.dns.a("smart.test", "127.0.0.1")
            world.dns.aaaa("smart.test", "::1")
            world.configure(route=[a_route(f"smart.test:{four.port}", address_family=family)])
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged("status=delivered")

            assert [each.peer for server in (four, six) for each in server.connections] == [seen]

    def test_a_server_without_ehlo_is_spoken_to_as_of_old(self, world: World) -> None:
        with a_server(world, {"EHLO": "502 5.5.1 what"}) as server:
            world.configure(route=[a_route(f"127.0.0.1:{server.port}")])
            with world.relaying() as daemon:
                world.send("bob@example.test NOTIFY=NEVER")
                daemon.logged("status=delivered")

            assert server.connections[0].commands[:5] == [
                "EHLO relay.test",
                "HELO relay.test",
                "MAIL FROM:<ann@sender.test>",
                "RCPT TO:<bob@example.test>",
                "DATA",
            ]


class TestConnections:
    """How many, and how much over each."""

    def relay(self, world: World, server: ScriptedServer, count: int, **relay: Any) -> float:
        """Drop `count` messages, let the daemon relay them at the first attempt; return the seconds it took."""
        world.configure(route=[a_route(f"127.0.0.1:{server.port}")], relay=relay, retry=SELDOM)
        for number in range(count):
            world.send(f"r{number}@example.test")
        with world.relaying() as daemon:
            began = time.monotonic()
            wait_until(lambda: daemon.log.count("status=delivered") == count, "all deliveries")
            took = time.monotonic() - began
            assert "status=deferred" not in daemon.log
        assert len(server.taken) == count
        return took

    @pytest.mark.parametrize("ehlo", [[], [LOCK_STEP]], ids=["pipelined", "lock-step"])
    def test_a_batch_shares_one_connection_and_no_rset_is_said(self, world: World, ehlo: list[str]) -> None:
        with a_server(world, {"EHLO": ehlo}) as server:
            self.relay(world, server, 30, **KEEPER)

            (connection,) = server.connections
            assert "RSET" not in connection.verbs
            assert connection.verbs[-1] == "QUIT"

    def test_a_connection_takes_no_more_messages_than_it_may(self, world: World) -> None:
        with a_server(world, {"QUIT": Answer("221 2.0.0 bye", delay=0.2, then="close")}) as server:
            self.relay(world, server, 25, max_connections_per_site=1, max_messages_per_connection=10)

            assert sorted(len(each.messages) for each in server.connections) == [5, 10, 10]
            assert server.most_at_once == 1

    def test_a_site_has_no_more_connections_than_it_may(self, world: World) -> None:
        slow: dict[str, Script] = {
            "greeting": Answer("220 mx.test ESMTP", delay=0.5),
            "QUIT": Answer("221 2.0.0 bye", delay=0.2, then="close"),
        }
        with a_server(world, slow) as server:
            self.relay(world, server, 60, max_connections_per_site=3, max_messages_per_connection=10)

            assert server.most_at_once == 3

    @pytest.mark.parametrize(
        "script",
        [
            {"final": Answer(b"250 2.0.0 queued\r\n421 4.3.2 one is enough\r\n", then="close")},
            {"final": Answer("250 2.0.0 queued", then="close")},
            {"final": Answer("250 2.0.0 queued", then="reset")},
            {"MAIL": ["250 ok", Answer("421 4.3.2 one is enough", then="close")] * 12},
        ],
        ids=["421 at once", "close", "reset", "421 to the next"],
    )
    def test_a_server_that_takes_one_message_a_connection_gets_all_promptly(
        self, world: World, script: dict[str, Script]
    ) -> None:
        with a_server(world, script) as server:
            assert self.relay(world, server, 12, **KEEPER) < 15

            assert [len(each.messages) for each in server.connections if each.messages] == [1] * 12


class TestTwoExchangers:
    """When the first one fails, and when it must not be followed by the second."""

    @pytest.mark.parametrize(
        "script",
        [
            {"greeting": Answer("421 4.3.2 busy", then="close")},
            {"greeting": "554 5.3.2 no service"},
            {"EHLO": Answer("421 4.3.2 busy", then="close")},
            {"EHLO": "451 4.3.0 later"},
            {"MAIL": Answer("421 4.3.2 busy", then="close")},
            {"RCPT": Answer("421 4.3.2 busy", then="close")},
            {"DATA": Answer("421 4.3.2 busy", then="close")},
            {"DATA": CLOSE},
            {"final": Answer("421 4.3.2 busy", then="close")},
        ],
        ids=str,
    )
    def test_the_second_gets_at_once_what_the_first_did_not_take(self, world: World, script: dict[str, Script]) -> None:
        with exchangers(world, script, {}) as (first, second):
            world.configure(retry=SELDOM, tls={"policy": "none"})
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"status=delivered .*n=1 host=mx2\.example\.test")
                assert "status=deferred" not in daemon.log

            assert (len(first.taken), len(second.taken)) == (0, 1)

    @pytest.mark.parametrize("final", [CLOSE, Answer(then="reset"), STALL], ids=["eof", "reset", "silence"])
    def test_what_may_have_arrived_is_marked_and_not_sent_to_the_second(self, world: World, final: Answer) -> None:
        with exchangers(world, {"final": [final]}, {}) as (first, second):
            world.configure(retry=SELDOM, tls={"policy": "none"}, timeouts={"final": "300ms"})
            with world.relaying() as daemon:
                world.send("bob@example.test")
                line = daemon.logged(r"q=(\w+) r=bob@example.test status=deferred .*n=1 host=mx1\.example\.test")
                assert "dup=possible" in line.string
                shown = world.command("queue", "show", line[1], "--json")
                assert [each["possible_duplicate"] for each in json.loads(shown.stdout)["recipients"]] == [True]
                assert "possible duplicate" in world.command("queue", "show", line[1]).stdout
                assert (len(first.messages), second.connections) == (1, [])

                world.command("queue", "retry", "--all")
                assert "dup=possible" in daemon.logged("status=delivered").string

            assert len(first.taken) + len(second.taken) == 1

    def test_a_250_glued_to_the_354_is_no_delivery(self, world: World) -> None:
        script: dict[str, Script] = {
            "DATA": b"354 go ahead\r\n250 2.0.0 queued as FAKE\r\n",
            "final": "550 5.7.1 refused",
        }
        with exchangers(world, script, script) as servers:
            world.configure(retry=SELDOM, tls={"policy": "none"})
            with world.relaying() as daemon:
                world.send("bob@example.test")
                daemon.logged(r"r=bob@example.test status=deferred .*protocol error")
                assert "status=delivered" not in daemon.log
                assert [each["address"] for each in world.queue()[0]["recipients"]] == ["bob@example.test"]

            assert b"Hello." not in b"".join(bytes(each.octets) for server in servers for each in server.connections)
