"""A RelayManager with parts in memory that a test steers: queue, spool, router, attempt manager and relayers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relayd.mail.address import Address
from relayd.mail.back_off import BackOff
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope
from relayd.mail.events import Event
from relayd.mail.message import Body, Message
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.recipient import Recipient
from relayd.mail.reply import Reply
from relayd.mail.route import Host, Site
from relayd.mail.submission import Submission
from relayd.mail.transcript import Transcript
from relayd.manager import ManagerSettings, RelayManager
from relayd.schedule.scheduler import Scheduler
from relayd.schedule.settings import ScheduleSettings, SiteLimits

BODY = Body(size=10, wire_size=10, header_end=5)


@dataclass(frozen=True, slots=True)
class Ended:
    undone: Sequence[Delivery] = ()
    settled: int = 0
    delivered: int = 0
    failure: Deferred | Failed | None = None
    peer: str = ""
    throttled: Reply | None = None
    transcript: Transcript = ()


@dataclass(frozen=True, slots=True)
class Due:
    destination: str
    recipients: int
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


def a_delivery(number: int, destination: str, lease: int) -> Delivery:
    return Delivery(
        id=f"m{number}",
        reverse_path=None,
        recipients=(Recipient(number=0, address=Address("ann", destination)),),
        body=BODY,
        arrived=datetime.now(UTC),
        lease=lease,
    )


@dataclass
class World:
    """A queue, a spool, a router and an attempt manager that only remember."""

    waiting: dict[str, int] = field(default_factory=dict)  # destination -> how many messages
    route_to: Callable[[str], Site | Deferred | Failed] = lambda destination: a_site(destination)
    relay: Callable[[Sequence[Delivery]], Ended] = lambda deliveries: Ended()
    settled: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    given_back: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    reported: set[str] = field(default_factory=set)
    events: list[Event] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: list[Exception] = field(default_factory=list)
    held: frozenset[str] = frozenset()
    routes: dict[str, str] = field(default_factory=dict)
    renewed: list[tuple[list[int], datetime]] = field(default_factory=list)
    stray: list[list[tuple[str, Path]]] = field(default_factory=list)  # what `orphans` yields
    adopted: list[str] = field(default_factory=list)
    clock_set: list[timedelta] = field(default_factory=list)
    busy = False
    _numbers: int = 0

    # Queue

    async def due(self, now: datetime, limit: int) -> list[Due]:
        if self.trouble:
            raise self.trouble.pop()
        return [Due(destination, count) for destination, count in self.waiting.items() if count]

    async def claim(
        self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
    ) -> list[Delivery]:
        claimed: list[Delivery] = []
        self._numbers += 1
        lease = self._numbers
        for destination in destinations:
            while self.waiting.get(destination, 0) and len(claimed) < limit:
                self.waiting[destination] -= 1
                self._numbers += 1
                claimed.append(a_delivery(self._numbers, destination, lease))
        return claimed

    async def renew(self, leases: Collection[int], until: datetime) -> None:
        self.renewed.append((sorted(leases), until))

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.given_back.append(delivery.id)
            self.waiting[delivery.recipients[0].address.domain] += 1

    async def next_due(self, now: datetime) -> datetime | None:
        return None

    async def sites(self) -> list[BackOff]:
        now = datetime.now(UTC)
        return [
            BackOff(site="restored.test", failures=3, retry_at=now + timedelta(hours=1), since=now, reply="refused")
        ]

    async def routed(self, sites: Mapping[str, str], now: datetime) -> None:
        self.routes.update(sites)

    async def withdrawn(self) -> frozenset[str]:
        return self.held

    # Spool

    unfinished = False
    owner = "this"

    async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
        return list(submissions)

    async def sweep(self, now: datetime) -> None: ...

    async def orphans(self) -> AsyncIterator[list[tuple[str, Path]]]:
        for found in self.stray:
            yield found

    async def adopt(self, message: Message) -> str | None:
        self.adopted.append(message.id)
        return None

    async def reject(self, message_id: str, reason: str) -> Path:
        raise AssertionError(f"{message_id} is a message")

    # Router

    async def route(self, destination: str) -> Site | Deferred | Failed:
        return self.route_to(destination)

    # Attempts

    def restore(self, known: BackOff) -> None: ...

    async def clock_was_set(self, by: timedelta) -> None:
        self.clock_set.append(by)

    @property
    def stretch(self) -> timedelta:
        return timedelta(0)

    async def unroutable(self, deliveries: Sequence[Delivery], outcome: Failed | Deferred) -> None:
        self.settled += [(delivery.id, str(outcome)) for delivery in deliveries]

    async def site_failed(
        self,
        site_key: str,
        failure: Deferred,
        undone: Sequence[Delivery],
        *,
        peer: str = "",
        transcript: Transcript = (),
    ) -> datetime:
        self.failed.append(site_key)
        await self.unroutable(undone, failure)
        return datetime.now(UTC) + timedelta(hours=1)

    async def site_recovered(self, site_key: str) -> None: ...


class ARelayer:
    def __init__(self, world: World) -> None:
        self._world = world
        self._finishing = False
        self.stirred = time.monotonic()

    async def run(self, deliveries: Sequence[Delivery]) -> Ended:
        world = self._world
        world.running += 1
        world.most_running = max(world.most_running, world.running)
        try:
            await world.gate.wait()
            ended = world.relay(deliveries)
            undone = {delivery.id for delivery in ended.undone}
            world.sent += [delivery.id for delivery in deliveries if delivery.id not in undone]
            return ended
        finally:
            world.running -= 1

    def reported(self, delivery: Delivery) -> bool:
        return delivery.id in self._world.reported

    def finish(self) -> None:
        self._finishing = True
        self._world.gate.set()


class APickup:
    def __init__(self, *dropped: Submission) -> None:
        self.dropped = list(dropped)
        self.left: list[str] = []
        self.looks = 0

    async def take(self, limit: int) -> list[Submission]:
        self.looks += 1
        return self.dropped[:limit]

    def release(self) -> None:
        """Nothing is open."""

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        self.left += [reason for _ in submissions]

    async def watch(self, wake: Callable[[], None]) -> None:
        raise OSError("no inotify today")

    async def examine_body(self, path: Path, queue_id: str) -> Message | str:
        envelope = Envelope(reverse_path=None, recipients=(Recipient(number=0, address=Address("ann", "one.test")),))
        return Message(id=queue_id, envelope=envelope, body=BODY, arrived=datetime.now(UTC))

    def waiting(self) -> bool:
        return False

    def next_look(self) -> float | None:
        return None


def a_site(destination: str) -> Site:
    return Site(key=destination, hosts=((Host(name=f"mx.{destination}"),),))


@asynccontextmanager
async def managing(
    world: World,
    pickup: APickup | None = None,
    *,
    interval: timedelta = timedelta(milliseconds=20),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    watchdog: timedelta = timedelta(minutes=20),
    **settings: int,
) -> AsyncIterator[RelayManager]:
    most = settings.get("max_connections_per_site", 20)
    limits = SiteLimits(max_connections=most, initial_connections=most)
    schedule = ScheduleSettings(max_connections=settings.get("max_connections", 100), limits=limits)
    manager = RelayManager(
        ManagerSettings(
            check_interval=interval, max_connections=settings.get("max_connections", 100), watchdog=watchdog
        ),
        scheduler=Scheduler(schedule),
        pickup=pickup or APickup(),
        spool=world,
        queue=world,
        router=world,
        attempts=world,
        new_relayer=lambda site, permit=None: ARelayer(world),
        clock=clock,
        events=world.events.append,
    )
    running = asyncio.create_task(manager.run())
    try:
        yield manager
    finally:
        await manager.stop(asyncio.Event(), timedelta(seconds=5))
        await running


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not claim():
            await asyncio.sleep(0.005)
