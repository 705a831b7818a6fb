"""FAULTS.md, "Hostile drop files": what is no plain complete file of its own (F1, F2, F4, F8, F13, F14).

The daemon runs as whoever runs the tests; test_drop_files_of_others.py has it unprivileged.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from asyncinotify import Inotify, Mask

from tests.faults.kit import delivered, forget_peak, peak, root_only, rounds, told, unwell
from tests.faults.sample import ALL
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message, octets


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    (world.spool / "new").mkdir(parents=True)
    return exchanger


def odd_objects(world: World) -> list[Path]:
    """Put everything into the drop directory that is no regular file; return where the daemon must not look."""
    new, elsewhere = world.spool / "new", world.directory / "secret"
    elsewhere.write_bytes(a_message("secret@example.test"))
    (new / "to-shadow").symlink_to("/etc/shadow")
    (new / "to-secret").symlink_to(elsewhere)
    (new / "to-itself").symlink_to("to-itself")
    (new / "dangling").symlink_to("nothing")
    os.mkfifo(new / "fifo")
    (new / "directory").mkdir()
    (new / "x.eml").mkdir()
    (world.spool / "y.eml").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(new / "socket"))
    if os.geteuid() == 0:
        os.mknod(new / "device", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    return [elsewhere, *(path for path in (*new.iterdir(), world.spool / "y.eml") if not path.is_symlink())]


@contextmanager
def unopened(paths: list[Path]) -> Iterator[None]:
    """Watch that nobody opens these; what is opened to prove that the watch works is the last of them."""
    with Inotify(sync_timeout=0) as inotify:
        for path in paths:
            inotify.add_watch(path, Mask.OPEN)
        yield
        paths[0].read_bytes()
        opened = [event.watch.path for event in inotify if event.watch]
    assert opened == [paths[0]]


def test_what_is_no_regular_file_is_never_opened_stays_and_is_told_of_once(world: World, mx: Exchanger) -> None:
    """F1: symbolic links, a FIFO, a socket, a device, directories; told of once, not once for each look."""
    forbidden = odd_objects(world)
    names = [*os.listdir(world.spool / "new"), "y.eml"]
    with unopened(forbidden), world.relaying() as daemon:
        rounds(world, mx, 5)
        for name in names:
            (line,) = told(daemon, "left", name)
            assert line.endswith('reason="it is not a regular file; remove it"')
        assert not unwell(daemon)

    assert sorted(os.listdir(world.spool / "new")) == sorted(set(names) - {"y.eml"})
    assert {each.rcpt_tos[0] for each in mx.taken} == {"marker@example.test"}


def test_a_file_with_another_link_stays_until_it_is_the_only_one(world: World, mx: Exchanger) -> None:
    """F2: whoever has the other link could change what was accepted; a Maildir writer's own link in tmp/ is none."""
    other = world.directory / "other"
    other.write_bytes(a_message("linked@example.test"))
    (world.spool / "tmp").mkdir()
    (world.spool / "tmp" / "its.name").write_bytes(a_message("maildir@example.test"))
    os.link(other, world.spool / "new" / "linked")
    os.link(world.spool / "tmp" / "its.name", world.spool / "new" / "its.name")
    with world.relaying() as daemon:
        daemon.logged("r=maildir@example.test status=delivered")
        daemon.logged("event=left file=linked ")
        rounds(world, mx)
        assert "r=linked@" not in daemon.log
        other.write_bytes(a_message("linked@example.test", subject="changed"))
        other.unlink()
        daemon.logged("r=linked@example.test status=delivered")
        assert len(told(daemon, "left", "linked")) <= 2  # once more after it was written to
        assert not unwell(daemon)

    assert os.listdir(world.spool / "tmp") == []
    (envelope,) = [each for each in mx.taken if each.rcpt_tos == ["linked@example.test"]]
    assert b"Subject: changed" in octets(envelope)


def test_a_sparse_file_of_ten_gigabytes_is_rejected_unread(world: World, mx: Exchanger) -> None:
    """F4: by its size alone; memory stays flat."""
    with world.relaying() as daemon:
        rounds(world, mx)
        forget_peak(daemon)
        before = peak(daemon)
        (world.spool / "tmp" / "sparse").touch()
        os.truncate(world.spool / "tmp" / "sparse", 10 * 1024**3)
        (world.spool / "tmp" / "sparse").rename(world.spool / "new" / "sparse")
        line = daemon.logged('event=rejected file=sparse reason="the file has 10737418240 octets and the limit').string
        assert "raise relay.max_message_size" in line
        assert peak(daemon) - before < 2048

    assert (world.spool / "rejected" / "sparse").stat().st_size == 10 * 1024**3
    assert (world.spool / "rejected" / "sparse.reason.txt").exists()


VERSIONS = 20_000 if ALL else 300  # of each name
REPLACER = """
import os, sys
spool, name, versions = sys.argv[1], sys.argv[2], int(sys.argv[3])
for version in range(versions):
    with open(f"{spool}/tmp/{name}", "w") as file:
        file.write(f"X-Sender: <ann@sender.test>\\nX-Receiver: <{name}.{version}@example.test>\\n"
                   f"From: ann@sender.test\\nSubject: {name}.{version}\\n\\n{name}.{version}\\n")
    os.replace(f"{spool}/tmp/{name}", f"{spool}/new/{name}")
    if name.startswith("gone"):
        try:
            os.unlink(f"{spool}/new/{name}")
        except FileNotFoundError:
            pass
"""


def test_files_that_vanish_or_are_replaced_under_its_hands_are_sent_once_as_they_were(
    world: World, mx: Exchanger
) -> None:
    """F8: two processes replace, two remove; of what is replaced the last version arrives, and no mixture of two."""
    with world.relaying() as daemon:
        writers = [
            subprocess.Popen([sys.executable, "-S", "-c", REPLACER, str(world.spool), name, str(VERSIONS)])
            for name in ("kept1", "kept2", "gone1", "gone2")
        ]
        assert [writer.wait(600) for writer in writers] == [0, 0, 0, 0]
        for name in ("kept1", "kept2"):
            daemon.logged(f"r={name}.{VERSIONS - 1}@example.test status=delivered")
        rounds(world, mx)
        assert not unwell(daemon)
        assert "event=left" not in daemon.log
        assert "event=rejected" not in daemon.log

    raced = [each for each in mx.taken if each.rcpt_tos != ["marker@example.test"]]
    assert len({each.rcpt_tos[0] for each in raced}) == len(raced)
    for each in raced:
        version = each.rcpt_tos[0].removesuffix("@example.test").encode()
        assert octets(each).endswith(b"Subject: " + version + b"\r\n\r\n" + version + b"\r\n")


def test_the_same_file_twice_is_two_messages(world: World, mx: Exchanger) -> None:
    """F13: by two names, and again by the first one's name: nobody but the producer knows that it is one."""
    for name in ("a", "b", "a"):
        world.drop(a_message("twice@example.test", **{"Message-ID": "<same@sender.test>"}), name)
        if name == "b":
            daemon = world.daemon("--once")
            with daemon:
                assert daemon.wait() == 0
    with world.relaying():
        wait_until(lambda: len(mx.taken) == 3, "three deliveries")

    assert len({octets(each) for each in mx.taken}) == 3  # by their Received fields
    assert {each["Message-ID"] for each in mx.messages} == {"<same@sender.test>"}


@contextmanager
def attributes(*paths: Path) -> Iterator[None]:
    """Make a file immutable, the next append-only, and so on, as long as the context lasts."""
    try:
        for path, attribute in zip(paths, "iai", strict=False):
            subprocess.run(["chattr", f"+{attribute}", str(path)], check=True, capture_output=True)
        yield
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file can be made immutable here: {error}")
    finally:
        existing = [str(path) for path in paths if path.exists()]
        subprocess.run(["chattr", "-i", "-a", *existing], check=False, capture_output=True)


@root_only
def test_a_file_that_cannot_be_moved_away_is_never_sent_told_of_once_and_keeps_no_other(
    world: World, mx: Exchanger
) -> None:
    """F14: immutable and append-only files, ours and another user's; sent when the attribute has gone."""
    names = ["immutable", "append-only", "another-users"]
    for name in names:
        (world.spool / "new" / name).write_bytes(a_message(f"{name}@example.test"))
    os.chown(world.spool / "new" / "another-users", 65534, 65534)
    with world.daemon() as daemon:
        with attributes(*(world.spool / "new" / name for name in names)):
            daemon.ready()
            for name in names:
                daemon.logged(f"event=left file={name} ")
            rounds(world, mx, 5)
            assert sorted(set(delivered(daemon))) == ["marker@example.test"]
            assert [len(told(daemon, "left", name)) for name in names] == [1, 1, 1]
            assert not unwell(daemon)
        for name in names:
            daemon.logged(f"r={name}@example.test status=delivered")
        daemon.terminate()
        assert daemon.wait() == 0

    assert len({each.rcpt_tos[0] for each in mx.taken}) == 4
    assert len(mx.taken) == 5 + 3
