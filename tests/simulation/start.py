"""One start of the daemon in a simulated world: the real parts, wired as daemon.py wires them, to a disk, a network and
a resolver in memory.

What is real: the manager and all beside it, the scheduler, the router, the attempt manager, the relayers with their
connections, greetings, sessions and engines, the reading of what is dropped.  A kill abandons all of it (`abandon`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from relayd.attempt.manager import AttemptManager
from relayd.attempt.settings import RetrySettings
from relayd.clock import Clock
from relayd.daemon import STATUS_INTERVAL
from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Event, Lifecycle
from relayd.mail.message import Message
from relayd.manager import ManagerSettings, RelayManager
from relayd.plugs import LedgerPort, NotificationsPort
from relayd.relay.ports import Ports
from relayd.relay.settings import RelaySettings
from relayd.relay.timeouts import Timeouts
from relayd.relay.tls import TlsContexts
from relayd.relayers import BodiesPort, InHandPort, Relayers
from relayd.route.router import Router
from relayd.route.settings import RouteSettings
from relayd.schedule.rate import Rate
from relayd.schedule.scheduler import Scheduler
from relayd.schedule.settings import ScheduleSettings, SiteLimits
from relayd.spool.ground import NoteBook
from relayd.spool.spool import Spool
from tests.relay.kit import Tokens
from tests.simulation.drops import HOSTNAME, MemoryPickup
from tests.simulation.facts import Facts
from tests.simulation.faults import DiskFaults
from tests.simulation.ground import ground_on
from tests.simulation.scenario import Rules, Strike
from tests.simulation.tellings import Tellings
from tests.simulation.world import FOREVER, World

_CONTEXTS = TlsContexts()  # reading the system's authorities takes longer than many a run


class Start:
    """See the module.  `tellings` hears its events."""

    def __init__(self, world: World, tellings: Tellings) -> None:
        self._world = world
        self._tellings = tellings
        self._stop = asyncio.Event()
        self._clock = Clock(wall=world.clock, counted=world.monotonic)
        self._operations: set[asyncio.Task[None]] = set()
        self.spool: Spool | None = None
        self._faults = DiskFaults(world)
        self._ground = ground_on(world.disk, new_notice_id=world.new_id, faults=self._faults)
        self.manager: RelayManager | None = None
        self.started = False
        self._dead = False

    async def serve(self) -> None:
        """Run until told to stop, as Daemon.serve does."""
        world, rules = self._world, self._world.scenario.rules
        self.spool = spool = await Spool.on(
            self._ground,
            owner=world.new_id(),
            now=self._clock(),
            history=timedelta(seconds=FOREVER),  # the oracle reads it in the end
            events=self._events,
        )
        self._clock.begin(spool.away)
        self._look_at_clock()
        try:
            self._pickup = MemoryPickup(
                world.disk, clock=self._clock, monotonic=world.monotonic, chance=world.ids, faults=self._faults
            )
            attempts = self._attempts(spool, rules)
            relayers = self._relayers(spool, attempts, rules)
            self.manager = manager = self._manager(spool, attempts, relayers, rules)
            known = await spool.incoming_known()
            await self._pickup.restore_incoming(known.__contains__)
            attempts.start()
            try:
                await manager.restore()
                self.started = True
                self._events(Lifecycle(state="started"))
                await self._relay(manager, rules)
            finally:
                await attempts.close()
                await relayers.close()
        finally:
            await spool.close()

    async def _relay(self, manager: RelayManager, rules: Rules) -> None:
        relaying = asyncio.create_task(manager.run())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([relaying, stopping], return_when=asyncio.FIRST_COMPLETED)
        await manager.stop(asyncio.Event(), timedelta(seconds=rules.stop_grace))
        await relaying
        stopping.cancel()

    def _look_at_clock(self) -> None:
        """As the daemon does whenever it tells how it is."""
        self._clock()
        asyncio.get_running_loop().call_later(STATUS_INTERVAL.total_seconds(), self._look_at_clock)

    def stop(self) -> None:
        """Stop in order."""
        self._stop.set()

    def abandon(self) -> None:
        """It was killed: what it still holds is dead."""
        self._dead = True
        self._ground.abandon()

    def operate(self, strike: Strike) -> None:
        """Let an operator do something."""
        task = asyncio.get_running_loop().create_task(self._operate(strike))
        self._operations.add(task)
        task.add_done_callback(self._operations.discard)

    async def _operate(self, strike: Strike) -> None:
        if self.spool is None or self.manager is None or self._stop.is_set():
            return
        queue, tables = self.spool.queue, self._world.disk.tables
        known = sorted(tables.messages)
        if not known:
            return
        chosen = [known[int(strike.value) % len(known)]]
        self._world.facts.operated[strike.what].update(chosen)
        with suppress(QueueError):  # which the operator is told of
            match strike.what:
                case "hold":
                    await queue.hold(chosen)
                case "release":
                    self._world.facts.withdrawn.clear()
                    await queue.release([each for each in known if tables.messages[each].held])
                case "retry":
                    await queue.retry(known, self._clock())
                case _:
                    await queue.remove(chosen, self._clock())
            await self.manager.operator_changed_queue()
            released = strike.what == "hold" and chosen[0] in tables.messages and not tables.messages[chosen[0]].held
            if strike.what in ("hold", "remove") and not released and chosen[0] not in self._world.facts.made:
                self._world.facts.withdrawn[chosen[0]] = self._world.agenda.now

    def _events(self, event: Event) -> None:
        if not self._dead:
            self._tellings(event)

    def _arrived(self, message: Message) -> None:
        if self.manager is not None:
            self.manager.arrived([message])

    def _site_forgotten(self, site: str) -> None:
        if self.manager is not None:
            self.manager.site_forgotten(site)

    def _retry_due(self, at: datetime) -> None:
        if self.manager is not None:
            self.manager.retry_due(at)

    # the parts

    def _attempts(self, spool: Spool, rules: Rules) -> AttemptManager:
        return AttemptManager(
            retry_settings(rules),
            HOSTNAME,
            ledger=LedgerPort(spool.queue),
            notifications=_Recorded(spool, self._arrived, self._world.facts),
            clock=self._clock,
            jitter=self._world.chance.random,
            events=self._events,
            lost_within=self._clock.lost_within,
            retry_due=self._retry_due,
            site_forgotten=self._site_forgotten,
        )

    def _relayers(self, spool: Spool, attempts: AttemptManager, rules: Rules) -> Relayers:
        self._router = Router(
            RouteSettings(hostname=HOSTNAME),
            self._world.names,
            clock=self._clock,
            own_addresses=lambda: frozenset({"192.0.2.1"}),
        )
        ports = Ports(
            addresses=self._router,
            tokens=Tokens(),
            reports=attempts,
            bodies=BodiesPort(spool.bodies),
            in_hand=_Counted(spool.notes, self._world.facts),
            sessions=lambda session: None,
            withdrawn=lambda message_id: self.manager is not None and self.manager.withdrawn(message_id),
        )
        return Relayers(
            relay_settings(rules),
            ports,
            self._clock,
            shuffle=self._world.chance.shuffle,
            new_socket=self._world.network.new_socket,
            contexts=_CONTEXTS,
        )

    def _manager(self, spool: Spool, attempts: AttemptManager, relayers: Relayers, rules: Rules) -> RelayManager:
        world = self._world
        return RelayManager(
            ManagerSettings(
                check_interval=timedelta(seconds=rules.check_interval),
                max_connections=rules.max_connections,
                watchdog=relay_settings(rules).timeouts.longest_silence * 2,
            ),
            scheduler=Scheduler(schedule_settings(rules)),
            pickup=self._pickup,
            spool=spool,
            queue=spool.queue,
            router=self._router,
            attempts=attempts,
            new_relayer=relayers.new,
            clock=self._clock,
            events=self._events,
            take_leap=self._clock.take_leap,
            monotonic=world.monotonic,
        )


class _Recorded(NotificationsPort):
    def __init__(self, spool: Spool, added: Callable[[Message], None], facts: Facts) -> None:
        super().__init__(spool, added)
        self._facts = facts

    async def add_notification(self, message: Message, content: bytes) -> None:
        self._facts.made[message.id] = content
        await super().add_notification(message, content)


class _Counted(InHandPort):
    def __init__(self, notes: NoteBook, facts: Facts) -> None:
        super().__init__(notes)
        self._facts = facts

    def ending(self, delivery: Delivery) -> None:
        super().ending(delivery)
        self._facts.endings[delivery.id] += 1


def retry_settings(rules: Rules) -> RetrySettings:
    return RetrySettings(
        first=timedelta(seconds=rules.first),
        factor=rules.factor,
        max=timedelta(seconds=rules.max),
        greylist=timedelta(seconds=rules.greylist),
        lifetime=timedelta(seconds=rules.lifetime),
        warn_after=timedelta(seconds=rules.warn_after),
    )


def schedule_settings(rules: Rules) -> ScheduleSettings:
    return ScheduleSettings(
        max_connections=rules.max_connections,
        active_limit=rules.active_limit,
        limits=SiteLimits(
            max_connections=rules.per_site,
            initial_connections=rules.initial,
            max_messages_per_connection=rules.per_connection,
            message_rate=Rate.parse(rules.message_rate) if rules.message_rate else None,
            connection_rate=Rate.parse(rules.connection_rate) if rules.connection_rate else None,
        ),
    )


def relay_settings(rules: Rules) -> RelaySettings:
    plain = Timeouts()
    names = [name for name in plain.__slots__ if name != "min_data_rate"]
    return RelaySettings(
        hostname=HOSTNAME,
        timeouts=Timeouts(**{name: getattr(plain, name) * rules.timeouts for name in names}),
        pipeline_window=rules.window,
        pipeline_window_size=rules.window_size,
        max_recipients=rules.max_recipients,
        small_body=rules.small_body,
        read_ahead=rules.read_ahead,
        max_unreported=rules.max_unreported,
    )
