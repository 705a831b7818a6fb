"""P3: traffic of all kinds goes on while the disk is full, has no inode left, or is read-only, again and again.

Own files and those of others, deliveries, deferrals and bounces: whatever they were doing when the disk failed, and
when it was well again, every recipient is delivered or bounced exactly once, and nothing is marked, for nothing died.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import suppress

from aiosmtpd.smtp import Envelope

from tests.faults.sample import ALL, in_worlds
from tests.support.disks import SmallDisk, calm, processor_seconds, read_only, root_only, small_disk, troubles
from tests.support.process import wait_until
from tests.support.world import Exchanger, World, a_message, octets

pytestmark = root_only

MESSAGES, FAULTS = (300, 9) if ALL else (120, 4)
NOBODY = 65534


class Witness:
    """Answers by the recipient's name: `good` ones are taken, `late` ones at the second try, `bad` ones never."""

    def __init__(self, mx: Exchanger, rng: random.Random) -> None:
        self.taken: Counter[str] = Counter()
        self.bounced: Counter[str] = Counter()
        self._tried: Counter[str] = Counter()
        self._mx = mx
        mx.on_rcpt = self._rcpt
        mx.on_data = self._data

    def _rcpt(self, envelope: Envelope, address: str) -> str:
        self._tried[address] += 1
        if address.startswith("bad"):
            return "550 5.1.1 nobody"
        if address.startswith("late") and self._tried[address] == 1:
            return "451 4.3.0 not now"
        return "250 2.1.5 ok"

    def _data(self, envelope: Envelope, address: str) -> str:
        if envelope.mail_from not in (None, "", "<>"):
            self.taken.update(envelope.rcpt_tos)
        else:
            text = octets(envelope).decode()
            self.bounced.update(
                line.partition("rfc822; ")[2].strip() for line in text.splitlines() if "Final-Rec" in line
            )
        return "250 2.0.0 taken"

    def missing(self, good: Counter[str], bad: Counter[str]) -> set[str]:
        return (set(good) - set(self.taken)) | (set(bad) - set(self.bounced))


def dropping(world: World, names: list[str], rng: random.Random) -> None:
    """Drop messages, one now and then; a producer tries again while it finds no room."""
    for name in names:
        while True:
            with suppress(OSError):
                path = world.spool / "tmp" / name
                path.write_bytes(a_message(f"{name}@example.test", sender=f"s-{name}@sender.test"))
                if rng.random() < 0.5:
                    os.chown(path, NOBODY, NOBODY)
                path.rename(world.spool / "new" / name)
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.06))


def fail(disk: SmallDisk, rng: random.Random) -> str:
    """Let the disk fail for a while."""
    kind = rng.choice(["full", "inodes", "read-only"])
    seconds = rng.uniform(0.1, 1.5)
    if kind == "full":
        disk.fill()
        time.sleep(seconds)
        disk.free()
    elif kind == "inodes":
        disk.fill_inodes()
        time.sleep(seconds)
        disk.free_inodes()
    else:
        with read_only(disk.path):
            time.sleep(seconds)
    return f"{kind} for {seconds:.2f} s"


@in_worlds(1)
def test_nothing_is_lost_or_sent_twice_while_the_disk_fails_again_and_again(world: World, mx: Exchanger) -> None:
    """P3: see the module."""
    seed = int(os.environ.get("RELAYD_SEED") or time.time_ns() % 2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    witness = Witness(mx, rng)
    names = [f"{rng.choice(['good', 'good', 'late', 'bad'])}{number}" for number in range(MESSAGES)]
    with small_disk(world.spool, "size=32m,nr_inodes=4096") as disk, world.relaying() as daemon:
        producer = threading.Thread(target=dropping, args=(world, names, random.Random(seed)))
        producer.start()
        for _ in range(FAULTS):
            print(fail(disk, rng))
            time.sleep(rng.uniform(0.1, 1.0))
        producer.join()
        good = Counter(f"{name}@example.test" for name in names if not name.startswith("bad"))
        bad = Counter(f"{name}@example.test" for name in names if name.startswith("bad"))
        wait_until(lambda: not witness.missing(good, bad), "all of them", timeout=30)
        wait_until(lambda: not world.queue(), "an empty queue")
        with calm(daemon, 1.0, 0.2):
            pass
        print(f"{processor_seconds(daemon)} s of processor time")
        assert len(troubles(daemon)) < 12 * FAULTS

    assert witness.taken == good
    assert witness.bounced == bad
    assert "dup=possible" not in daemon.log
    assert not list((world.spool / "rejected").glob("*"))
