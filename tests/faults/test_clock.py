"""P7: the wall clock is set, forward and back, by hours and by years, and the process or the machine stands still.

What is claimed: nothing fails by its age without having been tried for its lifetime, nothing that waits stands still
until the clock has come round again, nothing is sent twice, and all of that also over a restart.
"""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.faults.sample import in_worlds, sampled
from tests.support.process import wait_until
from tests.support.wall import YEAR, WallClock, needs_compiler
from tests.support.world import Exchanger, World

pytestmark = needs_compiler

HOUR, NOTHING = timedelta(hours=1), timedelta(0)
LATER = {"first": "2s", "max": "2s", "lifetime": "1h", "warn_after": "10m"}


@pytest.fixture
def wall(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def statuses(world: World) -> list[str]:
    return [recipient["status"] for message in world.queue() for recipient in message["recipients"]]


@pytest.mark.parametrize("offset", sampled([10 * YEAR, -10 * YEAR, 2 * HOUR, -2 * HOUR], 2), ids=str)
@in_worlds(0)
def test_a_clock_that_is_set_makes_no_mail_fail_or_stand_still(
    world: World, mx: Exchanger, wall: WallClock, offset: timedelta
) -> None:
    """P7: mail that waits is tried as often as before, not given up, no sender is warned, and new mail goes out."""
    mx.on_rcpt = lambda envelope, address: "451 4.3.0 not now" if address.startswith("late") else "250 2.1.5 ok"
    world.configure(retry=LATER)
    with world.relaying(environment=wall.environment) as daemon:
        for number in range(20):
            world.send(f"late{number}@example.test")
        wait_until(lambda: daemon.log.count("status=deferred") >= 20, "the first tries")
        wall.turn(offset)
        daemon.logged("event=clock-set")
        tried = daemon.log.count("status=deferred")
        wait_until(lambda: daemon.log.count("status=deferred") >= tried + 20, "another try of each", timeout=10)
        world.send("new@example.test")
        daemon.logged("r=new@example.test status=delivered")
        mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
        wait_until(lambda: daemon.log.count("status=delivered") == 21, "all of them")

    assert "status=failed" not in daemon.log
    assert "event=notified" not in daemon.log
    assert "dup=possible" not in daemon.log
    assert len(mx.taken) == 21


@pytest.mark.parametrize("offset", sampled([10 * YEAR, -10 * YEAR, 2 * HOUR, -2 * HOUR], 2), ids=str)
def test_a_clock_that_was_set_while_nobody_ran_makes_no_mail_fail_or_stand_still(
    world: World, mx: Exchanger, wall: WallClock, offset: timedelta
) -> None:
    """P7: the same over a restart, and what could not be tried meanwhile is tried first."""
    mx.on_rcpt = lambda envelope, address: "451 4.3.0 not now"
    world.configure(retry=LATER)
    for number in range(20):
        world.send(f"late{number}@example.test")
    with world.daemon("--once", environment=wall.environment) as daemon:
        assert daemon.wait() == 75
    wall.turn(offset)
    with world.relaying(environment=wall.environment) as daemon:
        wait_until(lambda: daemon.log.count("status=deferred") >= 20, "a try of each", timeout=15)
        assert set(statuses(world)) == {"deferred"}
        mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
        wait_until(lambda: len(mx.taken) == 20, "all of them")

    assert "status=failed" not in daemon.log
    assert "event=notified" not in daemon.log


def test_a_site_that_backs_off_does_so_as_long_as_before_the_clock_was_set(world: World, wall: WallClock) -> None:
    """P7: the back-off of a site is time that passes, not a time of day."""
    dead = world.exchanger("mx.example.test", alive=False)
    world.domain("example.test", dead)
    world.port = 1
    world.configure(retry=LATER)
    with world.relaying(environment=wall.environment) as daemon:
        world.send("bob@example.test")
        daemon.logged("event=site-backs-off .*failures=1")
        wall.turn(-10 * YEAR)
        daemon.logged("event=site-backs-off .*failures=2", timeout=10)
        wall.turn(NOTHING)
        daemon.logged("event=site-backs-off .*failures=4", timeout=15)

    (message,) = world.queue()
    assert message["recipients"][0]["status"] == "deferred"


def test_what_a_clock_that_was_put_right_lost_is_no_age(world: World, mx: Exchanger, wall: WallClock) -> None:
    """P7: a machine without a clock of its own starts in the past, and is told the time when it has mail already."""
    mx.on_rcpt = lambda envelope, address: "451 4.3.0 not now"
    world.configure(retry=LATER)
    wall.turn(-10 * YEAR)
    with world.relaying(environment=wall.environment) as daemon:
        world.send("bob@example.test")
        daemon.logged("status=deferred .*n=1")
        wall.turn(NOTHING)
        daemon.logged("event=clock-set by=\\+3")
        daemon.logged("status=deferred .*n=3", timeout=10)
        (found,) = [
            each for each in json.loads(world.command("doctor", "--json").stdout) if each["what"] == "expired"
        ] or [None]
        assert found is None

    assert "status=failed" not in daemon.log


def test_a_message_still_fails_when_its_lifetime_was_lived(world: World, mx: Exchanger, wall: WallClock) -> None:
    """P7: a leap makes its life no longer than the lifetime after it."""
    mx.on_rcpt = lambda envelope, address: "451 4.3.0 not now"
    world.configure(retry={"first": "500ms", "max": "500ms", "lifetime": "4s", "warn_after": "0s"})
    with world.relaying(environment=wall.environment) as daemon:
        world.send("bob@example.test")
        daemon.logged("status=deferred")
        wall.turn(10 * YEAR)
        set_at = time.monotonic()
        daemon.logged("r=bob@example.test status=failed")
        lived = time.monotonic() - set_at

    assert 2.0 < lived < 10.0
    assert daemon.log.count("r=bob@example.test status=deferred") >= 4


@in_worlds(0)
def test_a_daemon_that_was_stopped_for_long_goes_on_where_it_was(world: World, mx: Exchanger) -> None:
    """P7: a suspended machine, here a stopped process: its connections are dead, and its waits are over."""
    world.configure(
        retry={"first": "1s", "max": "1s", "lifetime": "1h"},
        timeouts={"final": "2s", "rcpt": "2s"},
        relay={"processes": world.processes},
    )
    with world.relaying() as daemon:
        for number in range(30):
            world.send(f"bob{number}@example.test")
        daemon.logged("status=delivered")
        os.killpg(daemon.pid, signal.SIGSTOP)
        time.sleep(6.0)  # longer than every wait of this configuration
        for number in range(30, 40):
            world.send(f"bob{number}@example.test")
        os.killpg(daemon.pid, signal.SIGCONT)
        wait_until(lambda: len({name for envelope in mx.taken for name in envelope.rcpt_tos}) == 40, "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")

    twice = len(mx.taken) - 40
    assert twice <= daemon.log.count("dup=possible")
    assert "status=failed" not in daemon.log
