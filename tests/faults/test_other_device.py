"""F12: `new/` on another file system than `queue/`, or the same one mounted once more: what is dropped is copied.

No rename crosses from one to the other, so the file is claimed where it is, and removed when the copy is a message.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.disks import calm, mount, root_only, seen_degraded, small_disk, unmount
from tests.support.mta import free_port
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message

pytestmark = root_only

NOBODY = 65534


@contextmanager
def another_disk(new: Path) -> Iterator[None]:
    with small_disk(new):
        yield


@contextmanager
def mounted_again(new: Path) -> Iterator[None]:
    """One file system, which refuses renames between two places of its own."""
    new.mkdir(parents=True, exist_ok=True)
    mount("--bind", str(new), str(new))
    try:
        yield
    finally:
        unmount(new)


def drop(world: World, name: str, content: bytes, owner: int = 0) -> None:
    path = world.spool / "new" / f"{name}.part"
    path.write_bytes(content)
    os.chown(path, owner, owner)
    path.rename(world.spool / "new" / name)


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


@pytest.mark.parametrize("apart", [another_disk, mounted_again])
def test_files_from_another_file_system_are_delivered_once(world: World, mx: Exchanger, apart: object) -> None:
    """F12: own files and others, small and large, and what is no message."""
    assert callable(apart)
    with apart(world.spool / "new"), world.relaying() as daemon:
        for number in range(30):
            drop(world, f"f{number}", a_message(f"r{number}@example.test"), owner=NOBODY * (number % 2))
        drop(world, "large", a_message("large@example.test") + (b"x" * 70 + b"\n") * 20_000)
        drop(world, "junk", b"junk\n")
        wait_until(lambda: len(mx.taken) >= 31, "all of them")
        daemon.logged("event=rejected file=junk")
        wait_until(lambda: not world.queue(), "an empty queue")
        wait_until(lambda: not os.listdir(world.spool / "new"), "an empty drop directory")

    assert recipients(mx) == Counter([*(f"r{number}@example.test" for number in range(30)), "large@example.test"])
    assert "event=degraded" not in daemon.log
    assert "event=left" not in daemon.log
    assert (world.spool / "rejected" / "junk").read_bytes() == b"junk\n"


def test_killed_while_it_copies_nothing_is_lost_and_nothing_comes_twice(world: World, mx: Exchanger) -> None:
    """F12: a start finds what was claimed there, and knows what of it is a message already."""
    names = [f"r{number}@example.test" for number in range(400)]
    with small_disk(world.spool / "new"):
        for number, name in enumerate(names):
            drop(world, f"f{number}", a_message(name), owner=NOBODY * (number % 2))
        for _ in range(6):
            with world.daemon() as daemon:
                wait_until(lambda: list((world.spool / "new").glob(".*.orig")) or len(mx.taken) >= 400, "a claim")
                daemon.kill()
        with world.relaying() as daemon:
            assert world.command("queue", "release", "--all").returncode == 0
            wait_until(lambda: len(recipients(mx)) == 400, "all of them")
            wait_until(lambda: not world.queue(), "an empty queue")
            wait_until(lambda: not os.listdir(world.spool / "new"), "an empty drop directory")

    assert set(recipients(mx)) == set(names)


def test_a_drop_directory_that_is_mounted_and_taken_away_while_running(world: World, mx: Exchanger) -> None:
    """F12: told of, no storm, and taken up again; what lay in the other one is served when that is back."""
    world.http_port = free_port()
    with world.relaying(environment={"WATCHDOG_USEC": "400000"}) as daemon:
        new = world.spool / "new"
        with small_disk(new):
            world.spool.joinpath("new", "x.part").write_bytes(a_message("mounted@example.test"))
            (new / "x.part").rename(new / "x")
            daemon.logged("r=mounted@example.test status=delivered")
        world.send("below@example.test")
        daemon.logged("r=below@example.test status=delivered")
        os.rename(new, new.with_name("away"))
        with calm(daemon, 1.0):
            seen_degraded(world, daemon, "pickup")
        (new.with_name("away") / "y").write_bytes(a_message("away@example.test"))
        os.rename(new.with_name("away"), new)
        daemon.logged("event=restored part=pickup")
        daemon.logged("r=away@example.test status=delivered")

    assert recipients(mx).most_common(1)[0][1] == 1
