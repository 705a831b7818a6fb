"""The workers: started, given relayers evenly, started again when they die.

What the reader must not break:

    The death of a worker costs what it had in hand a retry, and nothing else: what it reported is settled as ever,
    what it was ending is marked in the queue before its run is over, the rest is undone.
    Its notes are removed only when all of that is durable: until then the next start of the daemon needs them.
    A worker that does not answer is killed, so that no run hangs for ever.
    All have ended before `close` returns, since whoever has the spool next must be alone with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from itertools import count
from pathlib import Path

from relayd.health import Health
from relayd.mail.errors import QueueError
from relayd.mail.events import HeldAfterDeaths, Marked, WorkerDied
from relayd.mail.route import Site
from relayd.relay.ports import Permit
from relayd.relay.settings import RelaySettings
from relayd.spool.notes import Claimed, Noted, read
from relayd.workers.ports import PoolPorts
from relayd.workers.process import Process, WorkerFailed
from relayd.workers.remote import RemoteRelayer
from relayd.workers.run import Run

PART = "workers"  # in events
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 60.0  # seconds before a worker is started again, doubled each time
START_PATIENCE = 5.0  # seconds that the daemon's start waits for all, so that the first does not get all the work
STEADY = 60.0  # seconds that a worker must live for the pause to be the first again
PATIENCE = 30.0  # seconds that a relayer waits for a worker
PING_INTERVAL = 10.0  # seconds
MAX_SILENT = 6  # pings in a row without an answer
STOP_MARGIN = 5.0  # seconds beyond the wait for replies to QUIT
AGAIN = 1.0  # seconds before the queue is asked again for what it did not take


class Pool:
    """See the module.  `size` workers are kept running from `start` to `close`."""

    def __init__(self, size: int, settings: RelaySettings, ports: PoolPorts) -> None:
        self._size = size
        self._settings = settings
        self._ports = ports
        self._health = Health(ports.events)
        self._numbers = count(1)
        self._tried = 0  # to start one, with or without success
        self._withdrawn: frozenset[str] = frozenset()
        self._processes: list[Process] = []  # that are ready
        self._changed = asyncio.Condition()
        self._stopping = asyncio.Event()
        self._keepers: list[asyncio.Task[None]] = []
        self._burials: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to start the workers."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._size)]

    async def begun(self) -> None:
        """Return when all have started, or some time is over; a relayer waits for one in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_PATIENCE), self._changed:
                await self._changed.wait_for(lambda: self._tried >= self._size)

    async def close(self) -> None:
        """See off the last connections and end the workers.  What still runs is left as the daemon's own death would
        leave it, but that no death is counted."""
        self._stopping.set()
        for process in self._processes:
            process.stop()
        if self._keepers:
            patience = self._settings.timeouts.quit.total_seconds() + STOP_MARGIN
            await asyncio.wait(self._keepers, timeout=patience)
            for task in (*self._keepers, *self._burials):
                task.cancel()
            await asyncio.wait([*self._keepers, *self._burials])

    # what the daemon asks

    def new(self, site: Site, permit: Permit | None = None) -> RemoteRelayer:
        """Return a relayer for `site`, not running yet."""
        return RemoteRelayer(site, self, permit)

    def reload(self, settings: RelaySettings) -> None:
        """Let relayers from now on use other settings."""
        self._settings = settings
        for process in self._processes:
            process.reload(settings)

    def withdraw(self, message_ids: frozenset[str]) -> None:
        """Let no relayer start one of these, which are all that there are."""
        if message_ids != self._withdrawn:
            self._withdrawn = message_ids
            for process in self._processes:
                process.withdraw(message_ids)

    async def noticed(self) -> None:
        """Return when every worker has taken notice of what was withdrawn."""
        if answers := [process.ping() for process in self._processes]:
            await asyncio.wait(answers)

    # what its relayers ask

    @property
    def running(self) -> int:
        """How many workers there are now."""
        return len(self._processes)

    def idlest(self) -> Process | None:
        """Return the worker with the fewest runs, None if there is none now."""
        return min(self._processes, key=lambda process: len(process.runs), default=None)

    async def available(self) -> bool:
        """Wait for a worker; return whether one came within reasonable time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._changed:
                await self._changed.wait_for(lambda: self._processes)
                return True
        return False

    # one worker

    async def _keep(self) -> None:
        """Keep a worker running."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            began = loop.time()
            process = await self._start_one()
            await self._offer(process)
            if process is not None:
                await self._work(process)
            pause = FIRST_PAUSE if loop.time() - began > STEADY else pause
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _start_one(self) -> Process | None:
        """Start a worker; None, with the reason told, if that fails."""
        settings, withdrawn = self._settings, self._withdrawn
        try:
            process = await Process.start(self._ports, next(self._numbers), settings, withdrawn)
        except (OSError, WorkerFailed) as error:
            self._health.failed(PART, error)
            return None
        self._health.works(PART)
        if settings != self._settings:  # meanwhile
            process.reload(self._settings)
        if withdrawn != self._withdrawn:
            process.withdraw(self._withdrawn)
        return process

    async def _offer(self, process: Process | None) -> None:
        """Let relayers have a worker, if there is one."""
        async with self._changed:
            self._tried += 1
            if process is not None and not process.lost.is_set():
                self._processes.append(process)
            self._changed.notify_all()

    async def _work(self, process: Process) -> None:
        """See to it that a worker answers, until it ends; then to what it leaves."""
        watch = asyncio.create_task(_watch(process))
        if self._stopping.is_set():
            process.stop()
        try:
            await process.lost.wait()
        finally:
            watch.cancel()
            with suppress(ValueError):
                self._processes.remove(process)
            how = await process.kill()
            if self._stopping.is_set():
                process.abandon()
        if not self._stopping.is_set():
            self._ports.events(WorkerDied(pid=process.pid, how=how, relayers=len(process.runs)))
            burial = asyncio.create_task(self._health.guarded(PART, self._bury(process)))
            self._burials.add(burial)
            burial.add_done_callback(self._burials.discard)

    # its end

    async def _bury(self, process: Process) -> None:
        """Conclude what became of the runs of a worker that has died."""
        runs = list(process.runs.values())
        try:
            marked = await self._settle_notes(process, runs)
        except BaseException:
            process.abandon()
            raise
        for run in runs:
            run.over.set_result(run.died(marked))
        process.runs.clear()
        for run in runs:
            await run.recorded()
        with suppress(OSError):  # the next start removes it
            process.notes.unlink()

    async def _settle_notes(self, process: Process, runs: Collection[Run]) -> frozenset[Claimed]:
        """Let the queue mark what may have left and count the death; return what was marked."""
        left = frozenset((each.lease, each.id) for run in runs for each in run.left)
        noted = await asyncio.to_thread(_read, process.notes, self._ports.premises.boot) or Noted(ending=left)
        of_runs = Noted(begun=noted.begun & left, ending=noted.ending & left)
        while of_runs.begun or of_runs.ending:
            try:
                buried = await self._ports.bury(of_runs, self._ports.clock())
            except QueueError:  # which the queue has told
                await asyncio.sleep(AGAIN)
                continue
            for message_id, address in buried.marked:
                self._ports.events(Marked(id=message_id, address=address))
            for message_id, deaths in buried.held:
                self._ports.events(HeldAfterDeaths(id=message_id, deaths=deaths))
            break
        return of_runs.ending


def _read(path: Path, boot: str) -> Noted | None:
    try:
        return read(path, boot)
    except OSError:  # nobody knows what it noted
        return None


async def _watch(process: Process) -> None:
    """Kill a worker that does not answer."""
    silent = 0
    while silent < MAX_SILENT:
        answer = process.ping()
        await asyncio.sleep(PING_INTERVAL)
        silent = 0 if answer.done() else silent + 1
    process.end_now()
