"""The daemon with `relay.processes`: mail goes through its workers, and nothing is lost when one dies, or all do."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import Envelope

from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World
from tests.workers.kit import alive


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    world.configure(relay={"processes": 2})
    return exchanger


def workers_of(daemon: Daemon) -> list[int]:
    """Return the process ids of a daemon's workers."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    return [int(pid) for pid in children if name_of(pid) == "relayd-worker"]


def name_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def recipients(exchanger: Exchanger) -> list[str]:
    """Who was taken, in order of names."""
    return sorted(address for envelope in exchanger.taken for address in envelope.rcpt_tos)


class Held:
    """Lets nothing of a kind (`RCPT`, `DATA`) be answered until it is opened; counts what waits, or waited."""

    def __init__(self, mx: Exchanger, at: str, who: Callable[[str], bool] = lambda address: True) -> None:
        self.reached: list[str] = []
        self._opened = threading.Event()
        self._who = who
        if at == "RCPT":
            mx.on_rcpt = self._answer
        else:
            mx.on_data = self._answer

    async def _answer(self, envelope: Envelope, address: str) -> str:
        address = address or envelope.rcpt_tos[0]
        if self._who(address):
            self.reached.append(address)
            while not self._opened.is_set():
                await asyncio.sleep(0.01)
        return "250 2.1.5 ok"

    def open(self) -> None:
        self._opened.set()


def test_two_hundred_messages_go_through_two_workers_each_once(world: World, mx: Exchanger) -> None:
    world.configure(relay={"processes": 2, "max_messages_per_connection": 10})
    everyone = sorted(f"bob{number}@example.test" for number in range(200))
    with world.relaying() as daemon:
        assert len(workers_of(daemon)) == 2
        for address in everyone:
            world.send(address)
        wait_until(lambda: len(mx.taken) >= 200, "all deliveries")

    assert recipients(mx) == everyone
    assert len([line for line in daemon.lines if "status=delivered" in line]) == 200
    assert world.queue() == []


def test_no_process_opens_a_connection_but_the_workers(world: World, mx: Exchanger) -> None:
    held = Held(mx, "DATA")
    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(lambda: held.reached, "the end of the message")
        holders = [pid for pid in [daemon.pid, *workers_of(daemon)] if connected(pid, world.port)]
        held.open()

    assert len(holders) == 1
    assert daemon.pid not in holders


def connected(pid: int, port: int) -> bool:
    """Whether a process has a TCP connection to a port."""
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        inodes = {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}")}
        return any(os.readlink(link) in inodes for link in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # a descriptor, or all of it, has gone meanwhile
        return False


def test_a_bounce_comes_of_what_a_worker_was_told(world: World, mx: Exchanger) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 nobody of that name"
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0, daemon.log

    assert "nobody of that name" in home.messages[0].as_string()


# one of them dies


def test_a_worker_killed_before_the_end_of_a_message_costs_a_retry_and_no_mark(world: World, mx: Exchanger) -> None:
    held = Held(mx, "RCPT")
    with world.relaying() as daemon:
        for number in range(5):
            world.send(f"bob{number}@example.test")
        wait_until(lambda: held.reached, "a recipient")
        for pid in workers_of(daemon):
            os.kill(pid, signal.SIGKILL)
        daemon.logged(r"event=worker-died pid=\d+ how=\"killed by SIGKILL\" relayers=1")
        held.open()
        wait_until(lambda: len(mx.taken) == 5, "all deliveries")
        wait_until(lambda: len(workers_of(daemon)) == 2, "two workers again")

    assert recipients(mx) == [f"bob{number}@example.test" for number in range(5)]
    assert "dup=possible" not in daemon.log
    assert "event=possible-duplicate" not in daemon.log


def test_a_worker_killed_after_the_end_of_a_message_leaves_a_mark_and_it_is_sent_again(
    world: World, mx: Exchanger
) -> None:
    held = Held(mx, "DATA", lambda address: address.startswith("unlucky"))
    with world.relaying() as daemon:
        world.send("unlucky@example.test")
        wait_until(lambda: held.reached, "the end of the message")
        for pid in workers_of(daemon):
            os.kill(pid, signal.SIGKILL)
        daemon.logged(r"event=possible-duplicate q=\S+ r=unlucky@example\.test")
        world.send("lucky@example.test")
        held.open()
        daemon.logged("r=unlucky@example.test status=delivered .*dup=possible")
        daemon.logged("r=lucky@example.test status=delivered")

    assert not [line for line in daemon.lines if "dup=possible" in line and "r=lucky" in line]
    # Those of workers that were stopped in order stay for the next start; those of the dead are gone.
    assert sorted(path.suffix for path in (world.spool / "queue").glob("notes.*.*")) == [".3", ".4"]


def test_a_message_that_takes_a_worker_down_three_times_is_held_and_the_others_are_delivered(
    world: World, mx: Exchanger
) -> None:
    world.configure(relay={"processes": 1})
    daemons: list[Daemon] = []

    def answer(envelope: Envelope, address: str) -> str:
        if address.startswith("poison"):
            for pid in workers_of(daemons[0]):
                os.kill(pid, signal.SIGKILL)
        return "250 2.1.5 ok"

    mx.on_rcpt = answer
    with world.relaying() as daemon:
        daemons.append(daemon)
        world.send("poison@example.test")
        daemon.logged(r"event=held q=\S+ deaths=3", timeout=60)
        for number in range(3):
            world.send(f"bob{number}@example.test")
        wait_until(lambda: len(mx.taken) == 3, "the others' mail")
        (message,) = world.queue()

    assert message["held"]
    assert message["recipients"][0]["address"] == "poison@example.test"
    assert len([line for line in daemon.lines if "event=worker-died" in line]) == 3
    assert "dup=possible" not in daemon.log


def test_nothing_is_lost_while_workers_are_killed_again_and_again(world: World) -> None:
    exchangers = [world.exchanger(f"mx{number}.test") for number in range(4)]
    for number, exchanger in enumerate(exchangers):
        world.domain(f"d{number}.test", exchanger)
        exchanger.on_data = slowly
    world.configure(relay={"processes": 2, "max_connections": 8}, retry={"first": "300ms", "max": "1s"})
    everyone = {f"r{number}@d{number % 4}.test" for number in range(300)}
    with world.relaying() as daemon:
        for address in sorted(everyone):
            world.send(address)
        for _ in range(6):
            wait_until(lambda: at_work(daemon, world.port), "a worker that sends")
            os.kill(at_work(daemon, world.port)[0], signal.SIGKILL)
            time.sleep(0.2)
        taken: Counter[str] = Counter()

        def all_there() -> bool:
            # What was in hand at three deaths is held; an operator lets it go.
            if daemon.log.count("event=held"):
                world.command("queue", "release", "--all")
            taken.clear()
            taken.update(address for exchanger in exchangers for address in recipients(exchanger))
            return set(taken) == everyone

        wait_until(all_there, "everybody's mail", timeout=60)
        wait_until(lambda: not world.queue(), "an empty queue")

    marked = {match[1] for line in daemon.lines if (match := re.search(r"event=possible-duplicate .*r=(\S+)", line))}
    twice = {address for address, count in taken.items() if count > 1}
    print(f"{len(marked)} marked, {len(twice)} taken twice")
    assert twice <= marked
    assert len(marked) <= 6 * 8  # one for each connection that a killed worker can have had
    assert daemon.log.count("event=worker-died") == 6


def at_work(daemon: Daemon, port: int) -> list[int]:
    """Return the workers that have a connection."""
    return [pid for pid in workers_of(daemon) if connected(pid, port)]


async def slowly(envelope: Envelope, address: str) -> str:
    await asyncio.sleep(0.1)
    return "250 2.0.0 taken"


# the daemon itself dies, or stops


@pytest.mark.parametrize("at", ["RCPT", "DATA"])
def test_workers_die_with_their_daemon_and_their_notes_tell_the_next_what_to_mark(
    world: World, mx: Exchanger, at: str
) -> None:
    held = Held(mx, at)
    with world.daemon() as first:
        first.ready()
        world.send("bob@example.test")
        wait_until(lambda: held.reached, "the message")
        workers = workers_of(first)
        assert len(workers) == 2
        os.kill(first.pid, signal.SIGKILL)
        began = time.monotonic()
        wait_until(lambda: not any(map(alive, workers)), "the end of the workers")
        assert time.monotonic() - began < 1
    held.open()
    with world.relaying() as second:
        second.logged("r=bob@example.test status=delivered")

    assert ("event=possible-duplicate" in second.log) == (at == "DATA")
    assert world.queue() == []


def test_a_new_daemon_can_be_started_the_moment_the_old_one_is_killed(world: World, mx: Exchanger) -> None:
    with world.daemon() as first:
        first.ready()
        os.kill(first.pid, signal.SIGKILL)
        with world.relaying():
            world.send("bob@example.test")
            wait_until(lambda: mx.taken, "the delivery")


def test_every_worker_shares_the_lock_of_the_spool(world: World, mx: Exchanger) -> None:
    with world.relaying() as daemon:
        for pid in workers_of(daemon):
            opened = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
            assert str(world.spool / "lock") in opened


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [True, False], ids=["to-the-group", "to-the-daemon"])
def test_a_stop_lets_what_is_in_flight_in_workers_finish(
    world: World, mx: Exchanger, number: signal.Signals, to_all: bool
) -> None:
    held = Held(mx, "DATA")
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(lambda: held.reached, "the end of the message")
        workers = workers_of(daemon)
        if to_all:
            os.killpg(daemon.pid, number)
        else:
            daemon.signal(number)
        daemon.logged("event=stopping")
        held.open()
        assert daemon.wait() == 0
        daemon.logged("r=bob@example.test status=delivered")

    assert not any(map(alive, workers))
    assert len(mx.taken) == 1
    assert world.queue() == []
    assert "worker-died" not in daemon.log


def test_a_second_signal_hurries_and_what_may_have_arrived_is_marked(world: World, mx: Exchanger) -> None:
    held = Held(mx, "DATA")
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(lambda: held.reached, "the end of the message")
        daemon.terminate()
        daemon.logged("event=stopping")
        began = time.monotonic()
        daemon.terminate()
        assert daemon.wait() == 0
        assert time.monotonic() - began < 10
    held.open()

    (message,) = world.queue()
    assert message["recipients"][0]["possible_duplicate"]


# operators


def test_what_is_held_while_it_waits_in_a_worker_is_not_sent(world: World, mx: Exchanger) -> None:
    world.configure(relay={"processes": 1, "max_connections": 1, "check_interval": "1h"})
    for number in range(3):
        world.send(f"bob{number}@example.test")
    held = Held(mx, "DATA")
    with world.relaying() as daemon:
        wait_until(lambda: held.reached, "the end of the first message")
        in_flight = [each["id"] for each in world.queue() if each["in_flight"]]
        assert json.loads(world.command("queue", "hold", *in_flight, "--json").stdout)["daemon"]
        held.open()
        daemon.logged("status=delivered")

    kept: list[dict[str, Any]] = [message for message in world.queue() if message["held"]]
    assert len(mx.taken) + len(kept) == 3
    assert kept
    assert len(in_flight) > 1


def test_a_reload_reaches_the_workers_but_their_number_stays_until_a_restart(world: World, mx: Exchanger) -> None:
    with world.relaying() as daemon:
        before = workers_of(daemon)
        world.configure(relay={"processes": 3, "hostname": "renamed.test"})
        daemon.reload()
        daemon.logged("event=reloaded")
        daemon.logged(r"about=relay\.processes detail=\"relayd goes on with 2; restart it to have 3\"")
        world.send("bob@example.test")
        wait_until(lambda: mx.taken, "the delivery")
        assert workers_of(daemon) == before

    assert mx.clients == {"renamed.test"}
