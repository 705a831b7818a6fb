"""P3, F12: a disk that is full, has no inode left, or is read-only, at each stage of a message, and is well again.

What is claimed each time: nothing lost and nothing twice, no storm (processor time and lines while it lasts), the
trouble is seen in the log, by `relayd doctor` and in the service manager's status, and it ends by itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest
from aiosmtpd.smtp import Envelope

from tests.faults.sample import sampled
from tests.support.disks import SmallDisk, calm, read_only, root_only, seen_degraded, small_disk, troubles
from tests.support.mta import free_port
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message

pytestmark = root_only

Fault = Callable[[SmallDisk], AbstractContextManager[None]]
NOBODY = 65534
MANY = 40
WATCHED = {"WATCHDOG_USEC": "400000"}  # so that the status is told often


@contextmanager
def full(disk: SmallDisk) -> Iterator[None]:
    disk.fill()
    yield
    disk.free()


@contextmanager
def without_inodes(disk: SmallDisk) -> Iterator[None]:
    disk.fill_inodes()
    yield
    disk.free_inodes()


@contextmanager
def unwritable(disk: SmallDisk) -> Iterator[None]:
    with read_only(disk.path):
        yield


@pytest.fixture
def disk(world: World) -> Iterator[SmallDisk]:
    world.http_port = free_port()
    with small_disk(world.spool, "size=32m,nr_inodes=4096") as disk:
        yield disk


@contextmanager
def stopped(daemon: Daemon) -> Iterator[None]:
    """What happens in the body happens to the daemon at one instant."""
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


ARRIVALS = [
    (unwritable, NOBODY),
    (full, NOBODY),
    (full, 0),
    (without_inodes, 0),
    (without_inodes, NOBODY),
    (unwritable, 0),
]


@pytest.mark.parametrize(("fault", "owner"), sampled(ARRIVALS, 1))
def test_files_that_arrive_stay_until_the_disk_is_well(
    world: World, mx: Exchanger, disk: SmallDisk, fault: Fault, owner: int
) -> None:
    """P3, F12: own files are moved, those of others are copied, which needs room before anything is committed."""
    names = [f"r{number}" for number in range(MANY)]
    with world.relaying(environment=WATCHED) as daemon, ExitStack() as trouble:
        for name in names:
            (world.spool / "tmp" / name).write_bytes(a_message(f"{name}@example.test"))
            os.chown(world.spool / "tmp" / name, owner, owner)
        with stopped(daemon):
            for name in names:
                (world.spool / "tmp" / name).rename(world.spool / "new" / name)
            trouble.enter_context(fault(disk))
        with calm(daemon):
            part = daemon.logged(r"event=degraded part=(\w+)")[1]
        assert len(troubles(daemon)) <= 4
        seen_degraded(world, daemon, part)
        trouble.close()
        daemon.logged(f"event=restored part={part}")
        wait_until(lambda: len(mx.taken) >= MANY, "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert recipients(mx) == Counter(f"{name}@example.test" for name in names)
    assert not list((world.spool / "queue" / "incoming").iterdir())
    assert "dup=possible" not in daemon.log


@pytest.mark.parametrize("fault", sampled([without_inodes, full, unwritable], 1))
def test_notifications_that_cannot_be_written_are_made_when_the_disk_is_well(
    world: World, mx: Exchanger, disk: SmallDisk, fault: Fault
) -> None:
    """P3: each bounce is made once, however often it could not be."""
    reached: list[str] = []
    opened: list[bool] = []

    async def never(envelope: Envelope, address: str) -> str:
        reached.append(address)
        while not opened and not address.endswith("@sender.test"):
            await asyncio.sleep(0.01)
        return "250 2.1.5 ok" if address.endswith("@sender.test") else "550 5.1.1 nobody"

    mx.on_rcpt = never
    with world.relaying(environment=WATCHED) as daemon:
        for number in range(MANY):
            world.send(f"r{number}@example.test", sender=f"s{number}@sender.test")
        wait_until(lambda: reached, "a recipient")
        with fault(disk):
            opened.append(True)
            with calm(daemon, 3.0):
                part = daemon.logged(r"event=degraded part=(queue|notifications)")[1]
            seen_degraded(world, daemon, part)
        daemon.logged(f"event=restored part={part}")
        wait_until(lambda: len(mx.taken) >= MANY, "all bounces")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert recipients(mx) == Counter(f"s{number}@sender.test" for number in range(MANY))


@pytest.mark.parametrize("fault", sampled([full, unwritable], 1))
def test_what_is_finished_is_cleaned_away_when_the_disk_is_well(
    world: World, mx: Exchanger, disk: SmallDisk, fault: Fault
) -> None:
    """P3: bodies are unlinked and history is forgotten in the end, also when the log of the queue could not grow."""
    gates: list[bool] = []

    async def late(envelope: Envelope, address: str) -> str:
        while not gates:
            await asyncio.sleep(0.01)
        return "250 2.0.0 taken"

    mx.on_data = late
    world.configure(relay={"history": "1s", "max_connections": 5})
    with world.relaying(environment=WATCHED) as daemon:
        for number in range(300):
            world.send(f"r{number}@example.test")
        wait_until(lambda: daemon.log.count("event=accepted") == 300, "the queue")
        with fault(disk):
            gates.append(True)
            with calm(daemon):
                daemon.logged("event=degraded|status=delivered")
        wait_until(lambda: len(mx.taken) >= 300, "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")
        wait_until(lambda: not bodies(world.spool), "no bodies")
        wait_until(lambda: not degraded_now(daemon), "all well")

    assert recipients(mx) == Counter(f"r{number}@example.test" for number in range(300))
    assert "dup=possible" not in daemon.log


def bodies(spool: Path) -> list[Path]:
    return [path for path in (spool / "queue").glob("??/*") if path.is_file()]


def degraded_now(daemon: Daemon) -> set[str]:
    found: set[str] = set()
    for line in daemon.lines:
        if match := re.search(r"event=(degraded|restored) part=(\w+)", line):
            (found.add if match[1] == "degraded" else found.discard)(match[2])
    return found


def test_a_worker_that_finds_no_room_for_its_notes_is_started_when_there_is_some(
    world: World, mx: Exchanger, disk: SmallDisk
) -> None:
    """P3: without room for its notes nothing is sent, for nobody could tell what may have arrived."""
    world.configure(relay={"processes": 1}, retry={"first": "300ms", "max": "300ms"})
    with world.relaying(environment=WATCHED) as daemon:
        world.send("before@example.test")
        daemon.logged("r=before@example.test status=delivered")
        (worker,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        with stopped(daemon):
            world.send("bob@example.test")
            disk.fill()
            os.kill(int(worker), signal.SIGKILL)
        with calm(daemon):
            daemon.logged("event=degraded")
        disk.free()
        daemon.logged("r=bob@example.test status=delivered")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert recipients(mx) == Counter({"before@example.test": 1, "bob@example.test": 1})


def test_a_log_on_the_full_disk_costs_its_lines_and_nothing_else(world: World, mx: Exchanger, disk: SmallDisk) -> None:
    """P3, P10: lines are dropped and counted; deliveries go on as far as there is room for the queue."""
    log = disk.path / "log"
    with small_disk(world.directory / "logs", "size=64k") as small:
        log = small.path / "log"
        with world.daemon(prefix=["sh", "-c", f'exec "$@" 2>>{log}', "sh"]) as daemon:
            daemon.ready()
            small.fill()
            for number in range(MANY):
                world.send(f"r{number}@example.test")
            wait_until(lambda: len(mx.taken) == MANY, "all of them")
            small.free()
            world.send("last@example.test")
            wait_until(lambda: "event=log-lines-dropped lines=" in log.read_text(), "the count of what is missing")
            wait_until(lambda: len(mx.taken) == MANY + 1, "the last of them")
            daemon.terminate()
            assert daemon.wait() == 0

    assert recipients(mx) == Counter([*(f"r{number}@example.test" for number in range(MANY)), "last@example.test"])


def test_a_start_on_a_read_only_disk_is_refused_with_words(world: World, mx: Exchanger, disk: SmallDisk) -> None:
    """P3: and a start when it is well again finds everything."""
    world.configure()
    world.send("bob@example.test")
    with read_only(disk.path), world.daemon() as daemon:
        assert daemon.wait() == 71
        assert "Read-only file system" in daemon.log
        assert "Traceback" not in daemon.log
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
    assert recipients(mx) == Counter({"bob@example.test": 1})
