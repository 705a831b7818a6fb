"""Who can get at what of a spool that is in use: by trying, as each of them, under every umask."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.people import ANN, DROPPERS, MALLORY, STRANGER
from tests.sendmail.support import Sendmail
from tests.support import sandbox
from tests.support.process import ROOT, Daemon, wait_until
from tests.support.world import World, a_message

pytestmark = pytest.mark.skipif(bool(sandbox.unavailable()), reason=sandbox.unavailable() or "-")

UNIT = ROOT / "systemd" / "relayd.service"
PUBLIC = ["cur", "new", "tmp"]


@pytest.fixture
def world() -> Iterator[World]:
    """A world in a directory that all people of the machine can enter."""
    directory = Path(tempfile.mkdtemp(prefix="relayd-people-", dir="/tmp"))
    directory.chmod(0o755)
    try:
        with World(directory) as built:
            yield built
    finally:
        shutil.rmtree(directory)


def a_daemon(world: World, user: str, umask: str) -> Daemon:
    """Return the daemon, as root, or as nobody under the unit's restrictions, whose umask is another."""
    mx = world.exchanger("mx.example.test")
    mx.on_rcpt = lambda envelope, address: "450 4.2.0 not now" if "later" in address else "250 2.1.5 ok"
    world.domain("example.test", mx)
    config = world.configure(retry={"first": "1h", "max": "1h"}, relay={"settle_time": "100ms", "processes": 1})
    if user == "root":
        world.spool.mkdir()
        os.chown(world.spool, 0, DROPPERS)
        world.spool.chmod(0o2750)  # so that the directories in it get the group
        return Daemon(config, prefix=["sh", "-c", f'umask {umask}; exec "$@"', "sh"])
    config.chmod(0o644)
    unit = world.directory / "relayd.service"
    unit.write_text(UNIT.read_text().replace("UMask=0077", f"UMask=0{umask}"))
    world.spool.mkdir()
    for name in ("", *PUBLIC, "queue", "rejected"):
        (world.spool / name).mkdir(exist_ok=True)
        os.chown(world.spool / name, 65534, DROPPERS)
        (world.spool / name).chmod(0o750 if not name else 0o3770 if name in PUBLIC else 0o700)
    return Daemon(config, prefix=sandbox.prefix(unit, user=user, writable=[world.spool], visible=[config]))


def in_use(world: World, daemon: Daemon) -> None:
    """Let Ann have one message delivered, one put off, and one rejected."""
    for name, content in {
        "now": a_message("bob@example.test", sender="ann@example.test"),
        "later": a_message("later@example.test", sender="ann@example.test"),
        "bad": b"no mail\n",
    }.items():
        drop = 'umask 027; cat > "$1/tmp/$2" && mv "$1/tmp/$2" "$1/new/$2"'
        done = ANN.tries(f"printf %s '{content.decode()}' | ({drop})", world.spool, name)
        assert done.returncode == 0, done.stderr
    for told in ("status=delivered", "status=deferred", "event=rejected"):
        daemon.logged(told)
    taken = ("now", "later", "bad")
    wait_until(lambda: not set(taken) & set(os.listdir(world.spool / "new")), "all of it taken")


@pytest.mark.parametrize(("user", "umask"), [("root", "000"), ("root", "077"), ("nobody", "000")])
def test_nobody_else_gets_at_anything_of_a_spool_in_use(world: World, user: str, umask: str) -> None:
    with a_daemon(world, user, umask) as daemon:
        daemon.ready()
        in_use(world, daemon)
        paths = [world.spool, *(path for path in world.spool.rglob("*") if path.name not in PUBLIC)]
        modes = {str(path.relative_to(world.spool)): stat.S_IMODE(path.lstat().st_mode) for path in paths}

        for name in ("queue.db", "queue.db-wal", "queue.db-shm", "lock", "control"):
            assert modes[name] == 0o600, name
        for name, mode in modes.items():
            if name.startswith(("queue/notes", "queue/.notes")) or name.endswith(".reason.txt"):
                assert mode == 0o600, name
        assert modes["keys"] == 0o660, "those who drop may ask for their keys"
        for name in ("queue", "rejected", "queue/incoming", "mta-sts"):
            assert modes[name] == 0o700, name
        assert not modes["."] & 0o022
        bodies = [name for name in modes if name.count("/") == 2 and "incoming" not in name]
        assert {modes[name] for name in bodies} == {0o600}, "our own copies"

        for person in (ANN, MALLORY):
            assert person.sees(world.spool, "-type f -readable") == []
            assert person.sees(world.spool, "-writable ! -type l") == sorted([*PUBLIC, "keys"])
            assert set(person.sees(world.spool, "-type d -readable")) <= {".", *PUBLIC}
        assert STRANGER.sees(world.spool, "-writable ! -type l") == []
        assert set(STRANGER.sees(world.spool, "-readable")) <= {"."}
        assert not STRANGER.can('cd "$1/new" || cd "$1/queue"', world.spool)


def test_a_member_of_the_group_can_do_nothing_to_anothers_file(world: World) -> None:
    with a_daemon(world, "nobody", "077"):  # not started: what is dropped stays
        pass
    theirs = world.spool / "new" / "x"
    assert ANN.can('umask 077; echo hello > "$1/tmp/x" && mv "$1/tmp/x" "$1/new/x"', world.spool)

    assert not MALLORY.can('cat "$1"', theirs)
    assert not MALLORY.can('echo more >> "$1"', theirs)
    assert not MALLORY.can('rm -f "$1"', theirs)
    assert not MALLORY.can('mv "$1" "$1.mine"', theirs)
    assert not MALLORY.can('echo mine > "$2/tmp/x" && mv -f "$2/tmp/x" "$1"', theirs, world.spool)
    assert not MALLORY.can('mv "$1/new" "$1/other" || rmdir "$1/tmp" || mkdir "$1/mine"', world.spool)
    assert not MALLORY.can('ls "$1/queue" || echo x > "$1/queue/x" || echo x > "$1/rejected/x"', world.spool)
    assert theirs.read_text() == "hello\n"


def test_a_member_of_the_group_may_not_speak_to_the_daemon(world: World) -> None:
    with a_daemon(world, "nobody", "077") as daemon:
        daemon.ready()
        connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        for person in (MALLORY, STRANGER):
            refused = person.tries('exec python3 -c "$2" "$1/control"', world.spool, connect)
            assert "PermissionError" in refused.stderr, refused.stderr


def test_a_member_of_the_group_sends_by_sendmail_and_is_told_of_his_own_keys_alone(world: World) -> None:
    with a_daemon(world, "nobody", "077") as daemon:
        daemon.ready()
        sendmail = Sendmail(world.directory)
        words = ("--key", "order 7", "-f", "ann@example.test", "bob@example.test")
        first, again = (sendmail.by(ANN, *words) for _ in range(2))
        others = sendmail.by(MALLORY, *words)
        daemon.logged(f'event=repeated q={first.stdout.decode().strip()} key="order 7" uid={ANN.user}')
        wait_until(lambda: len(world.exchangers[0].taken) == 2, "two deliveries")

    assert {each.returncode for each in (first, again, others)} == {0}
    assert len(first.stdout.strip()) == 20
    assert again.stdout == first.stdout
    assert others.stdout.strip() not in (b"", first.stdout.strip())


def test_who_drops_cannot_ask_for_another_thing_or_hold_the_daemon_up(world: World) -> None:
    with a_daemon(world, "nobody", "077") as daemon:
        daemon.ready()
        hold = "import socket, sys, time\nheld = []\nfor _ in range(200):\n"
        hold += "    held.append(socket.socket(socket.AF_UNIX)); held[-1].connect(sys.argv[1])\n"
        hold += "print(held[-1].recv(9))"
        assert MALLORY.can('python3 -c "$2" "$1/keys"', world.spool, hold)
        for question in ("changed", '{"ask": "state"}'):
            ask = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            ask += "s.sendall(sys.argv[2].encode() + b'\\n'); print(s.recv(99))"
            said = MALLORY.tries('python3 -c "$2" "$1/keys" "$3"', world.spool, ask, question)
            assert said.stdout == "b'\\n'\n", said.stderr

        in_use(world, daemon)


def test_links_and_directories_of_a_member_bring_nothing_to_light(world: World) -> None:
    """F1: the daemon is root here, to whom all would be open."""
    secret = world.directory / "secret"
    secret.write_bytes(a_message("bob@example.test", subject="secret"))
    secret.chmod(0o600)
    with a_daemon(world, "root", "077") as daemon:
        daemon.ready()
        spool = world.spool
        assert MALLORY.can('ln -s "$2" "$1/new/link" && ln -s "$1/new/loop" "$1/new/loop"', spool, secret)
        assert MALLORY.can('mkdir -p "$1/new/dir.eml/new" && mkfifo "$1/new/fifo"', spool)
        assert not MALLORY.can('ln -s "$2" "$1/rejected/bad.reason.txt" || ln -s "$2" "$1/x.eml"', spool, secret)
        for name in ("link", "loop", "dir.eml", "fifo"):
            daemon.logged(rf"event=left file={name} .*not a regular file")
        in_use(world, daemon)

    assert secret.read_bytes() == a_message("bob@example.test", subject="secret")
    assert "secret" not in daemon.log
    assert sorted(os.listdir(spool / "new")) == ["dir.eml", "fifo", "link", "loop"]
