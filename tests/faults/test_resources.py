"""P5, P6: few file descriptors, little memory: less is done at once, nothing is lost, and it ends with the want."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from aiosmtpd.smtp import Envelope

from tests.faults.sample import in_worlds, sampled
from tests.support.disks import calm
from tests.support.process import Daemon, wait_until
from tests.support.world import World, a_message

MIB = 1024 * 1024


def recipients(world: World) -> Counter[str]:
    return Counter(name for mx in world.exchangers for envelope in mx.taken for name in envelope.rcpt_tos)


def many_sites(world: World, count: int, seconds: float = 0.0) -> None:
    """Domains each with an exchanger of its own, which takes its time."""

    async def answer(envelope: Envelope, address: str) -> str:
        await asyncio.sleep(seconds)
        return "250 2.0.0 taken"

    for number in range(count):
        exchanger = world.exchanger(f"mx{number}.test")
        exchanger.on_data = answer
        world.domain(f"d{number}.test", exchanger)


def limit(daemon: Daemon, soft: int) -> None:
    """Let the daemon have so many file descriptors, and its workers."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    for pid in (daemon.pid, *map(int, children)):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, 4096))


@in_worlds(1)
@pytest.mark.parametrize("spare", sampled([3, 1, 10], 1))
def test_with_few_file_descriptors_less_is_done_at_once_and_all_in_the_end(world: World, spare: int) -> None:
    """P5: the limit bites while mail to many sites is under way and arrives, and is lifted then."""
    many_sites(world, 30, seconds=0.2)
    world.configure(retry={"first": "500ms", "max": "1s"})
    names = [f"r{number}@d{number % 30}.test" for number in range(120)]
    with world.relaying() as daemon:
        limit(daemon, len(os.listdir(f"/proc/{daemon.pid}/fd")) + spare)
        for name in names:
            world.send(name)
        with calm(daemon, 3.0, 0.9):
            daemon.logged("event=(degraded|site-backs-off|trouble)|status=def")
        limit(daemon, 4096)
        wait_until(lambda: set(recipients(world)) == set(names), "all of them", timeout=60)
        wait_until(lambda: not world.queue(), "an empty queue")
        with calm(daemon, 1.0, 0.2):
            world.send("last@d0.test")
            daemon.logged("r=last@d0.test status=delivered")

    assert max(recipients(world).values()) == 1
    assert "status=failed" not in daemon.log
    assert "Traceback" not in daemon.log


@pytest.mark.timeout(500)
@pytest.mark.parametrize("most", [40, 34])
def test_with_forty_file_descriptors_from_the_start_mail_flows(world: World, most: int) -> None:
    """P5: FAULTS.md's own number, and six more than a daemon has open that does nothing: what came in and cannot be
    synced must not hold those open that the sync needs.  Ten seconds, or minutes where much else runs: sites take what
    others lack."""
    many_sites(world, 30)
    world.configure(retry={"first": "300ms", "max": "500ms"})
    names = [f"r{number}@d{number % 30}.test" for number in range(90)]
    with world.relaying(prefix=["prlimit", f"--nofile={most}:{most}"]) as daemon:
        for name in names:
            world.send(name)
        wait_until(lambda: set(recipients(world)) == set(names), "all of them", timeout=200)
        wait_until(lambda: not world.queue(), "an empty queue", timeout=200)

    assert max(recipients(world).values()) == 1
    assert "status=failed" not in daemon.log


@pytest.mark.parametrize("spare", sampled([24, 8, 48], 1))
def test_without_memory_a_daemon_that_goes_on_or_dies_has_lost_nothing(world: World, spare: int) -> None:
    """P6: an address space that large messages fill; whatever ends is started again, as systemd does."""
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    world.configure(retry={"first": "300ms", "max": "500ms"})
    names = [f"r{number}@example.test" for number in range(60)]
    with world.daemon() as daemon:
        daemon.ready()
        pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE") + spare * MIB
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size, size))
        for number, name in enumerate(names):
            world.drop(a_message(name) + (b"y" * 70 + b"\n") * (100_000 if number % 5 == 0 else 10))
        wait_until(lambda: not daemon.running or len(mx.taken) >= 60 or stuck(daemon), "a want", timeout=60)
        print(f"{'runs' if daemon.running else 'died'}; {len(recipients(world))} delivered")
        daemon.kill()
    with world.relaying() as daemon:
        world.command("queue", "release", "--all")
        wait_until(lambda: set(recipients(world)) == set(names), "all of them", timeout=60)
        wait_until(lambda: not world.queue(), "an empty queue")

    assert not list(world.spool.glob("rejected/*"))


def stuck(daemon: Daemon) -> bool:
    return "MemoryError" in daemon.log or "Cannot allocate" in daemon.log


def memory_controller() -> tuple[Path, str] | None:
    """Where groups with a limit of memory are made, and the file for it: of version 1 of control groups, or of 2
    (cgroups(7))."""
    first, second = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    if (first / "memory.limit_in_bytes").exists():
        return first, "memory.limit_in_bytes"
    control = second / "cgroup.subtree_control"
    if not control.exists():
        return None
    with contextlib.suppress(OSError):  # not offered here, or the group has processes of its own
        control.write_text("+memory")
    return (second, "memory.max") if "memory" in control.read_text().split() else None


def test_a_daemon_that_the_kernel_kills_for_its_memory_has_lost_nothing(world: World) -> None:
    """P6: a memory limit of a control group, as the unit's MemoryMax."""
    found = memory_controller() if os.geteuid() == 0 else None
    if found is None:
        pytest.skip("needs root, and the memory controller of control groups")
    group, limit = found[0] / "relayd-test", found[1]
    mx = world.exchanger("mx.example.test")
    world.domain("example.test", mx)
    names = [f"r{number}@example.test" for number in range(40)]
    group.mkdir(exist_ok=True)
    try:
        with world.daemon() as daemon:
            daemon.ready()
            (group / "cgroup.procs").write_text(str(daemon.pid))
            for name in names:
                world.drop(a_message(name) + (b"y" * 70 + b"\n") * 20_000)
            (group / limit).write_text(str(8 * MIB))
            wait_until(lambda: not daemon.running or len(mx.taken) == 40, "a kill, or none")
            print(f"{'killed' if not daemon.running else 'lives'} with {len(mx.taken)} delivered")
            daemon.kill()
    finally:
        subprocess.run(["rmdir", str(group)], check=False)
    with world.relaying():
        wait_until(lambda: set(recipients(world)) == set(names), "all of them", timeout=60)
        wait_until(lambda: not world.queue(), "an empty queue")
