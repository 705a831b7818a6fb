"""One worker process, as the daemon sees it: its runs, its questions, and its end.

What the reader must not break:

    What it had sent before its end is taken before it counts as dead, and it is dead, killed if need be, before
    anything is concluded from its silence.
    Every run is over exactly once: by ENDED, by RAISED, or by what `died` or `abandon` make of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from itertools import count

from relayd.mail.delivery import Delivery
from relayd.mail.route import Site
from relayd.relay.ports import Permit
from relayd.relay.settings import RelaySettings
from relayd.workers import codec, codec_sites, messages
from relayd.workers.channel import Channel, Message, Told
from relayd.workers.ports import PoolPorts
from relayd.workers.run import RelayerFailed, Run
from relayd.workers.setup import Setup, pickled

PROGRAM = "relayd.workers"
READY_PATIENCE = 60.0  # seconds that Python may need to start on a loaded machine


class WorkerFailed(Exception):
    """A worker could not be started."""


class Process:
    """See the module.  `Process.start` makes one."""

    def __init__(self, ports: PoolPorts, number: int) -> None:
        self.notes = ports.premises.notes(number)
        self.runs: dict[int, Run] = {}
        self.lost = asyncio.Event()  # the channel has ended
        self._channel = Channel(self._received, self._lost)
        self._ports = ports
        self._numbers = count()
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._asked: set[asyncio.Task[None]] = set()
        self._why = ""
        self._told: Told = {
            messages.READY: self._is_ready,
            messages.UNABLE: self._is_unable,
            messages.SETTLED: self._settled,
            messages.ENDED: self._ended,
            messages.RAISED: self._raised,
            messages.LOOK_UP: self._look_up,
            messages.ASK_TOKEN: self._ask_token,
            messages.ASK_PERMIT: self._ask_permit,
            messages.TLS: self._tls,
            messages.FIGURES: lambda figures: ports.measured(codec.figures_of(figures)),
            messages.PONG: self._answered,
            messages.COMPLAINT: lambda name, level, text: logging.getLogger(name).log(level, "%s", text),
        }

    @classmethod
    async def start(cls, ports: PoolPorts, number: int, settings: RelaySettings, withdrawn: frozenset[str]) -> Process:
        """Start a worker; return when it is ready.

        Raises:
            OSError: the system refuses.
            WorkerFailed: it ended at once, or did not get ready in time.
        """
        made = cls(ports, number)
        await made._spawn()
        try:
            premises = ports.premises
            setup = Setup(
                settings=settings, bodies=premises.bodies, notes=made.notes, boot=premises.boot, withdrawn=withdrawn
            )
            made._channel.send((messages.START, pickled(setup)))
            async with asyncio.timeout(READY_PATIENCE):
                await made._ready
        except TimeoutError:
            await made.kill()
            raise WorkerFailed(f"it was not ready in {READY_PATIENCE:g} s") from None
        except WorkerFailed:
            raise WorkerFailed(await made.kill()) from None
        except BaseException:
            await made.kill()
            raise
        return made

    async def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            words = [str(theirs.fileno()), str(self._ports.premises.lock), str(os.getpid())]
            try:
                # From the main thread, as all of the daemon's loop: the kernel's word to the child that its parent has
                # ended is about the thread that started it.
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", PROGRAM, *words),  # -P: nothing is imported from where we stand
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), self._ports.premises.lock),
                )
            except BaseException:
                ours.close()
                raise
        await self._channel.open(ours)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    # what it is asked

    def begin(self, site: Site, deliveries: Sequence[Delivery], permit: Permit | None = None) -> tuple[int, Run]:
        """Let a relayer send deliveries to a site."""
        number, run = next(self._numbers), Run(deliveries, permit)
        self.runs[number] = run
        packed = [codec.pack_delivery(each) for each in deliveries]
        self._channel.send((messages.RUN, number, codec_sites.pack_site(site), packed, permit is not None))
        return number, run

    def finish(self, number: int) -> None:
        """Let a relayer start nothing more."""
        self._channel.send((messages.FINISH, number))

    def abort(self, number: int) -> None:
        """Let a relayer's connection be reset."""
        self._channel.send((messages.ABORT, number))

    def reload(self, settings: RelaySettings) -> None:
        """Let relayers from now on use other settings."""
        self._channel.send((messages.SETTINGS, pickled(settings)))

    def withdraw(self, message_ids: frozenset[str]) -> None:
        """Let no relayer start one of these."""
        self._channel.send((messages.WITHDRAWN, list(message_ids)))

    def ping(self) -> asyncio.Future[None]:
        """Return what is done when all that was said before is in force, or the worker has ended."""
        number = next(self._numbers)
        answer = self._pings[number] = asyncio.get_running_loop().create_future()
        if self.lost.is_set():
            self._answered(number, {})
        else:
            self._channel.send((messages.PING, number))
        return answer

    def stop(self) -> None:
        """Let it see off its last connections, and end."""
        self._channel.send((messages.STOP,))

    # its end

    async def kill(self) -> str:
        """Kill it unless it has ended; return how it ended, in words, when all it said has been taken."""
        self.end_now()
        code = await self._process.wait()
        await self.lost.wait()
        return self._why or how(code)

    def end_now(self) -> None:
        """Send it SIGKILL unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def abandon(self) -> None:
        """Nobody will conclude anything from what it left: the next start of the daemon does."""
        for run in self.runs.values():
            if not run.over.done():
                run.over.set_exception(RelayerFailed("the worker was stopped"))
                run.over.exception()  # retrieved here: the waiter may be gone
        self.runs.clear()

    def _lost(self) -> None:
        for task in self._asked:
            task.cancel()
        for number in list(self._pings):
            self._answered(number, {})
        if not self._ready.done():
            self._ready.set_exception(WorkerFailed(self._why or "it ended at once"))
        self.lost.set()

    # what it says

    def _received(self, told: Sequence[Message]) -> None:
        for name, *values in told:
            self._told[name](*values)

    def _is_ready(self) -> None:
        self._ready.set_result(None)

    def _is_unable(self, why: str) -> None:
        self._why = why

    def _settled(self, report: int, number: int, place: int, packed: codec.Packed) -> None:
        run = self.runs[number]
        attempt = codec.attempt_of(packed, run.deliveries[place])
        run.report(attempt)
        try:
            recorded = asyncio.ensure_future(self._ports.reports.report(attempt))
        except Exception as error:
            self._channel.send((messages.REFUSED, report, repr(error)))
            return
        run.until_recorded(recorded)
        recorded.add_done_callback(partial(self._recorded, report))

    def _recorded(self, report: int, recorded: asyncio.Future[None]) -> None:
        if recorded.cancelled():
            self._channel.send((messages.REFUSED, report, "cancelled"))
        elif error := recorded.exception():
            self._channel.send((messages.REFUSED, report, str(error)))
        else:
            self._channel.send((messages.RECORDED, report))

    def _ended(self, number: int, packed: codec.Packed) -> None:
        run = self.runs.pop(number)
        run.over.set_result(codec.ended_of(packed, run.deliveries))

    def _raised(self, number: int, what: str) -> None:
        run = self.runs.pop(number)
        run.over.set_exception(RelayerFailed(what))
        run.over.exception()  # retrieved here: one that was cancelled does not ask

    def _tls(self, session: codec.Packed) -> None:
        self._ports.sessions(codec_sites.session_of(session))

    def _look_up(self, question: int, host: codec.Packed, site: codec.Packed, destinations: tuple[str, ...]) -> None:
        self._reply(question, self._find(question, host, site, destinations))

    def _ask_token(self, question: int, site: str, rejected: str) -> None:
        self._reply(question, self._grant(question, site, rejected))

    def _ask_permit(self, question: int, number: int) -> None:
        self._reply(question, self._permit(question, self.runs[number]))

    def _reply(self, question: int, answering: Coroutine[None, None, Message]) -> None:
        task = asyncio.create_task(self._answer(question, answering))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _answer(self, question: int, answering: Coroutine[None, None, Message]) -> None:
        try:
            message = await answering
        except Exception as error:
            message = (messages.NOT_FOUND, question, repr(error))
        self._channel.send(message)

    async def _find(
        self, question: int, host: codec.Packed, site: codec.Packed, destinations: tuple[str, ...]
    ) -> Message:
        found = await self._ports.addresses.addresses(
            codec_sites.host_of(host), codec_sites.site_of(site), destinations
        )
        return (messages.FOUND, question, codec_sites.pack_targets(found))

    async def _grant(self, question: int, site: str, rejected: str) -> Message:
        token = await self._ports.tokens.token(site, rejected=rejected)
        return (messages.TOKEN, question, codec_sites.pack_token(token))

    async def _permit(self, question: int, run: Run) -> Message:
        if run.permit is not None:
            await run.permit()
        return (messages.PERMIT, question)

    def _answered(self, ping: int, silent: dict[int, float]) -> None:
        for number, seconds in silent.items():
            self.runs[number].silent = seconds
        answer = self._pings.pop(ping)
        if not answer.done():
            answer.set_result(None)


def how(code: int) -> str:
    """Say how a process ended."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
