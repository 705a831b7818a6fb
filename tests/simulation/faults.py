"""What goes wrong with the disk: changes of the queue that are slow, fail, or happen and are not told of."""

from __future__ import annotations

import asyncio
import errno
import random

from relayd.mail.errors import QueueError
from tests.simulation.world import World

HARMLESS = frozenset({"take_over", "unmade", "known", "sites", "leave"})  # without these there is no start, and no stop

FILES = frozenset({"place", "write", "rewrite", "sync", "unlink", "read", "scan", "take"})  # that may fail


class DiskFaults:
    """Of one start; see queue.Faults."""

    def __init__(self, world: World) -> None:
        self._world = world
        scenario = world.scenario
        self._chance = random.Random(f"{scenario.seed}/disk/{world.agenda.now}")
        self._rate = scenario.queue_faults
        self._ambiguous = scenario.ambiguous
        self._slow = scenario.slow_disk
        self._failing = ""  # the operation that will fail once it has happened

    async def before(self, operation: str) -> None:
        """See Faults."""
        await asyncio.sleep(self._chance.random() * self._slow if self._slow else 0)
        if operation in HARMLESS:
            return
        if self._world.agenda.now < self._world.disk_fails_until:
            self._world.facts.injected["disk full"] += 1
            raise QueueError("No space left on device")
        if self._fails(self._rate * (1 - self._ambiguous)):
            self._world.facts.injected["write failed"] += 1
            raise QueueError("Input/output error, before")

    async def after(self, operation: str) -> None:
        """See Faults."""
        await asyncio.sleep(self._chance.random() * self._slow if self._slow else 0)
        if operation not in HARMLESS and self._fails(self._rate * self._ambiguous):
            self._world.facts.injected["write ambiguous"] += 1
            raise QueueError("Input/output error, after")

    def files(self, operation: str) -> None:
        """See Faults."""
        if operation not in FILES:
            return
        if self._world.agenda.now < self._world.disk_fails_until:
            self._world.facts.injected["disk full"] += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        if self._fails(self._rate):
            self._world.facts.injected[f"{operation} failed"] += 1
            raise OSError(errno.EIO, "Input/output error")

    def _fails(self, rate: float) -> bool:
        return rate > 0 and not self._world.calm and self._chance.random() < rate
