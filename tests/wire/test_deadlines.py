"""Messages with a deadline: the daemon from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.process import Daemon
from tests.support.smtp import PIPELINED, Script, ScriptedServer, serving
from tests.support.world import World, a_message, octets, wait_until
from tests.wire.test_message import parts_of

OFFERING = PIPELINED.replace("250 DSN", "250-DSN\n250 DELIVERBY")


@contextmanager
def an_exchanger(world: World, ehlo: str = PIPELINED, **replies: Script) -> Iterator[ScriptedServer]:
    """The mail exchanger of example.test."""
    server = ScriptedServer({"EHLO": ehlo, **replies}, host="127.0.3.1", port=world.port)
    with serving(world.run, server):
        world.port = server.port
        world.dns.a("mx.example.test", server.host)
        world.dns.mx("example.test", (10, "mx.example.test"))
        yield server


def mails(server: ScriptedServer) -> list[str]:
    return [command for each in server.connections for command in each.commands if command.startswith("MAIL")]


def by_times(server: ScriptedServer) -> list[int]:
    return [int(command.partition(" BY=")[2].partition(";")[0]) for command in mails(server)]


def attempts(daemon: Daemon) -> int:
    return sum("r=bob@example.test status=deferred" in line for line in daemon.lines)


def test_a_message_that_is_put_off_for_ever_bounces_in_time_and_is_never_told_to_have_a_deadline(world: World) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    with an_exchanger(world, OFFERING, final="451 4.3.0 not now") as server:
        world.configure(retry={"first": "500ms", "max": "1h", "factor": 100.0})
        with world.relaying() as daemon:
            dropped = time.time()
            world.drop(a_message("bob@example.test", **{"X-Relayd-Deadline": "4s"}))
            daemon.logged("event=accepted .*deadline=")
            wait_until(lambda: home.taken, "the bounce")
            bounced = time.time() - dropped
            daemon.logged(
                r"r=bob@example.test status=failed dsn=5.4.7 .*the deadline, .* passed; last reply: 451 4.3.0"
            )

        assert attempts(daemon) == 2  # the curve has the third one in 50 s: less than 15 s are left, so there is none
        assert not any("BY=" in command for command in mails(server))
        assert all(b"deadline" not in message.content.lower() for message in server.messages)
    _, (message, recipient) = parts_of(octets(home.taken[0]))
    assert 4 <= bounced < 10
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.4.7")
    assert recipient["Diagnostic-Code"] == "smtp; 451 4.3.0 not now"
    assert message["Deliver-By-Date"]
    assert world.queue() == []


def test_a_site_that_is_dead_until_long_after_the_deadline_does_not_keep_the_bounce(world: World) -> None:
    home, dead = world.exchanger("mx.sender.test"), world.exchanger("mx.example.test", alive=False)
    world.domain("sender.test", home)
    world.domain("example.test", dead)
    world.configure(retry={"first": "1h", "max": "1h"})
    with world.relaying() as daemon:
        world.drop(a_message("bob@example.test", **{"X-Relayd-Deadline": "3s"}))
        daemon.logged("event=site-backs-off")
        wait_until(lambda: home.taken, "the bounce")

    _, (_, recipient) = parts_of(octets(home.taken[0]))
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.4.7")


@pytest.mark.parametrize("processes", [0, 1])
def test_by_goes_on_with_the_time_that_is_left_at_each_try(world: World, processes: int) -> None:
    with an_exchanger(world, OFFERING, final=["451 4.3.0 not now"] * 2) as server:
        world.configure(relay={"processes": processes}, retry={"first": "1500ms", "max": "1500ms"})
        with world.relaying() as daemon:
            world.drop(a_message("bob@example.test").replace(b"<ann@sender.test>", b"<ann@sender.test> BY=600;RT", 1))
            daemon.logged("r=bob@example.test status=delivered")

        first, second, third = by_times(server)
        assert 590 <= third < second < first < 600
        assert all(command.endswith(";RT") for command in mails(server))


@pytest.mark.parametrize("mode", ["R", "N"])
def test_a_server_that_knows_no_deadlines(world: World, mode: str) -> None:
    """R36: mode R must not be relayed to it; mode N is, and the sender is told."""
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    with an_exchanger(world) as server:
        world.configure()
        with world.relaying():
            by = f"<ann@sender.test> BY=600;{mode}".encode()
            world.drop(a_message("bob@example.test").replace(b"<ann@sender.test>", by, 1))
            wait_until(lambda: home.taken, "the notification")

        assert len(server.taken) == (mode == "N")
    _, (_, recipient) = parts_of(octets(home.taken[0]))
    told = {"R": ("failed", "5.4.7"), "N": ("relayed", "2.0.0")}
    assert (recipient["Action"], recipient["Status"]) == told[mode]


def test_a_missed_deadline_that_only_notifies_is_told_once_and_tries_go_on(world: World) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    with an_exchanger(world, OFFERING, final="451 4.3.0 not now") as server:
        world.configure(retry={"first": "500ms", "max": "500ms", "warn_after": "3s"})
        with world.relaying() as daemon:
            world.drop(a_message("bob@example.test").replace(b"<ann@sender.test>", b"<ann@sender.test> BY=2;N", 1))
            wait_until(lambda: home.taken, "the notification")
            tried = attempts(daemon)
            wait_until(lambda: by_times(server)[-1] < -3, "tries long after the deadline")
            assert attempts(daemon) > tried
            assert len(home.taken) == 1  # warn_after is over by then

    _, (_, recipient) = parts_of(octets(home.taken[0]))
    assert (recipient["Action"], recipient["Status"]) == ("delayed", "4.4.7")
    assert recipient["Will-Retry-Until"]


def test_what_cannot_be_met_is_rejected_with_the_reason(world: World) -> None:
    with world.relaying() as daemon:
        past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
        world.drop(a_message("bob@example.test", **{"X-Relayd-Deadline": past}), "late.eml")
        world.drop(a_message("bob@example.test", **{"X-Relayd-Deadline": "soon"}), "odd.eml")
        daemon.logged("event=rejected file=late.eml .*the deadline has passed")
        daemon.logged("event=rejected file=odd.eml .*neither a time with its zone nor a span")

    assert (world.spool / "rejected" / "late.eml").exists()
    assert "X-Relayd-Deadline" in (world.spool / "rejected" / "odd.eml.reason.txt").read_text()


def test_a_recovery_finds_the_same_deadlines(world: World) -> None:
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    world.drop(a_message("bob@example.test", **{"X-Relayd-Deadline": "2h"}))
    world.drop(a_message("bob@example.test").replace(b"<ann@sender.test>", b"<ann@sender.test> BY=7200;N", 1))
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    before = {each["id"]: (each["deadline"], each["deadline_mode"]) for each in world.queue()}
    for path in world.spool.glob("queue.db*"):
        path.unlink()

    assert json.loads(world.command("recover", "--json").stdout)["queued"] == 2

    after = {each["id"]: (each["deadline"], each["deadline_mode"]) for each in world.queue()}
    assert after == before
    assert {mode for _, mode in after.values()} == {"own", "notify"}
