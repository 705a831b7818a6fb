"""A relayer as the manager wants it (relayd/ports.py), that runs in a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Site
from relayd.relay.ports import Permit
from relayd.relay.relayer import Ended
from relayd.relay.reporter import until_done
from relayd.workers.process import Process
from relayd.workers.run import Run

_NO_WORKER = Deferred(
    scope=Scope.HOST, reason="no relayer process is running", status=EnhancedStatus(4, 3, 0)
)  # RFC 3463 section 3.4: other mail system status


class Workers(Protocol):
    """Who gives relayers a process to run in: the pool."""

    def idlest(self) -> Process | None:
        """Return the worker with the fewest runs, None if there is none now."""

    async def available(self) -> bool:
        """Wait for a worker; return whether one came within reasonable time."""


class RemoteRelayer:
    """One run.  `run` is called once; `finish` and `stirred` may be at any time."""

    def __init__(self, site: Site, workers: Workers, permit: Permit | None = None) -> None:
        self._site = site
        self._permit = permit
        self._workers = workers
        self._finishing = asyncio.Event()
        self._process: Process | None = None
        self._number = -1
        self._run: Run | None = None

    async def run(self, deliveries: Sequence[Delivery]) -> Ended:
        """Send what can be sent; return when every report is durable.

        A worker that dies leaves what had not been settled as undone, but for what may have arrived: that is recorded
        as a possible duplicate already.

        Raises:
            CancelledError: after a reset; what was settled, or may have arrived, is reported and durable.
            RelayerFailed: our own trouble, likewise.  In both cases what was not reported is undone.
        """
        process = await self._find_process()
        if process is None:
            return Ended(undone=tuple(deliveries), failure=None if self._finishing.is_set() else _NO_WORKER)
        self._process = process
        self._number, self._run = process.begin(self._site, deliveries, self._permit)
        if self._finishing.is_set():
            process.finish(self._number)
        try:
            return await asyncio.shield(self._run.over)
        except asyncio.CancelledError:
            process.abort(self._number)
            await until_done(asyncio.wait([self._run.over]))
            raise
        finally:
            await until_done(self._run.recorded())

    @property
    def stirred(self) -> float:
        """When there was a sign of progress, by what its worker said last: what we do not know counts as some.

        A worker that cannot say is killed by the pool; what is waited for on our own side is progress too.
        """
        now = asyncio.get_running_loop().time()
        if self._process is None or self._run is None or self._process.lost.is_set() or self._run.over.done():
            return now
        return now - self._run.silent

    def reported(self, delivery: Delivery) -> bool:
        """Whether this one's outcomes were reported."""
        return self._run is not None and delivery.id in self._run.reported

    def finish(self) -> None:
        """Start nothing more; what is under way settles, and `run` returns the rest as undone."""
        self._finishing.set()
        if self._process is not None:
            self._process.finish(self._number)

    async def _find_process(self) -> Process | None:
        """Return where to run, without an await between the choice and that; None if we are to finish, or none can be
        had."""
        while not self._finishing.is_set():
            if (process := self._workers.idlest()) is not None:
                return process
            if not await self._available():
                break
        return None

    async def _available(self) -> bool:
        """Wait for a worker, unless we are to finish."""
        available = asyncio.ensure_future(self._workers.available())
        told = asyncio.ensure_future(self._finishing.wait())
        try:
            await asyncio.wait([available, told], return_when=asyncio.FIRST_COMPLETED)
            return available.done() and available.result()
        finally:
            available.cancel()
            told.cancel()
