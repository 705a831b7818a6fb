"""Group commit: many jobs, one transaction, one sync.

Invariants:

    A job runs at most once for each call of `run`, and has happened durably when `run` returns.
    Jobs run in the order in which they were handed in.
    A job that raises takes nobody with it: the others of its batch are committed without it.
    While one batch is being written the next gathers; a batch has at most `MAX_BATCH` jobs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar, cast

from relayd.mail.errors import QueueError
from relayd.mail.events import Committed, Events
from relayd.spool.database import Job

T = TypeVar("T")

MAX_BATCH = 500  # bounds how long the first waiter waits for the last


class Committer(Protocol):
    """Where jobs are written."""

    async def commit(self, jobs: Sequence[Job[Any]]) -> Sequence[object]:
        """Run jobs in one transaction if they all succeed; return for each what it returned, or an Exception."""


class Writer:
    """See the module.  `close` writes what has gathered and then refuses more.  `events` is told of each batch."""

    def __init__(self, committer: Committer, events: Events) -> None:
        self._committer = committer
        self._events = events
        self._gathered: deque[tuple[Job[Any], asyncio.Future[Any]]] = deque()
        self._wake = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._write())

    async def run(self, job: Job[T]) -> T:
        """Hand in a job and wait until it is durable.

        If the caller is cancelled before its batch began the job is not run; after that it is, whoever listens.

        Raises:
            QueueError: it was not done; or whatever the job raised.
        """
        if self._closing:
            raise QueueError("the queue is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._gathered.append((job, future))
        self._wake.set()
        return cast(T, await future)

    async def close(self) -> None:
        """Write what has gathered."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _write(self) -> None:
        while self._gathered or not self._closing:
            if not self._gathered:
                self._wake.clear()
                await self._wake.wait()
                continue
            taken = [self._gathered.popleft() for _ in range(min(len(self._gathered), MAX_BATCH))]
            batch = [(job, future) for job, future in taken if not future.cancelled()]
            if batch:
                await self._write_batch(batch)

    async def _write_batch(self, batch: Sequence[tuple[Job[Any], asyncio.Future[Any]]]) -> None:
        results: Sequence[object]
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            results = await self._committer.commit([job for job, _ in batch])
        except Exception as error:
            results = [error] * len(batch)
        seconds = clock() - began
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
        if done := sum(not isinstance(result, Exception) for result in results):
            with suppress(Exception):  # of who listens: what is recorded is recorded
                self._events(Committed(jobs=done, seconds=seconds))
