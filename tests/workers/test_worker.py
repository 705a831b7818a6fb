"""The program of a worker alone: what it loads, whom it obeys, and that it does not outlive its daemon."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from relayd.workers import codec, codec_sites, messages
from relayd.workers.channel import Channel, Message
from relayd.workers.setup import Setup, pickled
from relayd.workers.worker import Complaints
from tests.relay.kit import HELLO, a_site, until
from tests.support.process import ROOT, wait_until
from tests.support.smtp import LOCK_STEP, STALL, ScriptedServer
from tests.workers.kit import BOOT, Yard, alive, as_the_daemon

# Each costs memory in every worker, and none is needed to relay.
FOREIGN = ("click", "rich", "pydantic", "structlog", "aiosqlite", "sqlite3", "dns", "asyncinotify", "aiosmtpd")
OURS = ("cli", "config", "daemon", "manager", "attempt", "schedule", "submission", "route", "observe")

PARENT = """
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
held = os.dup(theirs.fileno())  # so that the channel does not end with this process
child = subprocess.Popen(
    [sys.executable, "-m", "relayd.workers", str(theirs.fileno()), str(held), str(os.getpid())],
    pass_fds=[theirs.fileno(), held, ours.fileno()],
)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_it_loads_what_relaying_needs_and_nothing_else() -> None:
    program = "import sys; import relayd.workers.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())

    assert [name for name in FOREIGN if name in loaded] == []
    assert [name for name in OURS if f"relayd.{name}" in loaded] == []
    assert {"relayd.relay.relayer", "relayd.spool.notes"} <= loaded


def test_it_dies_with_its_daemon_even_where_the_channel_stays_open() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        wait_until(lambda: name_of(worker) == "relayd-worker", "the worker's name")
        parent.kill()
        began = time.monotonic()
        wait_until(lambda: not alive(worker), "the worker's end")

    assert time.monotonic() - began < 1


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_one_whose_daemon_ended_before_it_could_ask_ends_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [str(theirs.fileno()), str(theirs.fileno()), "1"]  # not its parent
        done = subprocess.run([sys.executable, "-m", "relayd.workers", *words], pass_fds=[theirs.fileno()], cwd=ROOT)

    assert done.returncode == 0


class Driven:
    """A worker process, driven message by message."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.channel = Channel(self.messages.extend, lambda: None)

    async def start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "relayd.workers", str(theirs.fileno()), str(theirs.fileno()), str(os.getpid())),
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )
        await self.channel.open(ours)

    def names(self) -> list[str]:
        return [message[0] for message in self.messages]


@asynccontextmanager
async def driving() -> AsyncIterator[Driven]:
    driven = Driven()
    await driven.start()
    try:
        yield driven
    finally:
        with suppress(ProcessLookupError):
            driven.process.kill()
        await driven.process.wait()
        driven.channel.close()


def test_where_the_channel_ends_its_connections_are_reset_and_it_ends(tmp_path: Path) -> None:
    async def story() -> None:
        yard = Yard(tmp_path, 1, {})
        setup = Setup(settings=yard.settings, bodies=yard.queue, notes=yard.queue / "notes.owner.1", boot=BOOT)
        batch = [codec.pack_delivery(each) for each in yard.deliveries("M1")]
        async with ScriptedServer({"final": STALL, "EHLO": LOCK_STEP}) as server, driving() as driven:
            site = a_site(server.port)
            driven.channel.send((messages.START, pickled(setup)))
            driven.channel.send((messages.RUN, 7, codec_sites.pack_site(site), batch, False))
            await until(lambda: messages.LOOK_UP in driven.names(), seconds=60)
            found = await yard.book.addresses(site.hosts[0][0], site, ())
            driven.channel.send((messages.FOUND, 0, codec_sites.pack_targets(found)))
            await until(lambda: server.messages)
            driven.channel.close()
            async with asyncio.timeout(10):
                assert await driven.process.wait() == 0
            with pytest.raises(ConnectionResetError):
                await server.talks[0]._more()

        assert server.messages[0].content == HELLO

    as_the_daemon(story())


def test_one_that_is_told_what_it_does_not_know_ends(tmp_path: Path) -> None:
    async def story() -> None:
        async with driving() as driven:
            driven.channel.send(("gibberish",))
            async with asyncio.timeout(60):
                await driven.process.wait()

    as_the_daemon(story())


def test_what_a_library_logs_is_handed_to_the_daemon_from_any_thread() -> None:
    async def story() -> None:
        ours, theirs = socket.socketpair()
        told: list[Message] = []
        here, there = Channel(told.extend, lambda: None), Channel(lambda got: None, lambda: None)
        await here.open(ours)
        await there.open(theirs)
        logger = logging.Logger("library")
        logger.addHandler(Complaints(there, asyncio.get_running_loop()))
        failed = partial(logger.error, "failed %s times", 3, exc_info=KeyError("x"))
        await asyncio.to_thread(failed)
        logger.info("nothing that matters")
        logger.warning("wrong %s arguments %s", 1)
        await until(lambda: len(told) == 2)
        here.close()
        there.close()

        pid = os.getpid()
        assert told == [
            (messages.COMPLAINT, "library", logging.ERROR, f"worker {pid}: failed 3 times: KeyError('x')"),
            (messages.COMPLAINT, "library", logging.WARNING, f"worker {pid}: wrong %s arguments %s"),
        ]

    as_the_daemon(story())


def test_the_signals_that_it_lets_pass_are_those_that_programs_it_starts_obey(tmp_path: Path) -> None:
    """A handler is not inherited by a program, an ignored signal would be."""
    program = (
        "import signal, subprocess, sys; from relayd.workers.__main__ import IGNORED, _ignore;"
        "[signal.signal(number, _ignore) for number in IGNORED];"
        "child = subprocess.Popen(['sleep', '60']); child.terminate(); sys.exit(-child.wait())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30)

    assert done.returncode == signal.SIGTERM
