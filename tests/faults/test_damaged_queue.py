"""P3: `queue.db` is damaged, cut off or removed under the daemon, or its log is: told in words, rebuilt, nothing lost.

What is there at a start is in tests/wire/test_recover.py.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from aiosmtpd.smtp import Envelope

from tests.faults.sample import sampled
from tests.support.disks import degraded
from tests.support.process import wait_until
from tests.support.world import Exchanger, World

MANY = 60


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


def overwrite(database: Path) -> None:
    """All pages but the first, with what is no page."""
    size = database.stat().st_size
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def cut_off(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2 // 4096 * 4096)


def filled(world: World, mx: Exchanger) -> set[str]:
    """A queue whose pages are in the file, not in its log; the daemon does not run."""
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    names = {f"bob{number}@example.test" for number in range(MANY)}
    for name in names:
        world.send(name)
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    return names


@pytest.mark.parametrize("damage", sampled([overwrite, cut_off], 1))
def test_a_queue_that_is_damaged_under_the_daemon_is_told_and_rebuilt(
    world: World, mx: Exchanger, damage: Callable[[Path], None]
) -> None:
    """P3: the daemon says so as soon as it reads there, harms nothing, and names the remedy."""
    names = filled(world, mx)
    with world.daemon() as daemon:
        daemon.ready()
        damage(world.spool / "queue.db")
        world.command("queue", "retry", "--all")
        daemon.logged("event=degraded .*malformed|event=degraded .*corrupt|event=degraded .*disk I/O error")
        assert degraded(world)
        daemon.terminate()
        assert daemon.wait() == 0
    with world.daemon() as refused:
        assert refused.wait() == 70
        assert "relayd recover" in refused.log
    recovered = json.loads(world.command("recover", "--json").stdout)
    assert (recovered["queue"], recovered["rejected"], recovered["unreadable"]) == ("rebuilt", 0, [])
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0

    assert set(recipients(mx)) == names
    twice = {name for name, count in recipients(mx).items() if count > 1}
    assert twice <= {name for name in names if f"r={name} status=delivered" in daemon.log}


def test_a_queue_that_is_removed_under_the_daemon_is_told_by_doctor_and_rebuilt(world: World, mx: Exchanger) -> None:
    """P3: the daemon goes on with the file that it has open; what waits at its end is found in the bodies."""
    names = filled(world, mx)
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now" if address.startswith("bob") else "250 2.1.5 ok"
    with world.daemon() as daemon:
        daemon.ready()
        for path in world.spool.glob("queue.db*"):
            path.unlink()
        world.send("new@example.test")
        daemon.logged("r=new@example.test status=delivered")
        found = json.loads(world.command("doctor", "--json").stdout)
        assert [each["advice"] for each in found if each["what"] == "queue"] == ["stop relayd, then: relayd recover"]
        daemon.terminate()
        assert daemon.wait() == 0
    with world.daemon() as refused:
        assert refused.wait() == 70
        assert "relayd recover" in refused.log
    assert json.loads(world.command("recover", "--json").stdout)["queued"] == MANY
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0

    assert recipients(mx) == Counter([*names, "new@example.test"])
    assert daemon.log.count("dup=possible") == MANY


@pytest.mark.parametrize("left", sampled([0.4, 0.0, 0.9], 1))
def test_after_a_kill_a_log_of_the_queue_that_was_cut_off_loses_nothing(
    world: World, mx: Exchanger, left: float
) -> None:
    """P3: what only the log had is found in the bodies, and what may have been sent is marked."""
    gates: list[bool] = []

    async def late(envelope: Envelope, address: str) -> str:
        while not gates:
            await asyncio.sleep(0.01)
        return "250 2.0.0 taken"

    mx.on_data = late
    names = {f"bob{number}@example.test" for number in range(MANY)}
    with world.daemon() as daemon:
        daemon.ready()
        for name in names:
            world.send(name)
        wait_until(lambda: daemon.log.count("event=accepted") == MANY, "the queue")
        daemon.kill()
    log = world.spool / "queue.db-wal"
    os.truncate(log, int(log.stat().st_size * left))
    gates.append(True)
    with world.daemon() as daemon:
        if left == 0.0 and not daemon.running:
            pytest.fail(daemon.log)
        daemon.ready()
        wait_until(lambda: names <= set(recipients(mx)), "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")
        daemon.terminate()
        assert daemon.wait() == 0
