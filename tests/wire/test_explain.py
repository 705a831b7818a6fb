"""`relayd explain` beside a running daemon, and after it: what it names is what keeps the mail waiting."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.process import wait_until
from tests.support.world import Exchanger, World, with_and_without_workers
from tests.wire.test_daemon import Gate

KEYS = {"subject", "kind", "at", "daemon", "message", "expires", "messages", "explanations", "left_out"}
EXPLANATION_KEYS = {
    *("destination", "site", "recipients", "gates", "blocked_by", "until", "waiting", "waiting_at_site", "back_off"),
}
LIVE = [
    "route",
    "policy",
    "back-off",
    "window",
    "connection-rate",
    "message-rate",
    "active-limit",
    "max-connections",
    "daemon",
]


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


@pytest.fixture
def gate(mx: Exchanger) -> Iterator[Gate]:
    gate = Gate(mx)
    yield gate
    gate.opened.set()


def explain(world: World, subject: str) -> dict[str, Any]:
    """Return what is explained, its gates by their names."""
    said = world.command("explain", subject, "--json")
    assert said.returncode == 0, said.stderr
    explained: dict[str, Any] = json.loads(said.stdout)
    assert set(explained) == KEYS
    for each in explained["explanations"]:
        assert set(each) == EXPLANATION_KEYS
        each["order"] = [gate["gate"] for gate in each["gates"]]
        each["gates"] = {gate["gate"]: gate for gate in each["gates"]}
    return explained


def the(explained: dict[str, Any]) -> dict[str, Any]:
    (explanation,) = explained["explanations"]
    assert isinstance(explanation, dict)
    return explanation


def seconds_left(until: str) -> float:
    return (datetime.fromisoformat(until) - datetime.now(UTC)).total_seconds()


def ids(world: World, claim: Callable[[dict[str, Any]], object] = lambda message: True) -> list[str]:
    return [message["id"] for message in world.queue() if claim(message)]


def waits(message: dict[str, Any]) -> bool:
    return not message["in_flight"]


# each gate


def test_a_greylisted_message_waits_for_its_time(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.0 Greylisted, come back later"
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("status=deferred")
        (message_id,) = ids(world)

        live, text = explain(world, message_id), world.command("explain", message_id).stdout
    stopped = explain(world, message_id)

    for explained in (live, stopped):
        explanation = the(explained)
        assert (explained["subject"], explained["kind"], explained["message"]["id"]) == (
            message_id,
            "message",
            message_id,
        )
        assert explanation["blocked_by"] == "retry-time"
        assert 200 < seconds_left(explanation["until"]) < 320  # five minutes
        gate = explanation["gates"]["retry-time"]
        assert (gate["open"], gate["until"]) == (False, explanation["until"])
        assert gate["why"].startswith("1 attempt; last mx.example.test[127.0.1.2]:")
        assert gate["why"].endswith(": 450 4.2.0 Greylisted, come back later")
        assert explanation["site"] == f"mx.example.test:{world.port}"
        assert explanation["recipients"] == ["bob@example.test"]
    assert the(live)["order"] == ["hold", "retry-time", "lease", *LIVE]
    assert (live["daemon"], stopped["daemon"]) == (True, False)
    assert the(stopped)["order"] == ["hold", "retry-time", "lease", "route", "back-off", "daemon"]
    assert the(stopped)["gates"]["daemon"]["why"] == "no daemon runs"
    assert "> closed  retry-time       until " in text
    assert "  open    window           0 of " in text
    assert "It waits for the retry-time until " in text


def test_mail_for_a_dead_site_waits_for_its_back_off(world: World) -> None:
    dead = world.exchanger("mx.example.test", alive=False)
    world.domain("example.test", dead)
    world.domain("other.test", dead)
    world.configure(retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("event=site-backs-off site=mx.example.test")
        world.send("eve@other.test")
        daemon.logged("event=accepted .*")
        wait_until(lambda: len(world.queue()) == 2, "the second message")
        never_tried = ids(world, lambda message: message["recipients"][0]["attempted"] is None)[0]
        wait_until(lambda: the(explain(world, "other.test"))["waiting_at_site"]["total"] == 2, "the route on disk")

        live, domain = explain(world, never_tried), explain(world, "example.test")
        text = world.command("explain", never_tried).stdout
    stopped = explain(world, never_tried)

    for explained in (live, stopped):
        explanation = the(explained)
        assert explanation["blocked_by"] == "back-off"
        assert explanation["gates"]["retry-time"]["open"]
        assert 2700 < seconds_left(explanation["until"]) < 3600  # an hour, less a fifth at most
        evidence = explanation["back_off"]
        assert (evidence["failures"], evidence["until"]) == (1, explanation["until"])
        assert "Connect" in evidence["reply"]
        assert explanation["gates"]["back-off"]["why"] == f"out of reach once: {evidence['reply']}"
    assert the(live)["gates"]["window"]["why"].startswith("0 of 1 connections in use")
    assert not the(domain)["gates"]["back-off"]["open"]
    assert the(domain)["waiting"]["total"] == 1
    assert (the(domain)["waiting_at_site"]["total"], the(domain)["waiting_at_site"]["destinations"]) == (2, 2)
    assert f"since {the(live)['back_off']['since'][:19]}Z" in text


def test_a_held_message_waits_until_it_is_released(world: World, mx: Exchanger) -> None:
    world.configure(relay={"check_interval": "1h"})
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("status=deferred")
        (message_id,) = ids(world)
        assert world.command("queue", "hold", message_id).returncode == 0

        explanation = the(explain(world, message_id))
        text = world.command("explain", message_id).stdout

    assert (explanation["blocked_by"], explanation["until"]) == ("hold", None)
    assert explanation["gates"]["hold"]["why"] == "held by an operator"
    assert f"It waits until it is released: relayd queue release {message_id}\n" in text


def test_a_site_with_a_rate_waits_for_it(world: World, mx: Exchanger) -> None:
    world.configure(site=[{"match": ["example.test"], "message_rate": "1/1h"}])
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")
        world.send("eve@example.test")
        wait_until(lambda: len(world.queue()) == 1, "the second message")
        (message_id,) = ids(world)
        wait_until(lambda: the(explain(world, message_id))["blocked_by"] == "message-rate", "the look-up")

        message, domain = the(explain(world, message_id)), the(explain(world, "example.test"))

    for explanation in (message, domain):
        gate = explanation["gates"]["message-rate"]
        assert (gate["open"], gate["why"]) == (False, "at most 1 in 3600 s")
        assert gate["until"] == explanation["until"]
        assert 3400 < seconds_left(gate["until"]) < 3601
        assert explanation["gates"]["window"]["open"]


def test_a_connection_rate_is_a_gate_of_its_own(world: World, mx: Exchanger) -> None:
    world.configure(site=[{"match": ["mx.example.test"], "connection_rate": "1/1h"}])
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")
        world.send("eve@example.test")
        wait_until(lambda: the(explain(world, "example.test"))["waiting"]["total"] == 1, "the second message")

        assert the(explain(world, "example.test"))["blocked_by"] == "connection-rate"


@with_and_without_workers
def test_what_is_sent_is_in_flight_and_the_next_waits_for_the_window(world: World, gate: Gate) -> None:
    world.configure(relay={"max_connections_per_site": 1, "max_messages_per_connection": 1})
    with world.relaying():
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the first message")
        world.send("eve@example.test")
        wait_until(lambda: len(world.queue()) == 2, "the second message")

        (sent,) = ids(world, lambda message: message["in_flight"])
        (waiting,) = ids(world, waits)
        in_flight, next_one = the(explain(world, sent)), the(explain(world, waiting))
        text = world.command("explain", sent).stdout
        gate.opened.set()

    assert in_flight["blocked_by"] == "lease"
    assert in_flight["gates"]["lease"]["why"].startswith("in flight: for ")
    assert "It is being sent.\n" in text
    assert next_one["blocked_by"] == "window"
    assert next_one["gates"]["window"]["why"] == "1 of 1 connections in use"
    assert next_one["gates"]["lease"]["open"]


def test_when_all_connections_are_in_use_another_site_waits_for_one(world: World, mx: Exchanger, gate: Gate) -> None:
    world.domain("other.test", world.exchanger("mx.other.test"))
    world.configure(relay={"max_connections": 1})
    with world.relaying():
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the first message")
        world.send("eve@other.test")
        wait_until(lambda: ids(world, waits), "the second message")
        (waiting,) = ids(world, waits)

        explanation = the(explain(world, waiting))
        gate.opened.set()

    assert explanation["blocked_by"] == "max-connections"
    assert explanation["gates"]["max-connections"]["why"] == "1 of 1 connections in use"


def test_a_destination_that_cannot_be_looked_up_waits_for_the_next_look_up(world: World) -> None:
    world.configure(dns={"nameservers": ["127.0.0.1:1"], "timeout": "1s"}, retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("event=site-backs-off site=dns:example.test")
        (message_id,) = ids(world)
        world.send("eve@example.test")
        wait_until(lambda: len(world.queue()) == 2, "the second message")
        live = the(explain(world, ids(world, lambda message: message["id"] != message_id)[0]))
        wait_until(lambda: the(explain(world, "example.test"))["waiting_at_site"]["total"] == 2, "the route on disk")
    stopped = the(explain(world, "example.test"))

    for explanation in (live, stopped):
        assert explanation["blocked_by"] == "route"
        assert "it cannot be looked up" in explanation["gates"]["route"]["why"]
        assert explanation["site"] == "dns:example.test"
        assert seconds_left(explanation["until"]) > 2700


# what is asked for


def test_a_domain_without_mail_is_explained_as_new_mail_would_fare(world: World, mx: Exchanger) -> None:
    with world.relaying():
        explanation = the(explain(world, "Example.TEST"))
        text = world.command("explain", "example.test").stdout

    assert (explanation["destination"], explanation["site"]) == ("example.test", f"mx.example.test:{world.port}")
    assert explanation["blocked_by"] is None
    assert explanation["gates"]["route"]["why"] == f"to mx.example.test:{world.port}"
    assert explanation["waiting"]["total"] == 0
    assert "no mail waits" in text
    assert "New mail would go out at once." in text


def test_an_address_names_the_messages_that_wait_for_it(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        world.send("bob@example.test")
        world.send("eve@example.test")
        daemon.logged("r=bob@example.test status=deferred")
        daemon.logged("r=eve@example.test status=deferred")

        explained = explain(world, "bob@example.test")

    assert explained["kind"] == "address"
    assert explained["messages"] == ids(
        world, lambda message: message["recipients"][0]["address"] == "bob@example.test"
    )
    assert the(explained)["waiting"]["total"] == 2


def test_a_message_for_several_sites_is_explained_for_each(world: World, mx: Exchanger) -> None:
    world.domain("done.test", world.exchanger("mx.done.test"))
    world.domain("dead.test", world.exchanger("mx.dead.test", alive=False))
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        world.send("a@done.test", "b@dead.test", "c@example.test")
        for pattern in ("r=a@done.test status=delivered", "r=b@dead.test status=deferred", "r=c@.* status=deferred"):
            daemon.logged(pattern)

        explained = explain(world, ids(world)[0])

    assert [each["destination"] for each in explained["explanations"]] == ["dead.test", "example.test"]
    assert all(each["blocked_by"] == "retry-time" for each in explained["explanations"])
    assert not explained["explanations"][0]["gates"]["back-off"]["open"]
    assert explained["explanations"][1]["gates"]["back-off"]["open"]


def test_a_daemon_that_hangs_is_told_from_one_that_does_not_run(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("status=deferred")
        (message_id,) = ids(world)
        daemon.signal(signal.SIGSTOP)
        try:
            began = datetime.now(UTC)
            explained = explain(world, message_id)
        finally:
            daemon.signal(signal.SIGCONT)

    assert datetime.now(UTC) - began < timedelta(seconds=20)
    assert not explained["daemon"]
    assert the(explained)["gates"]["daemon"]["why"] == f"process {daemon.pid} has the spool and does not answer"


def test_what_a_killed_daemon_left_in_flight_says_so(world: World, mx: Exchanger, gate: Gate) -> None:
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the message")
        (message_id,) = ids(world)
        daemon.kill()

    explanation = the(explain(world, message_id))

    assert explanation["blocked_by"] == "lease"
    assert "of a daemon that has ended; the next start takes it over" in explanation["gates"]["lease"]["why"]
