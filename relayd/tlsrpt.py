"""The reports on TLS, in the daemon: asked what is due every `check_interval`.  Their troubles are told, and go no
further: no mail waits for a report."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Self

from relayd.health import Health
from relayd.https import Https
from relayd.mail.events import Events, Trouble
from relayd.mail.message import Message
from relayd.mail.tls import TlsSession
from relayd.plugs import PostPort, TextsPort
from relayd.report.reporter import PART, Reporter
from relayd.report.settings import ReportSettings
from relayd.route.answers import Resolver
from relayd.route.sts_source import StsPolicies
from relayd.spool.reports import ReportsFile
from relayd.spool.spool import Spool
from relayd.tasks import Tasks

STOPPING = timedelta(seconds=5)  # for what is being asked of the disk when the daemon stops
ONCE = timedelta(seconds=30)  # for what is due, before `--once` goes on with the mail


class TlsReports:
    """See the module."""

    def __init__(self, reporter: Reporter, events: Events) -> None:
        self._reporter = reporter
        self._events = events
        self._health = Health(events)
        self._tasks = Tasks(self._health)

    @classmethod
    def build(
        cls,
        settings: ReportSettings | None,
        spool: Spool,
        *,
        resolver: Resolver,
        https: Https,
        policies: StsPolicies,
        added: Callable[[Message], None],
        clock: Callable[[], datetime],
        events: Events,
    ) -> Self:
        """Plug a reporter in; `added` is told of the mail that it queues."""

        def sts_lines(domain: str) -> tuple[str, ...]:
            policy = policies.known(domain)
            return () if policy is None else policy.lines

        reporter = Reporter(
            settings,
            store=ReportsFile(spool.root),
            texts=TextsPort(resolver),
            post=PostPort(spool, added),
            https=https,
            sts_lines=sts_lines,
            clock=clock,
            jitter=random.random,
            events=events,
        )
        return cls(reporter, events)

    def session(self, session: TlsSession) -> None:
        """Count how TLS went on a connection.  Never raises."""
        try:
            self._reporter.session(session)
        except Exception as error:
            self._events(Trouble(part=PART, detail=f"{session!r}: {error!r}"))

    def start(self, interval: Callable[[], timedelta]) -> None:
        """Do what is due again and again; `interval` is asked for the time between."""
        self._tasks.every(interval, PART, self._reporter.round)

    async def once(self) -> None:
        """Do what is due, within ONCE: what is not done then goes on until `close`, and is due again."""
        await self._health.guarded(PART, self._reporter.round())
        with suppress(TimeoutError):
            async with asyncio.timeout(ONCE.total_seconds()):
                await self._health.guarded(PART, self._reporter.sent())

    def reload(self, settings: ReportSettings | None) -> None:
        """Use other settings from now on."""
        self._reporter.reload(settings)

    async def close(self) -> None:
        """Write down what was counted; what is being handed over is handed over at the next start."""
        await self._tasks.cancel(STOPPING)
        await self._health.guarded(PART, self._reporter.close())
