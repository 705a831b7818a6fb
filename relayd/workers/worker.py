"""A worker: relayers in a process of their own, told by the daemon what to send.

It holds no rule, no queue and no cache of names.  What the reader must not break:

    It begins nothing that the daemon has not handed it, and tells each outcome at once as it settles.
    It does not outlive the daemon: where the channel ends every connection is reset, and the process ends.
    Only the daemon decides when it ends; signals meant for a group of processes pass it by (`__main__.py`).
    It loads what relaying needs and nothing else: tests/workers/test_worker.py names what it must do without.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import uvloop

from relayd.allocator import keep_little
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.relay.ports import Ports
from relayd.relay.relayer import Ended, Relayer
from relayd.relayers import BodiesPort, InHandPort, Relayers
from relayd.spool.bodies import Bodies
from relayd.spool.notes import Notes
from relayd.workers import codec, codec_sites, messages
from relayd.workers.channel import Channel, Message, Told
from relayd.workers.setup import Setup, settings_of, setup_of
from relayd.workers.upstream import Upstream

THREADS = 4  # for reading bodies; the unit's TasksMax counts on it
RESETTING = 0.2  # seconds for connections to be reset; for what nobody will record any more there is no waiting

EX_OK = 0
EX_OSERR = 71


def run(end: socket.socket) -> int:
    """Work until the daemon says STOP or is gone; return the exit code."""
    keep_little()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_work(end))


async def _work(end: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="bodies"))
    worker = Worker()
    await worker.channel.open(end)
    logging.getLogger().addHandler(Complaints(worker.channel, loop))
    await worker.gone.wait()
    await worker.end()
    worker.channel.close()
    return worker.code


def _now() -> datetime:
    return datetime.now(UTC)


class Worker:
    """See the module.  `gone` is set when the daemon is, or wants this to end."""

    def __init__(self) -> None:
        self.code = EX_OK
        self.gone = asyncio.Event()
        self.channel = Channel(self._received, self.gone.set)
        self._stopping = False
        self._runs: dict[int, tuple[Relayer, asyncio.Task[Ended]]] = {}
        self._upstream: Upstream | None = None
        self._relayers: Relayers | None = None
        self._told: Told = {messages.START: self._start}

    async def end(self) -> None:
        """Reset what is still under way; after a STOP see off the connections that were told QUIT."""
        tasks = [task for _, task in self._runs.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=RESETTING)
        if self._stopping and self._relayers is not None:
            await self._relayers.close()

    # at the start

    def _start(self, octets: bytes) -> None:
        setup = setup_of(octets)
        try:
            notes = Notes(setup.notes, setup.boot)
        except QueueError as error:
            self.channel.send((messages.UNABLE, str(error)))
            self.code = EX_OSERR
            self.gone.set()
            return
        self._equip(setup, notes)
        self.channel.send((messages.READY,))

    def _equip(self, setup: Setup, notes: Notes) -> None:
        upstream = self._upstream = Upstream(self.channel, notes, setup.withdrawn)
        ports = Ports(
            addresses=upstream,
            tokens=upstream,
            reports=upstream,
            bodies=BodiesPort(Bodies(setup.bodies)),
            in_hand=InHandPort(notes),
            sessions=upstream.session,
            measured=upstream.measured,
            withdrawn=lambda message_id: message_id in upstream.withdrawn,
        )
        relayers = self._relayers = Relayers(setup.settings, ports, _now)
        self._told = {
            messages.SETTINGS: lambda octets: relayers.reload(settings_of(octets)),
            messages.WITHDRAWN: self._withdraw,
            messages.RUN: self._run,
            messages.FINISH: self._finish,
            messages.ABORT: self._abort,
            messages.RECORDED: upstream.recorded,
            messages.REFUSED: upstream.refused,
            messages.FOUND: upstream.found,
            messages.TOKEN: upstream.granted,
            messages.PERMIT: upstream.permitted,
            messages.NOT_FOUND: upstream.not_found,
            messages.PING: self._answer,
            messages.STOP: self._stop,
        }

    # what the daemon says

    def _received(self, told: Sequence[Message]) -> None:
        for name, *values in told:
            self._told[name](*values)

    def _withdraw(self, message_ids: list[str]) -> None:
        assert self._upstream is not None
        self._upstream.withdrawn = frozenset(message_ids)

    def _run(self, number: int, site: codec.Packed, packed: list[codec.Packed], limited: bool) -> None:
        assert self._upstream is not None
        assert self._relayers is not None
        deliveries = [codec.delivery_of(each) for each in packed]
        self._upstream.begin(number, deliveries)
        permit = partial(self._upstream.permit, number) if limited else None
        relayer = self._relayers.new(codec_sites.site_of(site), permit)
        task = asyncio.create_task(relayer.run(deliveries))
        self._runs[number] = relayer, task
        task.add_done_callback(partial(self._over, number, deliveries))

    def _finish(self, number: int) -> None:
        if number in self._runs:
            self._runs[number][0].finish()

    def _abort(self, number: int) -> None:
        if number in self._runs:
            self._runs[number][1].cancel()

    def _answer(self, ping: int) -> None:
        now = asyncio.get_running_loop().time()
        silent = {number: now - relayer.stirred for number, (relayer, _) in self._runs.items()}
        self.channel.send((messages.PONG, ping, silent))

    def _stop(self) -> None:
        self._stopping = True
        self.gone.set()

    def _over(self, number: int, deliveries: list[Delivery], task: asyncio.Task[Ended]) -> None:
        """Tell what a relayer left."""
        assert self._upstream is not None
        self._upstream.end(deliveries)
        del self._runs[number]
        if task.cancelled():
            self.channel.send((messages.RAISED, number, "cancelled"))
        elif error := task.exception():
            self.channel.send((messages.RAISED, number, repr(error)))
        else:
            places = {each.id: place for place, each in enumerate(deliveries)}
            self.channel.send((messages.ENDED, number, codec.pack_ended(task.result(), places)))


class Complaints(logging.Handler):
    """Lets the daemon log what libraries log here, so that each is one line among its own.

    From any thread.  What comes while the daemon does not read is dropped, so that it cannot gather without end.
    """

    def __init__(self, channel: Channel, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(logging.WARNING)
        self._channel = channel
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record on; its traceback as the exception alone."""
        try:
            text = record.getMessage()
        except Exception:  # wrong arguments in a library's call
            text = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        line = f"worker {os.getpid()}: {text}" + (f": {error!r}" if error else "")
        message = (messages.COMPLAINT, record.name, record.levelno, line)
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._tell, message)

    def _tell(self, message: Message) -> None:
        if not self._channel.behind:
            self._channel.send(message)
