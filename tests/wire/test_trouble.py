"""The daemon in trouble of its own: a full disk, bodies and directories that vanish, a queue that others use as well.

What is claimed each time: nothing lost, nothing twice, no processor time burnt, and the operator can see it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message, with_and_without_workers

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


class SmallDisk:
    """A file system of a few MiB under the spool."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave not an octet."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096) == 4096:
                    pass
            except OSError:
                return

    def free(self) -> None:
        """Make room again."""
        (self.path / "filler").unlink()


@pytest.fixture
def disk(world: World) -> Iterator[SmallDisk]:
    world.spool.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(world.spool)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(world.spool)
    finally:
        subprocess.run(["umount", "-l", str(world.spool)], check=True)


def processor_seconds(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def idle(daemon: Daemon, seconds: float = 2.0, share: float = 0.35) -> Iterator[None]:
    """Watch the daemon for `seconds` after the body: it must not burn more than `share` of a processor."""
    yield
    before = processor_seconds(daemon)
    time.sleep(seconds)  # the time itself is what is measured
    assert processor_seconds(daemon) - before < share * seconds


# a full disk


@root_only
def test_on_a_full_disk_intake_stops_visibly_and_goes_on_by_itself(
    world: World, mx: Exchanger, disk: SmallDisk
) -> None:
    with world.relaying() as daemon:
        dropped = [world.spool / "tmp" / f"{number}" for number in range(700)]
        for number, path in enumerate(dropped):
            path.write_bytes(a_message(f"bob{number}@example.test"))
        disk.fill()
        for path in dropped:
            path.rename(world.spool / "new" / path.name)
        with idle(daemon):
            daemon.logged("event=degraded part=spool")
        assert len([line for line in daemon.lines if "degraded" in line or "trouble" in line]) < 10
        disk.free()
        wait_until(lambda: len(mx.taken) >= 700, "all of them")
        daemon.logged("event=restored part=spool")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert sorted(envelope.rcpt_tos[0] for envelope in mx.taken) == sorted(f"bob{n}@example.test" for n in range(700))
    accepted = [line for line in daemon.lines if "event=accepted" in line]
    assert len(accepted) == 700
    assert all(" file=" in line for line in accepted)


class Gate:
    """Holds the answer to the end of a message back until it is opened; then answers by `reply`."""

    def __init__(self, mx: Exchanger, reply: str) -> None:
        self.reached = 0
        self.opened = False
        self._reply = reply
        mx.on_data = self._answer

    async def _answer(self, envelope: Any, address: str) -> str:
        self.reached += 1
        while not self.opened:
            await asyncio.sleep(0.01)
        return self._reply


@with_and_without_workers
@root_only
def test_what_was_delivered_while_the_disk_was_full_is_recorded_when_there_is_room(
    world: World, mx: Exchanger, disk: SmallDisk
) -> None:
    gate = Gate(mx, "250 2.0.0 taken")
    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(lambda: gate.reached, "the end of the message")
        disk.fill()
        gate.opened = True
        with idle(daemon):
            daemon.logged("event=degraded part=queue")
        assert "status=delivered" not in daemon.log
        disk.free()
        daemon.logged("r=bob@example.test status=delivered")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert len(mx.taken) == 1
    assert "dup=possible" not in daemon.log


@root_only
def test_what_was_deferred_while_the_disk_was_full_does_not_spin(world: World, mx: Exchanger, disk: SmallDisk) -> None:
    gate = Gate(mx, "451 4.3.0 not now")
    with world.relaying() as daemon:
        world.send("bob@example.test")
        wait_until(lambda: gate.reached, "the end of the message")
        disk.fill()
        gate.opened = True
        with idle(daemon):
            daemon.logged("event=degraded part=queue")
        assert gate.reached == 1
        mx.on_data = lambda envelope, address: "250 2.0.0 taken"
        disk.free()
        wait_until(lambda: mx.taken, "the delivery")
        wait_until(lambda: not world.queue(), "an empty queue")

    assert len(mx.taken) == 1


@with_and_without_workers
@root_only
def test_a_stop_on_a_full_disk_ends_and_what_may_have_arrived_is_marked(
    world: World, mx: Exchanger, disk: SmallDisk
) -> None:
    world.configure(relay={"stop_grace": "300ms"})
    gate = Gate(mx, "250 2.0.0 taken")
    with world.daemon() as daemon:
        daemon.ready()
        world.send("bob@example.test")
        wait_until(lambda: gate.reached, "the end of the message")
        disk.fill()
        gate.opened = True
        daemon.logged("event=degraded part=queue")
        daemon.terminate()
        assert daemon.wait(30) == 0
        daemon.logged("event=trouble part=queue detail=.stopped with outcomes that it did not take")
    disk.free()
    with world.relaying() as daemon:
        daemon.logged("event=possible-duplicate q=\\S+ r=bob@example.test")
        daemon.logged("r=bob@example.test status=delivered .*dup=possible")


# what vanishes


@with_and_without_workers
@pytest.mark.parametrize("size", [0, 3_000_000])
def test_a_body_that_is_gone_is_told_waits_and_harms_no_other(world: World, mx: Exchanger, size: int) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1s", "max": "1h", "factor": 100.0})
    world.drop(a_message("bob@example.test") + (b"y" * 70 + b"\n") * (size // 71))
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    (message,) = world.queue()
    (body,) = (world.spool / "queue").glob(f"*/{message['id']}")
    body.unlink()
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"

    with world.relaying() as daemon:
        daemon.logged("r=bob@example.test status=deferred dsn=4.3.0 .*the message's file cannot be read")
        with idle(daemon, 1.0):
            world.send("eve@example.test")
            daemon.logged("r=eve@example.test status=delivered")
        assert "site-backs-off" not in daemon.log

    (message,) = world.queue()
    assert "cannot be read" in message["recipients"][0]["reply"]


def test_a_drop_directory_that_was_removed_is_told_and_taken_up_again_when_it_is_back(
    world: World, mx: Exchanger
) -> None:
    with world.relaying() as daemon:
        with idle(daemon, 1.0):
            shutil.rmtree(world.spool / "new")
            daemon.logged("event=degraded part=pickup")
        (world.spool / "new").mkdir()
        daemon.logged("event=restored part=pickup")
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")


def test_once_ends_with_75_when_it_could_not_look_for_files(world: World, mx: Exchanger) -> None:
    gate = Gate(mx, "250 2.0.0 taken")
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        wait_until(lambda: gate.reached, "the end of the message")
        shutil.rmtree(world.spool / "new")
        daemon.logged("event=degraded part=pickup")
        gate.opened = True
        assert daemon.wait() == 75
        daemon.logged("r=bob@example.test status=delivered")


# others at the queue


def test_the_command_line_works_beside_a_busy_daemon(world: World, mx: Exchanger) -> None:
    for number in range(400):
        world.send(f"bob{number}@example.test")
    with world.relaying() as daemon:
        daemon.logged("status=delivered")
        for verb in ("hold", "release", "retry"):
            assert world.command("queue", verb, "--all").returncode == 0
        assert world.command("queue", "list").returncode == 0
        wait_until(lambda: len(mx.taken) >= 400, "all of them")
        wait_until(lambda: not world.queue(), "an empty queue")
        assert "event=trouble" not in daemon.log
        assert "event=degraded" not in daemon.log

    assert len(mx.taken) == 400


def test_a_reload_during_the_start_is_heard(world: World, mx: Exchanger) -> None:
    world.configure()
    for number in range(3):
        world.send(f"bob{number}@example.test")
    with world.daemon() as daemon:
        wait_until(lambda: (world.spool / "lock").exists() or not daemon.running, "the lock")
        for _ in range(20):
            daemon.reload()
            time.sleep(0.01)
        daemon.ready()
        daemon.logged("event=reloaded")
        wait_until(lambda: len(mx.taken) == 3, "all of them")
        assert "Traceback" not in daemon.log
        assert "event=library" not in daemon.log
        daemon.terminate()
        assert daemon.wait() == 0
