"""FAULTS.md, "Hostile drop files", by producers who are other users, to a daemon without privileges (F1, F2, F5, F7).

The daemon runs under the unit's restrictions as `nobody`: without any capability, or with CAP_LEASE as the unit has it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.kit import (
    delivered,
    open_to_all,
    relaying_as_nobody,
    root_only,
    rounds,
    told,
    unprivileged,
    unwell,
)
from tests.faults.sample import ALL
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message, octets

DAEMON = 1  # another user than root and USER
WRITING = 60.0 if ALL else 2.0  # seconds
PAUSE = 0.1  # seconds between two pieces of a slow writer; settle_time is ten times that

pytestmark = root_only


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    world.configure(relay={"settle_time": "1s"})
    return exchanger


def put(path: Path, recipient: str, *, owner: int = DAEMON, mode: int = 0o644) -> None:
    """Appear under the final name at once, as by a rename."""
    staged = path.parent.parent / "tmp" / path.name
    staged.write_bytes(a_message(f"{recipient}@example.test"))
    os.chown(staged, owner, owner)
    staged.chmod(mode)
    staged.rename(path)


@unprivileged
def test_what_may_not_be_read_stays_in_place_and_is_taken_once_it_may(world: World, mx: Exchanger) -> None:
    """F5, F1, F2: mode 000, another owner's 0600, links to what only root may read; told of once."""
    open_to_all(world)
    new = world.spool / "new"
    secret = world.directory / "secret"
    secret.write_bytes(a_message("secret@example.test"))
    secret.chmod(0o600)
    with relaying_as_nobody(world) as daemon:
        put(new / "mode-000", "mode-000", mode=0o000)
        put(new / "private", "private", owner=0, mode=0o600)
        put(new / "readable", "readable", owner=0)
        (new / "to-secret").symlink_to(secret)
        os.link(secret, new / "linked")
        os.mkfifo(new / "fifo")
        daemon.logged("r=readable@example.test status=delivered")
        for name in ("mode-000", "private"):
            daemon.logged(f'event=left file={name} reason="it cannot be opened: Permission denied; let relayd read it"')
        for name in ("to-secret", "linked", "fifo"):
            daemon.logged(f"event=left file={name} ")
        rounds(world, mx, 5)
        assert sorted(set(delivered(daemon))) == ["marker@example.test", "readable@example.test"]
        names = ["mode-000", "private", "to-secret", "linked", "fifo"]
        assert [len(told(daemon, "left", name)) for name in names] == [1] * 5
        assert sorted(os.listdir(new)) == sorted(names)
        for name in ("mode-000", "private"):
            (new / name).chmod(0o644)
            daemon.logged(f"r={name}@example.test status=delivered")
        assert not unwell(daemon)

    assert {each.rcpt_tos[0] for each in mx.taken}.isdisjoint({"secret@example.test"})


class SlowWriter(threading.Thread):
    """Writes a file under its final name in pieces, for WRITING seconds."""

    def __init__(self, path: Path, owner: int) -> None:
        super().__init__()
        self.content = a_message(f"{path.name}@example.test")
        self.begun = threading.Event()
        self._path = path
        self._owner = owner

    def run(self) -> None:
        end = time.monotonic() + WRITING
        with self._path.open("wb", buffering=0) as file:
            os.fchmod(file.fileno(), 0o644)
            os.fchown(file.fileno(), self._owner, self._owner)
            file.write(self.content)
            self.begun.set()
            while time.monotonic() < end:
                time.sleep(PAUSE)
                piece = b"It goes on.\n" * 100
                file.write(piece)
                self.content += piece


@contextmanager
def as_root(world: World) -> Iterator[Daemon]:
    with world.relaying() as daemon:
        yield daemon


@contextmanager
def as_nobody(world: World) -> Iterator[Daemon]:
    open_to_all(world)
    with relaying_as_nobody(world) as daemon:
        yield daemon


@contextmanager
def as_the_unit(world: World) -> Iterator[Daemon]:
    open_to_all(world)
    with relaying_as_nobody(world, lease=True) as daemon:
        yield daemon


@unprivileged
@pytest.mark.parametrize("running", [as_root, as_nobody, as_the_unit])
def test_a_file_that_is_still_written_is_sent_whole_or_not_at_all(
    world: World, mx: Exchanger, running: Callable[[World], Iterator[Daemon]]
) -> None:
    """F7: begun before the start and while it runs, by three users; in pieces, with pauses shorter than settle_time."""
    for name in ("new", "tmp"):
        (world.spool / name).mkdir(parents=True)
    owners = {"roots": 0, "daemons": DAEMON, "nobodys": 65534}
    before = [SlowWriter(world.spool / "new" / f"before-{name}", owner) for name, owner in owners.items()]
    for writer in before:
        writer.start()
    for writer in before:
        writer.begun.wait()
    with running(world) as daemon:  # type: ignore[attr-defined]
        later = [SlowWriter(world.spool / "new" / f"later-{name}", owner) for name, owner in owners.items()]
        for writer in later:
            writer.start()
        for writer in (*before, *later):
            writer.join()
        wait_until(lambda: len(mx.taken) == 6, "all of them")
        assert not unwell(daemon)

    contents = {f"{writer._path.name}@example.test": writer.content for writer in (*before, *later)}
    for each in mx.taken:
        sent = contents.pop(each.rcpt_tos[0]).replace(b"\n", b"\r\n").partition(b"\r\n\r\n")[2]
        assert octets(each).partition(b"\r\n\r\n")[2] == sent
    assert contents == {}
