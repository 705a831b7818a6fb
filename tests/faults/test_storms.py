"""P11, P16, P17: what is huge does not stall the loop, bounces to a dead sender make no storm, versions do no harm."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter

import pytest

from benchmarks.prober import Prober
from relayd.spool.schema import VERSION
from tests.faults.sample import ALL, in_worlds, sampled
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message

MANY = 100_000 if ALL else 20_000
HUGE = {
    "many recipients": lambda: a_message(*(f"r{number}@example.test" for number in range(MANY))),
    "one long line": lambda: a_message("bob@example.test") + b"x" * 20_000_000,
    "large": lambda: a_message("bob@example.test") + (b"y" * 70 + b"\n") * 700_000,
    "many fields": lambda: b"".join(b"X-%d: y\n" % number for number in range(20_000)) + a_message("bob@example.test"),
    "one long field": lambda: b"Subject: " + b"a, <b@c> (" * 200_000 + b"\n" + a_message("bob@example.test"),
}


@pytest.mark.parametrize("what", sampled(list(HUGE), 1))
def test_what_is_huge_does_not_stall_the_loop(world: World, mx: Exchanger, what: str) -> None:
    """P11: measured from outside, so an upper bound; 250 ms where nothing else runs (`make faults`)."""
    world.configure(relay={"max_message_size": "100MiB"})
    with world.relaying() as daemon, Prober(world.spool) as prober:
        world.drop(HUGE[what](), "huge")
        daemon.logged("event=(accepted|rejected|left)", timeout=90)
        if "event=accepted" in daemon.log:
            wait_until(lambda: not world.queue(), "its end", timeout=90)
    probed = prober.probed
    print(f"{what}: {probed.longest * 1000:.0f} ms, of which the machine may have {probed.late * 1000:.0f}")
    assert probed.longest - probed.late < (0.25 if ALL else 2.0)


@in_worlds(0)
def test_bounces_to_a_dead_sender_make_no_storm(world: World, mx: Exchanger) -> None:
    """P17: each is made once, tried as a site that backs off is, given up in silence, and new mail has its turn."""
    count = 10_000 if ALL else 150
    dead = world.exchanger("mx.gone.test", alive=False)
    world.domain("gone.test", dead)
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 nobody" if address.startswith("bad") else "250 2.1.5 ok"
    lifetime = count / 100 + 5.0
    world.configure(retry={"first": "1s", "max": "2s", "lifetime": f"{lifetime:.0f}s", "warn_after": "0s"})
    started = time.monotonic()
    with world.relaying() as daemon:
        for number in range(count):
            world.send(f"bad{number}@example.test", sender=f"s{number}@gone.test")
        wait_until(lambda: daemon.log.count("event=notified") >= count, "all bounces", timeout=count / 50 + 60)
        began = time.monotonic()
        world.send("new@example.test")
        daemon.logged("r=new@example.test status=delivered")
        assert time.monotonic() - began < 10
        wait_until(lambda: not world.queue(), "their end", timeout=lifetime + 60)

    assert daemon.log.count("event=notified") == count
    assert daemon.log.count("event=not-notified") == count
    lasted = time.monotonic() - started
    assert daemon.log.count("event=site-backs-off site=mx.gone.test") <= lasted / 0.8 + 1  # of the delay four fifths
    assert len(mx.taken) == 1


def test_a_queue_of_a_newer_relayd_is_refused_and_left_as_it_is(world: World, mx: Exchanger) -> None:
    """P16: there and back again, with a full queue and files that wait: nothing is deleted."""
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    names = [f"bob{number}@example.test" for number in range(50)]
    for name in names:
        world.send(name)
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    set_version(world, VERSION + 1)
    waiting = world.send("new@example.test")
    before = {path: path.read_bytes() for path in (world.spool / "queue").glob("??/*")}

    with world.daemon() as newer:
        assert newer.wait() == 70
        assert f"of version {VERSION + 1}, written by a newer relayd; this one knows up to {VERSION}" in newer.log
    assert "written by a newer relayd" in world.command("recover").stderr

    assert waiting.exists()
    assert {path: path.read_bytes() for path in (world.spool / "queue").glob("??/*")} == before
    set_version(world, VERSION)
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    assert json.loads(world.command("queue", "retry", "--all", "--json").stdout)["retried"] == 50
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
    assert Counter(name for each in mx.taken for name in each.rcpt_tos) == Counter([*names, "new@example.test"])


def set_version(world: World, version: int) -> None:
    with sqlite3.connect(world.spool / "queue.db") as database:
        database.execute(f"PRAGMA user_version = {version}")
    database.close()
