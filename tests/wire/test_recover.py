"""`relayd recover`: queue.db is lost or damaged; nothing else is, and what may come twice says so."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from relayd.mail.message import new_id
from tests.support.process import ROOT, wait_until
from tests.support.world import Exchanger, World, a_message


@pytest.fixture
def mx(world: World) -> Exchanger:
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    return exchanger


def put_off(world: World, mx: Exchanger, *recipients: str) -> set[str]:
    """Have messages accepted and deferred, the daemon stopped; return their ids."""
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    for recipient in recipients:
        world.send(recipient)
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    mx.on_rcpt = lambda envelope, address: "250 2.1.5 ok"
    return {message["id"] for message in world.queue()}


def lose(database: Path) -> None:
    database.unlink()


def fill_with_garbage(database: Path) -> None:
    database.write_bytes(os.urandom(20_000))


def cut_off(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


@pytest.mark.parametrize("damage", [lose, fill_with_garbage, cut_off])
def test_the_daemon_refuses_recover_rebuilds_and_all_is_delivered_marked(
    world: World, mx: Exchanger, damage: Callable[[Path], None]
) -> None:
    ids = put_off(world, mx, *(f"bob{n}@example.test" for n in range(12)))
    damage(world.spool / "queue.db")

    with world.daemon() as refused:
        assert refused.wait() == 70
        assert "relayd recover" in refused.log
    recovered = world.command("recover", "--json")

    assert recovered.returncode == 0, recovered.stderr
    counts = json.loads(recovered.stdout)
    assert (counts["queue"], counts["queued"], counts["rejected"], counts["unreadable"]) == ("rebuilt", 12, 0, [])
    assert (counts["moved_to"] is None) == (damage is lose)
    listed = world.queue()
    assert {message["id"] for message in listed} == ids
    assert all(recipient["possible_duplicate"] for message in listed for recipient in message["recipients"])
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
        daemon.logged(r"r=bob11@example.test status=delivered .*dup=possible")
    assert len(mx.taken) == 12


def test_a_sound_queue_is_left_alone_and_said_to_be(world: World, mx: Exchanger) -> None:
    put_off(world, mx, "bob@example.test")

    recovered = world.command("recover")

    assert recovered.returncode == 0
    assert recovered.stdout == "the queue is sound; nothing was changed\n"
    assert not world.queue()[0]["recipients"][0]["possible_duplicate"]
    assert not list(world.spool.glob("queue.db.*"))


def test_a_running_daemon_keeps_its_queue(world: World, mx: Exchanger) -> None:
    with world.relaying():
        refused = world.command("recover")

    assert refused.returncode == 75
    assert "has this spool" in refused.stderr


def test_a_new_spool_starts_as_ever(world: World, mx: Exchanger) -> None:
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
    assert len(mx.taken) == 1


def test_a_recovered_notification_never_causes_another(world: World, mx: Exchanger) -> None:
    home = world.exchanger("mx.sender.test")
    world.domain("sender.test", home)
    home.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    mx.on_rcpt = lambda envelope, address: "550 5.1.1 nobody"
    world.configure(retry={"first": "1h", "max": "1h"})
    world.send("bob@example.test")
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75
    (before,) = world.queue()
    lose(world.spool / "queue.db")
    assert world.command("recover").returncode == 0

    (after,) = world.queue()
    assert (after["id"], after["sender"], after["size"]) == (before["id"], "", before["size"])
    home.on_rcpt = lambda envelope, address: "550 5.1.1 nobody here either"
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0
        daemon.logged("event=not-notified")
    assert world.queue() == []
    assert not home.taken


def test_killed_again_and_again_it_is_only_run_again(world: World, mx: Exchanger) -> None:
    seed = time.time_ns() % 2**32
    print(f"seed {seed}")
    rng = random.Random(seed)
    ids = put_off(world, mx, *(f"bob{n}@example.test" for n in range(150)))
    cut_off(world.spool / "queue.db")
    usual = began_to_ended(world)

    for _ in range(6):
        cut_off_again(world)
        with killable(world) as recovering:
            time.sleep(rng.uniform(usual * 0.4, usual))  # the instant of death is the stimulus
            recovering.send_signal(signal.SIGKILL)
        assert world.command("recover").returncode == 0
        listed = world.queue()
        assert {message["id"] for message in listed} == ids
        assert all(recipient["possible_duplicate"] for message in listed for recipient in message["recipients"])


def began_to_ended(world: World) -> float:
    began = time.monotonic()
    assert world.command("recover").returncode == 0
    return time.monotonic() - began


def cut_off_again(world: World) -> None:
    cut_off(world.spool / "queue.db")


def killable(world: World) -> subprocess.Popen[Any]:
    return subprocess.Popen(
        [sys.executable, "-m", "relayd", "--config", str(world.config_path), "recover"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd="/",
    )


def test_a_damaged_body_is_set_aside_with_the_reason(world: World, mx: Exchanger) -> None:
    (message_id,) = put_off(world, mx, "bob@example.test")
    (body,) = (world.spool / "queue").glob(f"*/{message_id}")
    body.write_bytes(b"\0\0\0")
    lose(world.spool / "queue.db")

    counts = json.loads(world.command("recover", "--json").stdout)

    assert (counts["queued"], counts["rejected"]) == (0, 1)
    assert (world.spool / "rejected" / message_id).read_bytes() == b"\0\0\0"
    assert (world.spool / "rejected" / f"{message_id}.reason.txt").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that belongs to another user")
def test_what_root_recovers_belongs_to_the_spools_owner(world: World, mx: Exchanger) -> None:
    put_off(world, mx, "bob@example.test")
    lose(world.spool / "queue.db")
    (world.spool / "lock").unlink()
    os.chown(world.spool, 65534, 65534)

    assert world.command("recover").returncode == 0

    for name in ("queue.db", "lock"):
        assert (world.spool / name).stat().st_uid == 65534


def test_a_body_that_cannot_be_read_keeps_nobody_else_waiting(world: World, mx: Exchanger) -> None:
    ids = put_off(world, mx, "bob@example.test", "eve@example.test")
    sick = min(ids)
    (body,) = (world.spool / "queue").glob(f"*/{sick}")
    body.unlink()
    body.mkdir()  # reading it fails for root, too
    lose(world.spool / "queue.db")

    recovered = world.command("recover")

    assert recovered.returncode == 71
    assert f"{sick} cannot be read" in recovered.stdout
    with world.relaying() as daemon:
        daemon.logged(f"event=trouble .*{sick} cannot be read")
        wait_until(lambda: len(mx.taken) == 1, "the other message")


# bodies without a row, which a crash left


def orphan(world: World, *recipients: str) -> Path:
    """Place a body as the pickup does, and leave it at that."""
    message_id = new_id(datetime.now(UTC))
    place = world.spool / "queue" / message_id[-2:] / message_id
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(a_message(*recipients))
    return place


def test_mail_does_not_wait_until_all_orphans_are_adopted_and_they_are_delivered(world: World, mx: Exchanger) -> None:
    with world.relaying():
        pass  # there is a queue
    orphans = [f"orphan{number}@example.test" for number in range(400)]
    for recipient in orphans:
        orphan(world, recipient)

    with world.relaying() as daemon:
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")
        wait_until(lambda: len(mx.taken) == 401, "all mail")

    assert sorted(one for each in mx.taken for one in each.rcpt_tos) == sorted([*orphans, "bob@example.test"])


def test_once_adopts_all_orphans_before_it_ends(world: World, mx: Exchanger) -> None:
    with world.relaying():
        pass
    for number in range(50):
        orphan(world, f"orphan{number}@example.test")

    with world.daemon("--once") as daemon:
        assert daemon.wait() == 0

    assert len(mx.taken) == 50


def test_killed_while_it_adopts_nothing_is_lost_and_nothing_comes_twice(world: World, mx: Exchanger) -> None:
    mx.on_rcpt = lambda envelope, address: "450 4.2.1 not now"
    world.configure(retry={"first": "1h", "max": "1h"})
    with world.relaying():
        pass
    ids = {orphan(world, f"orphan{number}@example.test").name for number in range(300)}

    for _ in range(3):
        with world.daemon() as daemon:
            daemon.ready()
            daemon.logged("event=accepted")
            daemon.kill()
    with world.daemon("--once") as daemon:
        assert daemon.wait() == 75

    assert sorted(message["id"] for message in world.queue()) == sorted(ids)
