"""The daemon as its operator meets it: starting, stopping, reloading, looking, acting."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.process import wait_until
from tests.support.world import Exchanger, World


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


class Gate:
    """Lets the end of a message be answered only when it is opened."""

    def __init__(self, mx: Exchanger) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        mx.on_data = self._answer

    async def _answer(self, envelope: Any, address: str) -> str:
        self.reached.set()
        while not self.opened.is_set():
            await asyncio.sleep(0.01)
        return "250 2.0.0 taken"


@pytest.fixture
def gate(mx: Exchanger) -> Iterator[Gate]:
    gate = Gate(mx)
    yield gate
    gate.opened.set()


def test_it_tells_the_service_manager_what_it_does(world: World, mx: Exchanger) -> None:
    with world.daemon(environment={"WATCHDOG_USEC": "400000"}) as daemon:
        daemon.ready()
        wait_until(lambda: daemon.notify.received("WATCHDOG=1"), "a sign of life")
        wait_until(lambda: daemon.notify.received("STATUS=0 relayers, 0 look-ups; 0 delivered, 0 failed"), "a status")
        daemon.terminate()
        assert daemon.wait() == 0
        assert daemon.notify.received("STOPPING=1")


def test_it_runs_without_a_service_manager(world: World, mx: Exchanger) -> None:
    with world.daemon(environment={"NOTIFY_SOCKET": ""}) as daemon:
        daemon.logged("event=started")
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_finish(
    world: World, mx: Exchanger, gate: Gate, number: signal.Signals
) -> None:
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the message")
        daemon.signal(number)
        daemon.logged("event=stopping")
        gate.opened.set()
        assert daemon.wait() == 0
        daemon.logged("r=bob@example.test status=delivered")

    assert len(mx.taken) == 1
    assert world.queue() == []


def test_a_second_signal_hurries_and_what_may_have_arrived_is_marked(world: World, mx: Exchanger, gate: Gate) -> None:
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the message")
        daemon.terminate()
        daemon.logged("event=stopping")
        began = time.monotonic()
        daemon.terminate()
        assert daemon.wait() == 0
        assert time.monotonic() - began < 10

    (message,) = world.queue()
    assert message["recipients"][0]["possible_duplicate"]


def test_the_grace_for_what_is_in_flight_ends(world: World, mx: Exchanger, gate: Gate) -> None:
    world.configure(relay={"stop_grace": "300ms"})
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the message")
        daemon.terminate()
        assert daemon.wait() == 0

    assert len(world.queue()) == 1


def test_a_second_daemon_on_the_spool_is_refused(world: World) -> None:
    with world.relaying(), world.daemon() as second:
        assert second.wait() == 75
        assert "has this spool" in second.log


def test_a_killed_daemon_leaves_no_lock(world: World, mx: Exchanger) -> None:
    with world.daemon() as first:
        first.ready()
        first.kill()
    with world.relaying():
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")


def test_once_ends_when_all_is_delivered(world: World, mx: Exchanger) -> None:
    for number in range(20):
        world.send(f"bob{number}@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0

    assert len(mx.taken) == 20


def test_once_ends_with_75_when_mail_waits(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75

    assert world.queue()[0]["recipients"][0]["status"] == "deferred"


def test_once_waits_for_a_file_that_settles(world: World, mx: Exchanger) -> None:
    with (world.send("bob@example.test").parent / "slow").open("wb") as writing:
        writing.write(b"To: eve@example.test\nFrom: ann@sender.test\n\nHalf")
        writing.flush()
        with world.daemon("--once") as daemon:
            daemon.logged("r=bob@example.test status=delivered")
            assert daemon.running
            writing.write(b" whole\n")
            writing.close()
            assert daemon.wait() == 0

    assert len(mx.taken) == 2


def test_once_sends_the_bounces_too(world: World, mx: Exchanger) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 nobody"
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0

    assert len(home.taken) == 1


def test_a_reload_uses_the_new_settings(world: World, mx: Exchanger) -> None:
    world.configure(aliases={})
    with world.relaying() as daemon:
        world.configure(aliases={"root": ["bob@example.test"]}, relay={"max_connections": 3})
        daemon.reload()
        daemon.logged("event=reloaded")
        world.drop(b"From: ann@sender.test\nTo: root\n\nhello\n")
        wait_until(lambda: mx.taken, "the delivery")
        assert daemon.notify.received("RELOADING=1")

    assert mx.taken[0].rcpt_tos == ["bob@example.test"]


def test_a_reload_of_a_broken_configuration_is_refused_and_the_old_one_stays(world: World, mx: Exchanger) -> None:
    with world.relaying() as daemon:
        world.config_path.write_text("[relay]\nprot = 5\n")
        daemon.reload()
        daemon.logged("relay.prot: no such setting; port?")
        daemon.logged("event=not-reloaded")
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")


def test_a_broken_configuration_is_refused_at_the_start_with_every_mistake(world: World) -> None:
    world.config_path.write_text('[relay]\nport = 0\nspool = 5\nx = 1\n[retry]\nfirst = "x"\n')
    with world.daemon() as daemon:
        assert daemon.wait() == 78
    for key in ("relay.port", "relay.spool", "relay.x", "retry.first"):
        assert key in daemon.log
    checked = world.command("check-config")
    assert checked.returncode == 78
    assert checked.stderr.count("relayd:") == 4


def test_check_config_is_content_with_a_good_one(world: World) -> None:
    world.configure()
    assert world.command("check-config").returncode == 0


def test_a_spool_that_cannot_be_made_is_told(world: World) -> None:
    (world.directory / "file").write_text("")
    world.configure(relay={"spool": str(world.directory / "file" / "spool")})
    with world.daemon() as daemon:
        assert daemon.wait() == 71
    assert "spool" in daemon.log


# looking and acting, with the daemon and without


@pytest.fixture
def waiting(world: World, mx: Exchanger) -> str:
    """The id of a message that was put off for long; the daemon does not run."""
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    return str(world.queue()[0]["id"])


def test_queue_list_has_stable_keys(world: World, waiting: str) -> None:
    (message,) = world.queue()

    assert set(message) >= {"id", "arrived", "sender", "size", "held", "recipients"}
    (recipient,) = message["recipients"]
    assert set(recipient) >= {"address", "status", "attempts", "due", "reply"}
    assert message["sender"] == "ann@sender.test"
    assert message["arrived"].endswith("Z")
    assert (recipient["status"], recipient["attempts"]) == ("deferred", 1)
    assert recipient["reply"] == "450 4.2.1 not now"


def test_queue_list_and_show_are_readable(world: World, waiting: str) -> None:
    listed, shown = world.command("queue", "list"), world.command("queue", "show", waiting)

    assert waiting in listed.stdout
    assert "1 message" in listed.stdout
    assert "450 4.2.1 not now" in shown.stdout
    assert json.loads(world.command("queue", "show", waiting, "--json").stdout)["id"] == waiting


def test_a_finished_message_can_still_be_shown(world: World, mx: Exchanger) -> None:
    with world.relaying() as daemon:
        world.send("bob@example.test")
        message = daemon.logged(r"q=(\S+) r=bob@example.test status=delivered")[1]

    shown = json.loads(world.command("queue", "show", message, "--json").stdout)
    assert shown["recipients"][0]["status"] == "delivered"


def test_an_unknown_message_is_told(world: World, waiting: str) -> None:
    assert world.command("queue", "show", "nothing").returncode == 65
    assert world.command("queue", "hold", "nothing").returncode == 65


def test_retry_while_stopped_is_done_at_the_next_start(world: World, mx: Exchanger, waiting: str) -> None:
    assert world.command("queue", "retry", waiting).stdout == "1 to be tried now; no daemon is running\n"
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
    assert len(mx.taken) == 1


def test_retry_while_running_is_done_at_once(world: World, mx: Exchanger, waiting: str) -> None:
    world.configure(retry={"first": "1h", "max": "1h"}, relay={"check_interval": "1h"})
    with world.relaying():
        assert json.loads(world.command("queue", "retry", "--all", "--json").stdout) == {
            "retried": 1,
            "missing": [],
            "daemon": True,
        }
        wait_until(lambda: mx.taken, "the delivery")


def test_a_held_message_is_kept_until_it_is_released(world: World, mx: Exchanger, waiting: str) -> None:
    assert world.command("queue", "hold", waiting).returncode == 0
    assert world.command("queue", "retry", waiting).returncode == 0
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
    assert world.queue()[0]["held"]
    assert not mx.taken
    with world.relaying():
        assert world.command("queue", "release", waiting).returncode == 0
        wait_until(lambda: mx.taken, "the delivery")


@pytest.mark.parametrize("running", [False, True])
def test_a_removed_message_is_gone_and_nobody_is_told(world: World, mx: Exchanger, waiting: str, running: bool) -> None:
    if running:
        with world.relaying():
            assert world.command("queue", "remove", waiting).returncode == 0
    else:
        assert world.command("queue", "remove", waiting).returncode == 0
        with world.daemon("--once") as daemon:
            assert daemon.wait() == 0

    assert world.queue() == []
    assert not mx.taken
    shown = json.loads(world.command("queue", "show", waiting, "--json").stdout)
    assert shown["recipients"][0]["status"] == "removed"
    assert not [path for path in (world.spool / "queue").rglob("*") if path.name == waiting]


def test_a_message_removed_in_flight_is_delivered_if_the_server_takes_it(
    world: World, mx: Exchanger, gate: Gate
) -> None:
    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(gate.reached.is_set, "the end of the message")
        (message,) = world.queue()
        assert message["in_flight"]
        assert world.command("queue", "remove", message["id"]).returncode == 0
        gate.opened.set()
        daemon.logged("r=bob@example.test status=delivered")

    shown = json.loads(world.command("queue", "show", message["id"], "--json").stdout)
    assert shown["recipients"][0]["status"] == "delivered"


def test_what_is_held_while_it_waits_in_core_is_not_sent(world: World, mx: Exchanger, gate: Gate) -> None:
    world.configure(relay={"max_connections": 1, "check_interval": "1h"})
    for number in range(3):
        world.send(f"bob{number}@example.test")
    with world.relaying() as daemon:
        wait_until(gate.reached.is_set, "the end of the first message")
        first = {each["id"] for each in world.queue() if each["in_flight"]}
        assert world.command("queue", "hold", *first).returncode == 0
        gate.opened.set()
        daemon.logged("status=delivered")

    held = [message for message in world.queue() if message["held"]]
    assert len(mx.taken) + len(held) == 3
    assert held


def test_site_back_off_survives_a_restart_and_a_retry_forgets_it(world: World) -> None:
    dead = world.exchanger("mx.example.test", alive=False)
    world.domain("example.test", dead)
    world.port = 1
    world.configure(retry={"first": "1h", "max": "1h"})
    world.send("bob@example.test")
    with world.relaying() as daemon:
        daemon.logged("event=site-backs-off site=mx.example.test")
    with world.relaying() as daemon:
        world.send("eve@example.test")
        daemon.logged("event=accepted")
        assert world.command("queue", "retry", "--all").returncode == 0
        daemon.logged("event=site-backs-off")
    assert {r["status"] for m in world.queue() for r in m["recipients"]} == {"deferred"}
