"""P10, P12, P13: a log that nobody reads, a part that fails again and again, a message that kills."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

from aiosmtpd.smtp import Envelope

from tests.faults.sample import in_worlds
from tests.support.disks import calm
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


# P10


@in_worlds(1)
def test_a_log_that_nobody_reads_costs_lines_and_no_mail(world: World, mx: Exchanger) -> None:
    """P10: what does not fit is dropped and counted, and the count is told as soon as somebody reads."""
    pipe = world.directory / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    number = 300  # with two lines each it is more than a pipe holds and less than is kept: 64 KiB, 10,000 lines
    names = [f"{'r' * 50}{each}@example.test" for each in range(number)]
    with world.daemon(prefix=["sh", "-c", f'exec "$@" 2>{pipe}', "sh"]) as daemon:
        daemon.ready()
        for name in names:
            world.send(name)
        wait_until(lambda: len(mx.taken) == number, "all of them", timeout=90)
        wait_until(lambda: not world.queue(), "an empty queue")
        os.set_blocking(reader, True)
        said = Drained(reader)
        world.send("last@example.test")
        wait_until(lambda: b"r=last@example.test status=delivered" in said.octets, "the last line")
        daemon.terminate()
        assert daemon.wait() == 0

    assert recipients(mx) == Counter([*names, "last@example.test"])


def test_a_log_whose_reader_has_gone_costs_lines_and_no_mail(world: World, mx: Exchanger) -> None:
    """P10: EPIPE."""
    pipe = world.directory / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with world.daemon(prefix=["sh", "-c", f'exec "$@" 2>{pipe}', "sh"]) as daemon:
        daemon.ready()
        os.close(reader)
        for number in range(20):
            world.send(f"r{number}@example.test")
        wait_until(lambda: len(mx.taken) == 20, "all of them")
        reader = os.open(pipe, os.O_RDONLY)
        said = Drained(reader)
        world.send("last@example.test")
        wait_until(lambda: b"event=log-lines-dropped lines=" in said.octets, "the count of what is missing")
        wait_until(lambda: b"r=last@example.test status=delivered" in said.octets, "the last line")
        daemon.terminate()
        assert daemon.wait() == 0


class Drained:
    """What a pipe says from now on."""

    def __init__(self, descriptor: int) -> None:
        self.octets = b""
        self._descriptor = descriptor
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with os.fdopen(self._descriptor, "rb", buffering=0) as pipe:
            while octets := pipe.read(65536):
                self.octets += octets


# P13


@in_worlds(1)
def test_one_message_that_kills_is_held_and_a_hundred_good_ones_are_delivered(world: World, mx: Exchanger) -> None:
    """P13: the process that has it in hand dies whenever its body arrives; the supervisor starts the daemon again."""
    world.configure(
        relay={"max_messages_per_connection": 1, "max_connections_per_site": 3},
        retry={"first": "200ms", "max": "500ms"},
    )
    running: list[Daemon] = []
    kills: list[int] = []

    def answer(envelope: Envelope, address: str) -> str:
        if envelope.rcpt_tos and envelope.rcpt_tos[0].startswith("poison"):
            daemon = running[-1]
            children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
            kills.append(daemon.pid)
            os.kill(int(children[0]) if children else daemon.pid, signal.SIGKILL)
        return "250 2.0.0 taken"

    mx.on_data = answer
    names = {f"r{number}@example.test" for number in range(100)}
    for name in names:
        world.send(name)
    world.send("poison@example.test")
    while True:
        with world.daemon() as daemon:
            running.append(daemon)
            wait_until(lambda: not daemon.running or "event=held" in daemon.log, "a death, or peace", timeout=60)
            if daemon.running:
                wait_until(lambda: len(world.queue()) == 1, "the others' end", timeout=60)
                break
            assert len(running) < 12

    (message,) = world.queue()
    assert message["held"]
    assert message["recipients"][0]["address"] == "poison@example.test"
    assert names <= set(recipients(mx))
    held = [line for daemon in running for line in daemon.lines if "event=held" in line]
    assert len(held) == 1, held
    marked = sum(daemon.log.count("event=possible-duplicate") for daemon in running)
    twice = sum(count - 1 for name, count in recipients(mx).items() if name in names)
    print(f"{len(kills)} deaths, {marked} marked, {twice} taken twice")
    assert twice <= marked


# P12


def test_what_fails_in_one_part_again_and_again_is_calm_and_the_others_work(world: World, mx: Exchanger) -> None:
    """P12: a queue directory whose body cannot be made at all; own files wait, what is queued goes out."""
    with world.relaying() as daemon:
        world.send("before@example.test")
        daemon.logged("r=before@example.test status=delivered")
        (world.spool / "rejected").rmdir()
        (world.spool / "rejected").write_text("no directory")
        with calm(daemon, 1.0):
            world.drop(b"junk\n", "junk")
            daemon.logged("event=left file=junk")
            world.send("after@example.test")
            daemon.logged("r=after@example.test status=delivered")
        (world.spool / "rejected").unlink()
        daemon.logged("event=rejected file=junk")
