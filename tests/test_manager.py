"""RelayManager with parts in memory: what fails in one place stays there, limits hold, nothing claimed is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from relayd.mail.address import Address
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope
from relayd.mail.events import Accepted, Degraded, Event, Restored, Trouble
from relayd.mail.message import Body, Message
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host, Site
from relayd.mail.submission import Submission
from relayd.manager import ManagerSettings, RelayManager
from relayd.schedule.scheduler import Scheduler
from relayd.schedule.settings import ScheduleSettings

BODY = Body(size=10, wire_size=10, header_end=5)


@dataclass(frozen=True, slots=True)
class Ended:
    undone: Sequence[Delivery] = ()
    failure: Deferred | Failed | None = None
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Due:
    destination: str
    recipients: int


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
    events: list[Event] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    trouble: list[Exception] = field(default_factory=list)
    held: frozenset[str] = frozenset()
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

    async def renew(self, leases: Collection[int], until: datetime) -> None: ...

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.given_back.append(delivery.id)
            self.waiting[delivery.recipients[0].address.domain] += 1

    async def next_due(self, now: datetime) -> datetime | None:
        return None

    async def sites(self) -> list[Restorable]:
        return [Restorable("restored.test", 3, datetime.now(UTC) + timedelta(hours=1), "refused")]

    async def withdrawn(self) -> frozenset[str]:
        return self.held

    # Spool

    async def accept(self, submissions: Sequence[Submission]) -> list[Message]:
        return [submission.message for submission in submissions]

    async def sweep(self, now: datetime) -> None: ...

    # Router

    async def route(self, destination: str) -> Site | Deferred | Failed:
        return self.route_to(destination)

    # Attempts

    def restore(self, site_key: str, failures: int, retry_at: datetime) -> None: ...

    async def unroutable(self, deliveries: Sequence[Delivery], outcome: Failed | Deferred) -> None:
        self.settled += [(delivery.id, str(outcome)) for delivery in deliveries]

    async def site_failed(
        self, site_key: str, failure: Deferred, undone: Sequence[Delivery], *, peer: str = ""
    ) -> datetime:
        self.failed.append(site_key)
        await self.unroutable(undone, failure)
        return datetime.now(UTC) + timedelta(hours=1)

    async def site_recovered(self, site_key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Restorable:
    key: str
    failures: int
    retry_at: datetime
    reply: str


class ARelayer:
    def __init__(self, world: World) -> None:
        self._world = world
        self._finishing = False

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

    def finish(self) -> None:
        self._finishing = True
        self._world.gate.set()


class APickup:
    def __init__(self, *dropped: Submission) -> None:
        self.dropped = list(dropped)
        self.left: list[str] = []

    async def take(self, limit: int) -> list[Submission]:
        return list(self.dropped)

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        self.left += [reason for _ in submissions]

    async def watch(self, wake: Callable[[], None]) -> None:
        raise OSError("no inotify today")

    def waiting(self) -> bool:
        return False

    def next_look(self) -> float | None:
        return None


def a_site(destination: str) -> Site:
    return Site(key=destination, hosts=((Host(name=f"mx.{destination}"),),))


@asynccontextmanager
async def managing(world: World, pickup: APickup | None = None, **settings: int) -> AsyncIterator[RelayManager]:
    schedule = ScheduleSettings(**{k: v for k, v in settings.items() if k != "max_connections"})
    manager = RelayManager(
        ManagerSettings(
            check_interval=timedelta(milliseconds=20), max_connections=settings.get("max_connections", 100)
        ),
        scheduler=Scheduler(schedule),
        pickup=pickup or APickup(),
        spool=world,
        queue=world,
        router=world,
        attempts=world,
        new_relayer=lambda site: ARelayer(world),
        clock=lambda: datetime.now(UTC),
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


async def test_never_more_relayers_than_connections_are_allowed() -> None:
    world = World(waiting={f"d{n}.test": 1 for n in range(30)})
    async with managing(world, max_connections=4):
        await until(lambda: world.running == 4)
        world.gate.set()
        await until(lambda: len(world.sent) == 30)

    assert world.most_running == 4


async def test_a_reload_changes_how_many_relayers_may_run() -> None:
    world = World(waiting={f"d{n}.test": 1 for n in range(30)})
    async with managing(world, max_connections=2) as manager:
        await until(lambda: world.running == 2)
        manager.reload(ManagerSettings(check_interval=timedelta(milliseconds=20), max_connections=5))
        await until(lambda: world.running == 5)
        manager.reload(ManagerSettings(check_interval=timedelta(milliseconds=20), max_connections=1))
        world.most_running = 0
        world.gate.set()
        await until(lambda: len(world.sent) == 30)

    assert world.running == 0


async def test_an_exception_in_a_relayer_defers_its_mail_and_disturbs_nobody() -> None:
    def explode(deliveries: Sequence[Delivery]) -> Ended:
        if deliveries[0].recipients[0].address.domain == "bad.test":
            raise RuntimeError("a bug")
        return Ended()

    world = World(waiting={"bad.test": 2, "good.test": 2}, relay=explode)
    world.gate.set()
    async with managing(world):
        await until(lambda: len(world.sent) == 2 and len(world.settled) == 2)

    assert {reason for _, reason in world.settled} == {"internal error: RuntimeError"}
    assert any(isinstance(event, Trouble) and "a bug" in event.detail for event in world.events)


async def test_an_exception_in_check_state_is_told_and_the_next_round_works() -> None:
    world = World(waiting={"a.test": 1}, trouble=[RuntimeError("the disk")])
    world.gate.set()
    async with managing(world):
        await until(lambda: world.sent)

    assert any(isinstance(event, Trouble) and "the disk" in event.detail for event in world.events)


async def test_an_exception_in_a_look_up_is_told_and_the_mail_found_again() -> None:
    failures = iter([RuntimeError("a bug"), None])

    def route(destination: str) -> Site | Deferred | Failed:
        if error := next(failures, None):
            raise error
        return a_site(destination)

    world = World(waiting={"a.test": 1}, route_to=route)
    world.gate.set()
    async with managing(world):
        await until(lambda: world.sent)


async def test_without_file_events_the_daemon_lives() -> None:
    world = World(waiting={"a.test": 1})
    world.gate.set()
    async with managing(world):
        await until(lambda: world.sent)

    assert any(isinstance(event, Trouble) and "no inotify" in event.detail for event in world.events)


async def test_what_was_not_tried_is_given_back_and_tried_on_another_connection() -> None:
    calls: list[int] = []

    def one_each(deliveries: Sequence[Delivery]) -> Ended:
        calls.append(len(deliveries))
        return Ended(undone=tuple(deliveries[1:]))

    world = World(waiting={"a.test": 5}, relay=one_each)
    world.gate.set()
    async with managing(world):
        await until(lambda: len(world.sent) == 5)

    assert len(calls) == 5
    assert len(set(world.sent)) == 5


async def test_a_site_that_fails_backs_off_and_its_other_mail_waits() -> None:
    refused = Deferred(scope=Scope.HOST, reason="connection refused", status=EnhancedStatus(4, 4, 1))
    world = World(waiting={"a.test": 50}, relay=lambda deliveries: Ended(undone=deliveries, failure=refused))
    world.gate.set()
    async with managing(world, max_connections_per_site=1):
        await until(lambda: world.failed)
        for _ in range(10):
            await asyncio.sleep(0.01)

    assert world.failed == ["a.test"]
    assert sum(world.waiting.values()) + len(world.settled) == 50


async def test_a_destination_that_fails_fails_all_its_mail() -> None:
    nowhere = Failed(reason="no such domain", status=EnhancedStatus(5, 1, 2))
    world = World(waiting={"nowhere.test": 250}, route_to=lambda destination: nowhere)
    async with managing(world):
        await until(lambda: len(world.settled) == 250)


async def test_a_destination_that_cannot_be_looked_up_backs_off() -> None:
    servfail = Deferred(reason="SERVFAIL", status=EnhancedStatus(4, 4, 3))
    world = World(waiting={"a.test": 250}, route_to=lambda destination: servfail)
    async with managing(world):
        await until(lambda: world.failed)
        for _ in range(10):
            await asyncio.sleep(0.01)

    assert world.failed == ["dns:a.test"]


async def test_stopping_lets_relayers_finish() -> None:
    world = World(waiting={"a.test": 3})
    async with managing(world):
        await until(lambda: world.running)

    assert len(world.sent) == 3


async def test_hurrying_aborts_relayers() -> None:
    class Stubborn(ARelayer):
        def finish(self) -> None:
            pass

    world = World(waiting={"a.test": 3})
    hurry = asyncio.Event()
    async with managing(world) as manager:
        manager._new_relayer = lambda site: Stubborn(world)
        await until(lambda: world.running)
        stopping = asyncio.create_task(manager.stop(hurry, timedelta(hours=1)))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not stopping.done()
        hurry.set()
        async with asyncio.timeout(5):
            await stopping

    assert world.sent == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("odd")])
async def test_a_spool_that_cannot_take_anything_is_told_once_and_again_when_it_can(
    error: Exception, tmp_path: Path
) -> None:
    refusals = [error, error, error]

    class FullWorld(World):
        async def accept(self, submissions: Sequence[Submission]) -> list[Message]:
            if refusals:
                raise refusals.pop()
            pickup.dropped.clear()
            return [submission.message for submission in submissions]

    world = FullWorld()
    recipient = Recipient(number=0, address=Address("ann", "a.test"))
    envelope = Envelope(reverse_path=None, recipients=(recipient,))
    message = Message(id="m", envelope=envelope, body=BODY, arrived=datetime.now(UTC))
    pickup = APickup(Submission(message=message, path=tmp_path, identity=(0, 0), file="x.eml"))
    async with managing(world, pickup):
        await until(lambda: any(isinstance(event, Accepted) for event in world.events))

    told = [type(event) for event in world.events if isinstance(event, Degraded | Restored)]
    assert told == [Degraded, Restored]


async def test_a_withdrawn_message_is_known_to_relayers_at_once() -> None:
    world = World(held=frozenset({"m1"}))
    async with managing(world) as manager:
        await manager.operator_changed_queue()
        assert manager.withdrawn("m1")
        assert not manager.withdrawn("m2")
