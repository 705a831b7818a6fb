"""Metrics and health of the daemon, and the HTTP server that shows them: gathered here, off unless [http] is set.

What it costs is paid by who uses it: without [http] nothing is measured, and neither aiohttp nor prometheus_client is
loaded.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from relayd import __version__
from relayd.census import LastCensus
from relayd.mail.events import Event
from relayd.mail.figures import Figures
from relayd.observe.metrics import Metrics
from relayd.observe.observing import Observing
from relayd.observe.pulse import BEAT, Pulse
from relayd.observe.readings import Reading, SiteReading
from relayd.observe.vitals import Vitals, ailments, unready
from relayd.progress import Progress
from relayd.schedule.gates import SiteState, allowed
from relayd.schedule.scheduler import Scheduler
from relayd.web.settings import HttpSettings

if TYPE_CHECKING:
    from relayd.observe.exposition import Exposition
    from relayd.web.api import Desk
    from relayd.web.server import HttpServer
    from relayd.web.status import Stream

TOP = 20  # sites that are told apart
OTHER = "other"
LOOK = 1.0  # seconds between two looks at the event loop
PROBE = b"\0" * 4096
PROBE_PATIENCE = 5.0  # seconds for the disk to take that


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where values are read.  `scratch` returns an unnamed file in the spool, or raises OSError; `workers` how many
    relayer processes run."""

    progress: Progress
    scheduler: Scheduler
    census: LastCensus
    spool: Path
    scratch: Callable[[], BinaryIO]
    workers: Callable[[], int]
    workers_wanted: int
    check_interval: Callable[[], timedelta]
    desk: Desk


class Monitoring:
    """An `Instruments` and a `Machine`.  `start` when there is something to show; `stopping` before the end."""

    def __init__(self, observing: Observing, clock: Callable[[], datetime]) -> None:
        self._observing = observing
        self._clock = clock
        self._metrics: Metrics | None = None
        self._pulse: Pulse
        self._stream: Stream | None = None
        self._sources: Sources
        self._exposition: Exposition
        self._server: HttpServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._probing: asyncio.Task[str] | None = None
        self._started = self._stopping = False

    # what others tell it

    def measured(self, figures: Figures) -> None:
        """See relayd/relay/ports.py."""
        if self._metrics is not None:
            self._metrics.measured(figures)

    def asked(self, kind: str, result: str, seconds: float) -> None:
        """See relayd/route/watched.py."""
        if self._metrics is not None:
            self._metrics.asked(kind, result, seconds)

    def started(self) -> None:
        """Mail is relayed from now on."""
        self._started = True

    def stopping(self) -> None:
        """Nothing new is started any more."""
        self._stopping = True

    # its life

    async def start(self, settings: HttpSettings, sources: Sources) -> None:
        """Serve, if that is wanted."""
        self._sources = sources
        if settings.place is not None:
            await self._serve(settings)

    def reload(self, settings: HttpSettings) -> None:
        """Serve as these say."""
        if self._server is not None:
            self._server.reload(settings)
        elif settings.place is not None:
            self._tasks.append(asyncio.create_task(self._serve(settings)))

    async def close(self) -> None:
        """End all connections."""
        tasks = self._tasks + [task for task in [self._probing] if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._server is not None:
            await self._server.close()
            await self._sources.census.close()

    async def _serve(self, settings: HttpSettings) -> None:
        web = await asyncio.to_thread(importlib.import_module, "relayd.web.site")
        exposition = await asyncio.to_thread(importlib.import_module, "relayd.observe.exposition")
        metrics = self._measure()
        self._exposition = exposition.Exposition(self._observing.counters, metrics, self)
        self._stream = web.Stream(self._sources.census.look, self.snapshot, self.past)
        server = self._server = web.site(settings, self, self._stream, self._sources.desk, self._observing)
        await server.follow()
        self._tasks.append(asyncio.create_task(server.run()))

    def _measure(self) -> Metrics:
        """Begin to measure, if nobody has wanted that yet."""
        if self._metrics is None:
            metrics = self._metrics = Metrics()
            pulse = self._pulse = Pulse(self._observing.counters, metrics.delivery_age)

            def told(event: Event) -> None:
                metrics(event)
                pulse(event)

            self._observing.also = told
            self._tasks += [asyncio.create_task(_watch_loop(metrics)), asyncio.create_task(self._beat())]
        return self._metrics

    async def _beat(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._pulse.beat(self._clock(), clock(), self._sources.scheduler.room.running)
            if self._stream is not None and self._stream.clients:
                await self._sources.census.look()
                self._stream.shown()
            await asyncio.sleep(BEAT)

    # what people look at

    def snapshot(self) -> dict[str, Any]:
        """Return what the status page shows of this instant."""
        reading = self.read()
        shown = asdict(reading)
        if reading.queue is not None:
            shown["queue"]["total"] = {how: sum(ages) for how, ages in reading.queue.counts.items()}
        last = self._pulse.samples[-1] if self._pulse.samples else None
        return shown | {
            "at": self._clock().isoformat(timespec="seconds"),
            "beat": BEAT,
            "why": ailments(self._vitals()),
            "sample": asdict(last) if last else None,
            "setbacks": self._pulse.recent(),
            "totals": self._observing.counters.snapshot(),
        }

    def past(self) -> dict[str, Any]:
        """Return what it shows of the time before."""
        return {"beat": BEAT, "samples": self._pulse.past()}

    async def top(self) -> dict[str, Any]:
        """Return both, to `relayd top`; from the first time on it is measured."""
        self._measure()
        await self._sources.census.look()
        return {"now": self.snapshot(), "past": self.past()}

    # what programs ask

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """See relayd/web/ports.py."""
        await self._sources.census.look()
        return self._exposition.text(accept)

    async def ailments(self) -> list[str]:
        """See relayd/web/ports.py."""
        return ailments(self._vitals(await self._unwritable()))

    def unready(self) -> list[str]:
        """See relayd/web/ports.py."""
        return unready(self._vitals())

    def read(self) -> Reading:
        """See relayd/observe/readings.py."""
        sources, now = self._sources, self._clock()
        room, sites = sources.scheduler.room, sources.scheduler.sites
        stuck = sources.progress.stuck(now)
        return Reading(
            version=__version__,
            healthy=not ailments(self._vitals()),
            connections=room.running,
            connections_max=room.max_connections,
            in_core=room.in_core,
            in_core_max=room.active_limit,
            look_ups=sources.progress.look_ups,
            sites=_most_busy([(key, state) for key, state in sites.items()], now),
            sites_known=len(sites),
            sites_backing_off=sum(_back_off(state, now) > 0 for state in sites.values()),
            queue=sources.census.reading(),
            oldest_due=sources.progress.waiting(now).total_seconds(),
            stuck=stuck[1].total_seconds() if stuck else 0.0,
            since_round=sources.progress.since_round.total_seconds(),
            degraded=tuple(sorted(self._observing.parts.degraded)),
            workers=sources.workers(),
            workers_wanted=sources.workers_wanted,
            lines_dropped=self._observing.lines_dropped,
            free_octets=_free(sources.spool),
        )

    def _vitals(self, unwritable: str = "") -> Vitals:
        sources = self._sources
        return Vitals(
            started=self._started,
            stopping=self._stopping,
            degraded=self._observing.parts.degraded,
            since_round=sources.progress.since_round,
            check_interval=sources.check_interval(),
            lag=self._metrics.lag_max if self._metrics else 0.0,
            stuck=sources.progress.stuck(self._clock()),
            unwritable=unwritable,
        )

    async def _unwritable(self) -> str:
        """Return why nothing can be written to the spool; one look at a time, since a disk may hang."""
        if self._probing is None:
            self._probing = asyncio.create_task(asyncio.to_thread(_probe, self._sources.scratch))
        done, _ = await asyncio.wait([self._probing], timeout=PROBE_PATIENCE)
        if not done:
            return f"the disk does not answer within {PROBE_PATIENCE:g} s"
        probing, self._probing = self._probing, None
        return probing.result() if probing else ""


def _probe(scratch: Callable[[], BinaryIO]) -> str:
    try:
        with scratch() as file:
            file.write(PROBE)
            file.flush()
    except OSError as error:
        return str(error.strerror or error)
    return ""


async def _watch_loop(metrics: Metrics) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + LOOK
        await asyncio.sleep(LOOK)
        metrics.lagged(max(clock() - due, 0.0))


def _most_busy(sites: list[tuple[str, SiteState]], now: datetime) -> tuple[SiteReading, ...]:
    """Return the sites with most to do, and all others as one: what these have together, and the longest back-off."""
    top = heapq.nlargest(TOP, sites, key=lambda item: (item[1].running, item[1].failures, len(item[1].due)))
    told = {key for key, _ in top}
    readings = [_reading(key, state, now) for key, state in top]
    others = [_reading(key, state, now) for key, state in sites if key not in told]
    rest = SiteReading(
        site=OTHER,
        connections=sum(each.connections for each in others),
        window=sum(each.window for each in others),
        back_off=max((each.back_off for each in others), default=0.0),
    )
    return (*readings, rest)


def _reading(key: str, state: SiteState, now: datetime) -> SiteReading:
    window = allowed(state, now)
    return SiteReading(
        site=key,
        connections=state.running,
        window=window,
        back_off=_back_off(state, now),
        failures=state.failures,
        reason=state.reason or state.window.why,
    )


def _back_off(state: SiteState, now: datetime) -> float:
    return 0.0 if state.retry_at is None else max((state.retry_at - now).total_seconds(), 0.0)


def _free(spool: Path) -> int | None:
    with suppress(OSError):
        found = os.statvfs(spool)
        return found.f_bavail * found.f_frsize
    return None
