"""P8-P10, P12, P13: signals in each phase of a conversation, a log that nobody reads, a message that kills."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from aiosmtpd.smtp import Envelope

from tests.faults.sample import sampled
from tests.support.disks import calm
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message, with_and_without_workers

LARGE = (b"y" * 70 + b"\n") * 60_000


def recipients(mx: Exchanger) -> Counter[str]:
    return Counter(recipient for envelope in mx.taken for recipient in envelope.rcpt_tos)


# P9


class Stalling:
    """A server that says nothing more from one phase on, until it is told to go on; `ends` counts ends of messages."""

    def __init__(self, address: str, port: int, phase: str) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.ends = 0
        self._phase = phase
        self._listening = socket.create_server((address, port))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.go_on.set()
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _stall(self, phase: str) -> None:
        if phase == self._phase:
            self.reached.set()
            self.go_on.wait(60)

    def _talk(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rwb", buffering=0) as lines:
            self._stall("greeting")
            lines.write(b"220 mx.test\r\n")
            for line in lines:
                verb = line[:4].strip().upper().decode()
                self._stall(verb)
                if verb == "DATA":
                    lines.write(b"354 go\r\n")
                    self._stall("body")
                    while lines.readline() not in (b".\r\n", b""):
                        pass
                    self.ends += 1
                    self._stall("end")
                    lines.write(b"250 2.0.0 taken\r\n")
                else:
                    lines.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")


@contextmanager
def stalling(world: World, phase: str) -> Iterator[Stalling]:
    """The only server of example.test."""
    quiet = world.exchanger("mx.example.test", alive=False)
    world.domain("example.test", quiet)
    with socket.create_server((quiet.address, 0)) as free:
        world.port = free.getsockname()[1]
    server = Stalling(quiet.address, world.port, phase)
    try:
        yield server
    finally:
        server.close()


PHASES = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "body", "end"]


@with_and_without_workers
@pytest.mark.parametrize("phase", sampled(["body", *PHASES], 1))
def test_told_to_stop_twice_in_any_phase_it_ends_at_once_and_marks_only_what_may_have_arrived(
    world: World, phase: str
) -> None:
    """P9: the second SIGTERM hurries; what is broken off before the end of the message is no duplicate."""
    with stalling(world, phase) as server:
        world.configure(relay={"stop_grace": "60s"}, retry={"first": "1s", "max": "1s"})
        world.drop(a_message("bob@example.test") + LARGE)
        with world.daemon() as daemon:
            daemon.ready()
            wait_until(server.reached.is_set, "the phase")
            daemon.terminate()
            daemon.logged("event=stopping")
            assert daemon.running
            began = time.monotonic()
            daemon.signal(signal.SIGINT)
            assert daemon.wait() == 0
            assert time.monotonic() - began < 10
        ends = server.ends
        server.go_on.set()
        with world.daemon() as daemon:
            daemon.ready()
            daemon.logged("r=bob@example.test status=delivered")
            daemon.terminate()
            assert daemon.wait() == 0

        assert world.queue() == []
        assert ("dup=possible" in daemon.log) == (phase == "end")
        assert ends == (phase == "end")


@pytest.mark.parametrize("phase", sampled(["RCPT", *PHASES], 1))
def test_told_to_stop_in_any_phase_it_lets_what_is_in_flight_finish(world: World, phase: str) -> None:
    """P9: delivered once, and recorded."""
    with stalling(world, phase) as server:
        world.configure()
        world.drop(a_message("bob@example.test") + LARGE)
        with world.daemon() as daemon:
            daemon.ready()
            wait_until(server.reached.is_set, "the phase")
            daemon.terminate()
            daemon.logged("event=stopping")
            server.go_on.set()
            assert daemon.wait() == 0
        with world.daemon("--once") as daemon:
            assert daemon.wait() == 0

        assert server.ends == 1
        assert world.queue() == []
        assert "dup=possible" not in daemon.log


def test_a_broken_configuration_in_the_middle_of_a_message_changes_nothing_and_is_seen(
    world: World, mx: Exchanger
) -> None:
    """P9: SIGHUP with mistakes keeps the old one; doctor and explain tell of it until a good one comes."""
    gates: list[bool] = []
    reached: list[bool] = []

    async def late(envelope: Envelope, address: str) -> str:
        reached.append(True)
        while not gates:
            await asyncio.sleep(0.01)
        return "250 2.0.0 taken"

    mx.on_data = late
    with world.relaying(environment={"WATCHDOG_USEC": "400000"}) as daemon:
        good = world.config_path.read_text()
        world.send("bob@example.test")
        wait_until(lambda: reached, "the end of the message")
        world.config_path.write_text(good + "\n[retry]\nfirst = 5\n")
        daemon.reload()
        daemon.logged("event=not-reloaded")
        gates.append(True)
        daemon.logged("r=bob@example.test status=delivered")
        wait_until(
            lambda: daemon.notify.received("STATUS=") and "degraded: configuration" in str(daemon.notify.states),
            "a status",
        )
        world.config_path.write_text(good)
        daemon.reload()
        daemon.logged("event=restored part=configuration")
        world.send("eve@example.test")
        daemon.logged("r=eve@example.test status=delivered")

    assert recipients(mx) == Counter({"bob@example.test": 1, "eve@example.test": 1})


# P8


def test_a_lock_file_of_somebody_who_died_or_of_another_owner_is_no_lock(world: World, mx: Exchanger) -> None:
    """P8: what counts is the lock, not its file, and not the process that the file names."""
    (world.spool).mkdir()
    (world.spool / "lock").write_text(f"{os.getpid()}\n")
    with world.relaying() as daemon:
        assert (world.spool / "lock").read_text() == f"{daemon.pid}\n"
        (world.spool / "lock").write_text("1\n")
        with world.daemon() as second:
            assert second.wait() == 75
        world.send("bob@example.test")
        daemon.logged("r=bob@example.test status=delivered")


# P10


@with_and_without_workers
def test_a_log_that_nobody_reads_costs_lines_and_no_mail(world: World, mx: Exchanger) -> None:
    """P10: what does not fit is dropped and counted, and the count is told as soon as somebody reads."""
    pipe = world.directory / "log"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    number = 1200  # with three lines each it is more than a pipe holds and less than is kept: 64 KiB, 10,000 lines
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


@with_and_without_workers
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
