"""The daemon: builds the parts, plugs them together, starts and stops them.

The order of a start: the lock, the queue (leases of earlier starts end), what was half taken in, the attempt manager
(it owes notifications), the sockets, READY, and only then relaying; bodies without rows are looked for beside
that.  None of it takes longer for a longer queue.  The order of a stop is the reverse: nothing new, what is in flight
within `stop_grace`, outcomes to disk, leases given back, the lock.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import uvloop

from relayd import __version__, keys
from relayd.allocator import keep_little, rest_from_garbage
from relayd.attempt.manager import AttemptManager
from relayd.census import LastCensus
from relayd.clock import Clock
from relayd.config import load
from relayd.control import Said, listen
from relayd.desk import QueueDesk
from relayd.identity import Identity, hostname_of_machine, identity
from relayd.mail.errors import ConfigError
from relayd.mail.events import Degraded, Lifecycle, Restored, Warned
from relayd.manager import RelayManager
from relayd.monitoring import Monitoring, Sources
from relayd.observe.counters import Counted
from relayd.observe.observing import Observing
from relayd.plugs import LedgerPort, NotificationsPort
from relayd.relay.ports import Ports
from relayd.relayers import BodiesPort, InHandPort, Relayers
from relayd.report.settings import ReportSettings
from relayd.route.own import own_addresses
from relayd.routing import Routing
from relayd.schedule.scheduler import Scheduler
from relayd.sections import Config
from relayd.settings import (
    http_settings,
    manager_settings,
    relay_settings,
    report_settings,
    schedule_settings,
    submission_settings,
)
from relayd.spool.spool import Spool
from relayd.submission.pickup import Pickup
from relayd.supervisor import Supervisor
from relayd.tlsrpt import TlsReports
from relayd.workers.pool import Pool
from relayd.workers.ports import PoolPorts, Premises

STDERR = 2
NO_REPORTS = "no reports on TLS are sent, since nobody could tell by whom: set relay.hostname"
AS_ROOT = "relayd runs as root, and needs no such rights; start it as a user of its own (docs/security.md)"
EX_OK = 0
EX_TEMPFAIL = 75
STATUS_INTERVAL = timedelta(seconds=10)
CONFIGURATION = "configuration"  # a part, in events


def run(config: Config, *, once: bool) -> int:
    """Run the daemon until a signal, or with `once` until nothing can be done; return the exit code.

    Raises:
        SpoolLocked: another daemon owns the spool.
        QueueError: the queue cannot be opened.
    """
    keep_little()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Daemon(config).serve(once=once))


class Daemon:
    """See the module."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._identity = _identity(config)
        self._processes = config.relay.processes
        self._events = Observing(STDERR, config.log, os.environ)
        self._clock = Clock()
        self._monitoring = Monitoring(self._events, self._clock)
        self._supervisor = Supervisor()
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._manager: RelayManager
        self._assembled = False  # the parts are there: before, a reload only has to replace the configuration

    async def serve(self, *, once: bool) -> int:
        """See `run`."""
        async with AsyncExitStack() as stack:
            stack.enter_context(self._events.listening())
            stack.callback(self._supervisor.close)
            self._on_signals(asyncio.get_running_loop())
            if self._identity.warning:
                self._events(Warned(about="relay.hostname", detail=self._identity.warning))
            if os.geteuid() == 0:
                self._events(Warned(about="user", detail=AS_ROOT))
            spool = await self._open_spool(stack)
            await self._assemble(spool, stack)
            control = listen(self._config.spool / "control", self._operator_changed_queue, self._answer)
            await stack.enter_async_context(control)
            keyed = keys.listen(self._config.spool / keys.NAME, lambda key: spool.queue.keyed(key, self._clock()))
            await stack.enter_async_context(keyed)
            await self._monitoring.start(http_settings(self._config, self._identity), self._sources(spool))
            stack.push_async_callback(self._monitoring.close)
            self._events(Lifecycle(state="started", detail=f"relayd {__version__} as {self._identity.hostname}"))
            rest_from_garbage()
            self._supervisor.ready()
            await self._relay(once)
            waits = once and await self._anything_waits(spool)
        return EX_TEMPFAIL if waits else EX_OK

    async def _anything_waits(self, spool: Spool) -> bool:
        """Whether mail waits for a time, or files for what the system lacks."""
        if self._manager.degraded or self._pickup.degraded:
            return True
        return await spool.queue.next_due(datetime.fromtimestamp(0, UTC)) is not None

    # building

    async def _open_spool(self, stack: AsyncExitStack) -> Spool:
        config = self._config
        spool = await Spool.open(config.spool, now=self._clock(), history=config.relay.history, events=self._events)
        stack.push_async_callback(spool.close)
        self._clock.begin(spool.away)
        return spool

    async def _assemble(self, spool: Spool, stack: AsyncExitStack) -> None:
        """Build the parts in the order in which they need each other, and take up what an earlier start left."""
        self._routing = routing = Routing(
            self._config,
            self._identity,
            clock=self._clock,
            events=self._events,
            asked=self._monitoring.asked,
            sessions=lambda session: self._reports.session(session),
        )
        stack.push_async_callback(routing.close)
        await routing.load()
        self._scheduler = Scheduler(schedule_settings(self._config))
        self._pickup = Pickup(submission_settings(self._config, self._identity), clock=self._clock, events=self._events)
        self._attempts = AttemptManager(
            self._config.retry,
            self._identity.hostname,
            ledger=LedgerPort(spool.queue),
            notifications=NotificationsPort(spool, lambda message: self._manager.arrived([message])),
            clock=self._clock,
            jitter=random.random,
            events=self._events,
            lost_within=self._clock.lost_within,
            retry_due=lambda at: self._manager.retry_due(at),
            site_forgotten=lambda site: self._manager.site_forgotten(site),
        )
        self._reports = TlsReports.build(
            self._report_settings(),
            spool,
            resolver=routing.resolver,
            https=routing.https,
            policies=routing.policies,
            added=lambda message: self._manager.arrived([message]),
            clock=self._clock,
            events=self._events,
        )
        stack.push_async_callback(self._reports.close)
        self._relayers = self._pool(spool) if self._processes else self._in_process(spool)
        stack.push_async_callback(self._relayers.close)
        self._manager = RelayManager(
            manager_settings(self._config),
            scheduler=self._scheduler,
            pickup=self._pickup,
            spool=spool,
            queue=spool.queue,
            router=routing.router,
            attempts=self._attempts,
            new_relayer=self._relayers.new,
            clock=self._clock,
            events=self._events,
            take_leap=self._clock.take_leap,
            degraded=lambda: self._events.parts.degraded,
            tell_withdrawn=self._relayers.withdraw if isinstance(self._relayers, Pool) else lambda message_ids: None,
        )
        self._assembled = True
        await self._take_up(spool)
        self._attempts.start()
        stack.push_async_callback(self._attempts.close)
        await self._manager.restore()
        if isinstance(self._relayers, Pool):
            await self._relayers.begun()

    def _in_process(self, spool: Spool) -> Relayers:
        """Let relayers run here."""
        ports = Ports(
            addresses=self._routing.router,
            tokens=self._routing.tokens,
            reports=self._attempts,
            bodies=BodiesPort(spool.bodies),
            in_hand=InHandPort(spool.notes),
            sessions=self._reports.session,
            withdrawn=lambda message_id: self._manager.withdrawn(message_id),
            measured=self._monitoring.measured,
        )
        return Relayers(relay_settings(self._config, self._identity), ports, self._clock)

    def _pool(self, spool: Spool) -> Pool:
        """Let relayers run in workers, which start while the rest is built."""
        premises = Premises(
            bodies=spool.root / "queue", lock=spool.lock_descriptor, notes=spool.notes.of_worker, boot=spool.notes.boot
        )
        ports = PoolPorts(
            reports=self._attempts,
            addresses=self._routing.router,
            tokens=self._routing.tokens,
            sessions=self._reports.session,
            bury=spool.queue.bury,
            premises=premises,
            clock=self._clock,
            events=self._events,
            measured=self._monitoring.measured,
        )
        pool = Pool(self._processes, relay_settings(self._config, self._identity), ports)
        pool.start()
        return pool

    def _sources(self, spool: Spool) -> Sources:
        relayers = self._relayers
        return Sources(
            progress=self._manager.progress,
            scheduler=self._scheduler,
            census=LastCensus(spool.queue, self._clock),
            spool=spool.root,
            scratch=spool.bodies.scratch,
            workers=lambda: relayers.running if isinstance(relayers, Pool) else 0,
            workers_wanted=self._processes,
            check_interval=lambda: self._config.relay.check_interval,
            desk=QueueDesk(
                spool.queue,
                ask=self._manager.answers.answer,
                changed=self._operator_changed_queue,
                clock=self._clock,
                retry=lambda: self._config.retry,
                routes=lambda: [rule.name for rule in self._config.routes],
            ),
        )

    async def _answer(self, question: Said) -> Said | None:
        if question.get("ask") == "top":
            return await self._monitoring.top()
        return await self._manager.answers.answer(question)

    def _report_settings(self) -> ReportSettings | None:
        settings = report_settings(self._config, self._identity)
        if settings is None and self._config.tls_report.enabled:
            self._events(Warned(about="tls.report", detail=NO_REPORTS))
        return settings

    async def _operator_changed_queue(self) -> None:
        """On return nothing that an operator withdrew will be started, here or in a worker."""
        await self._manager.operator_changed_queue()
        if isinstance(self._relayers, Pool):
            await self._relayers.noticed()

    async def _take_up(self, spool: Spool) -> None:
        """Put back what a crash left half taken in of other owners' files."""
        known = await spool.incoming_known()
        await self._pickup.restore_incoming(known.__contains__)

    # running

    async def _relay(self, once: bool) -> None:
        """Relay until told to stop; then bring what is in flight to its end."""
        if once:
            await self._reports.once()
        else:
            self._reports.start(lambda: self._config.relay.check_interval)
        beside = [asyncio.create_task(self._report_status()), asyncio.create_task(self._stop.wait())]
        beside.append(asyncio.create_task(self._routing.run()))
        relaying = asyncio.create_task(self._manager.run(once=once))
        self._monitoring.started()
        try:
            await asyncio.wait([relaying, beside[1]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._supervisor.stopping()
            self._monitoring.stopping()
            self._events(Lifecycle(state="stopping"))
            await self._manager.stop(self._hurry, self._config.relay.stop_grace)
            await relaying
            for task in beside:
                task.cancel()

    async def _report_status(self) -> None:
        """Tell the service manager that the loop turns, and what it does."""
        interval = self._supervisor.watchdog_interval or STATUS_INTERVAL
        while True:
            self._clock()  # seldom for long without a look: much time between two is time that was lost
            self._supervisor.alive()
            self._supervisor.status(self._status)
            await asyncio.sleep(min(interval, STATUS_INTERVAL).total_seconds())

    @property
    def _status(self) -> str:
        """One line for people: what is in hand, and what was done since the start."""
        count = self._events.counters
        done = f"{count[Counted.DELIVERED]} delivered, {count[Counted.FAILED]} failed since the start"
        degraded = (
            f"; degraded: {', '.join(sorted(self._events.parts.degraded))}" if self._events.parts.degraded else ""
        )
        return f"{self._manager.status}; {done}{degraded}"

    def _on_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _reload(self) -> None:
        """Read the configuration again; one with mistakes is refused, and the old one stays."""
        self._supervisor.reloading()
        try:
            config = load(self._config.path)
            if config.spool != self._config.spool:
                raise ConfigError("relay.spool: the spool cannot be changed by a reload; restart relayd for that")
        except ConfigError as error:
            for mistake in error.mistakes:
                self._events(Degraded(part=CONFIGURATION, reason=mistake))
            self._events(Lifecycle(state="not-reloaded", detail="the configuration before stays in force"))
        else:
            if config.relay.processes != self._processes:
                detail = f"relayd goes on with {self._processes}; restart it to have {config.relay.processes}"
                self._events(Warned(about="relay.processes", detail=detail))
            self._config, self._identity = config, _identity(config)
            self._events.reload(config.log)
            if self._assembled:
                self._use(config)
            if CONFIGURATION in self._events.parts.degraded:
                self._events(Restored(part=CONFIGURATION))
            self._events(Lifecycle(state="reloaded"))
        self._supervisor.ready()

    def _use(self, config: Config) -> None:
        self._routing.reload(config, self._identity)
        self._scheduler.reload(schedule_settings(config), self._clock())
        self._pickup.reload(submission_settings(config, self._identity))
        self._attempts.reload(config.retry, self._identity.hostname)
        self._reports.reload(self._report_settings())
        self._relayers.reload(relay_settings(config, self._identity))
        self._manager.reload(manager_settings(config))
        self._monitoring.reload(http_settings(config, self._identity))


def _identity(config: Config) -> Identity:
    return identity(config.relay.hostname, hostname_of_machine(), own_addresses())
