"""Hands each settled delivery to the attempt stage, and knows which of them are not durable yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from relayd.mail.attempt import Attempt
from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.tls import Evidence
from relayd.mail.transcript import Transcript
from relayd.relay.capabilities import Capabilities
from relayd.relay.ports import Reports
from relayd.relay.secrecy import Secrecy
from relayd.relay.transaction import Load, Remark
from relayd.relay.transcript import Transcripts, transcript

T = TypeVar("T")


class Reporter:
    """One run's reports.  `full` when `limit` of them are not durable: then nothing more is to be started."""

    def __init__(
        self,
        reports: Reports,
        clock: Callable[[], datetime],
        limit: int,
        secrecy: Secrecy,
        transcripts: Transcripts = Transcripts.FAILURES,
    ) -> None:
        self._transcripts = transcripts
        self._opening: tuple[Remark, ...] = ()
        self.peer = ""
        self.tls: Evidence | None = None
        self.relays_dsn = False
        self.relays_deadline = False
        self.clock = clock
        self.reported: set[str] = set()  # ids of deliveries
        self.delivered = 0
        self.on_durable: Callable[[], None] | None = None
        self._reports = reports
        self._limit = limit
        self._secrecy = secrecy
        self._unresolved: set[asyncio.Future[None]] = set()
        self._trouble: BaseException | None = None

    @property
    def broken(self) -> bool:
        """Whether a report has failed: nothing more is to be sent, since nobody could record it."""
        return self._trouble is not None

    @property
    def full(self) -> bool:
        """Whether no more can be taken on; also once a report has failed."""
        return len(self._unresolved) >= self._limit or self.broken

    def met(self, peer: str, evidence: Evidence | None, offered: Capabilities, opening: Sequence[Remark] = ()) -> None:
        """From now on it is this server that is reported of; `opening` is what was said before the first MAIL."""
        self.peer, self.tls = peer, evidence
        self._opening = tuple(opening)
        self.relays_dsn, self.relays_deadline = offered.dsn, offered.deliver_by

    def report(self, load: Load, seconds: float) -> None:
        """Report a load whose every recipient has an outcome."""
        self.reported.add(load.delivery.id)
        others = [one for one in load.outcomes.values() if not isinstance(one, Delivered)]
        self.delivered += len(others) < len(load.outcomes)
        attempt = Attempt(
            delivery=load.delivery,
            outcomes={number: self._secrecy.of_outcome(outcome) for number, outcome in load.outcomes.items()},
            ended=self.clock(),
            peer=self.peer,
            tls=self.tls,
            relays_dsn=self.relays_dsn,
            relays_deadline=self.relays_deadline,
            seconds=seconds,
            altered=load.altered,
            transcript=self._transcript(load, others) if others or self._transcripts is Transcripts.ALL else (),
        )
        load.discard()
        future = asyncio.ensure_future(self._reports.report(attempt))
        self._unresolved.add(future)
        future.add_done_callback(self._durable)

    def _transcript(self, load: Load, failures: Iterable[Deferred | Failed]) -> Transcript:
        """Return what was said of a load, where it is wanted; a failure that no reply tells of is its last line."""
        if self._transcripts is Transcripts.NONE:
            return ()
        for reason in dict.fromkeys(one.reason for one in failures if one.reason):
            load.note(self.clock(), reason)
        remarks = [*self._opening, *load.remarks]
        return transcript(remarks, self._secrecy) if remarks else ()

    async def all_durable(self) -> None:
        """Wait until every report is durable.

        Raises:
            Exception: that of a report which failed.
        """
        while self._unresolved:
            await asyncio.wait(self._unresolved)
        if self._trouble is not None:
            raise self._trouble

    def _durable(self, future: asyncio.Future[None]) -> None:
        was_full = self.full
        self._unresolved.discard(future)
        if future.cancelled():
            self._trouble = asyncio.CancelledError()
        elif error := future.exception():
            self._trouble = error
        if (was_full or self.broken) and self.on_durable is not None:
            self.on_durable()


async def until_done(work: Awaitable[T]) -> T:
    """Await `work` to its end even if cancelled meanwhile; then be cancelled."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True  # a second cancel finds us still here
    if cancelled and not task.cancelled():
        task.result()
        raise asyncio.CancelledError
    return task.result()
