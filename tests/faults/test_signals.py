"""P8, P9: signals in each phase of a conversation, and a lock file that is no lock."""

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
from typing import BinaryIO

import pytest
from aiosmtpd.smtp import Envelope

from tests.faults.sample import in_worlds, sampled
from tests.support.process import Daemon, wait_until
from tests.support.world import Exchanger, World, a_message

LARGE = (b"y" * 70 + b"\n") * 120_000


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
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)  # much stays with the client
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
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            self._stall("greeting")
            connection.sendall(b"220 mx.test\r\n")
            for line in lines:
                verb = line[:4].strip().upper().decode()
                self._stall(verb)
                connection.sendall(self._answer(verb, connection, lines))

    def _answer(self, verb: str, connection: socket.socket, lines: BinaryIO) -> bytes:
        if verb != "DATA":
            return b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n"
        connection.sendall(b"354 go\r\n")
        self._stall("body")
        while (line := lines.readline()) != b".\r\n":
            if not line:
                return b""
        self.ends += 1
        self._stall("end")
        return b"250 2.0.0 taken\r\n"


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


PHASES = ["body", "RCPT", "end", "greeting", "EHLO", "MAIL", "DATA"]


@in_worlds(0)
@pytest.mark.parametrize("phase", sampled(PHASES, 1))
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


@pytest.mark.parametrize("phase", sampled(PHASES, 2))
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
        wait_until(lambda: told_status(daemon).endswith("; degraded: configuration"), "a status")
        world.config_path.write_text(good)
        daemon.reload()
        daemon.logged("event=restored part=configuration")
        world.send("eve@example.test")
        daemon.logged("r=eve@example.test status=delivered")

    assert recipients(mx) == Counter({"bob@example.test": 1, "eve@example.test": 1})


def told_status(daemon: Daemon) -> str:
    daemon.notify.received("")
    return [state for state in daemon.notify.states if state.startswith("STATUS=")][-1]


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
