"""RelayManager with parts in memory: what fails in one place stays there, limits hold, nothing claimed is forgotten."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest

from relayd.mail.address import Address
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope
from relayd.mail.errors import QueueError
from relayd.mail.events import Accepted, Degraded, Restored, Trouble
from relayd.mail.message import Message
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Site
from relayd.mail.submission import Submission
from relayd.mail.transcript import Transcript
from relayd.manager import ManagerSettings, RelayManager
from relayd.schedule.scheduler import MANY
from relayd.schedule.settings import ScheduleSettings
from relayd.spool.claims import MAX_COUNTED
from tests.support.managed import (
    BODY,
    APickup,
    ARelayer,
    Due,
    Ended,
    World,
    a_site,
    managing,
    until,
)


async def test_never_more_relayers_than_connections_are_allowed() -> None:
    world = World(waiting={f"d{n}.test": 1 for n in range(30)})
    async with managing(world, max_connections=4):
        await until(lambda: world.running == 3)  # the last quarter is for sites that are known to be quick
        world.gate.set()
        await until(lambda: len(world.sent) == 30)

    assert world.most_running == 3


def reload(manager: RelayManager, max_connections: int) -> None:
    manager._scheduler.reload(ScheduleSettings(max_connections=max_connections), datetime.now(UTC))
    manager.reload(ManagerSettings(check_interval=timedelta(milliseconds=20), max_connections=max_connections))


async def test_a_reload_changes_how_many_relayers_may_run() -> None:
    world = World(waiting={f"d{n}.test": 1 for n in range(30)})
    async with managing(world, max_connections=2) as manager:
        await until(lambda: world.running == 2)
        reload(manager, 5)
        await until(lambda: world.running == 4)
        reload(manager, 1)
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


async def test_what_was_reported_before_an_exception_is_not_deferred_as_well() -> None:
    def explode(deliveries: Sequence[Delivery]) -> Ended:
        world.reported.add(deliveries[0].id)
        raise RuntimeError("a bug")

    world = World(waiting={"a.test": 3}, relay=explode)
    world.gate.set()
    async with managing(world):
        await until(lambda: world.settled)

    assert len(world.settled) == 2
    assert not world.reported & {message for message, _ in world.settled}


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


@pytest.mark.parametrize("turns", range(30))
async def test_a_stop_sees_a_relayer_end_at_whatever_moment_it_comes(turns: int) -> None:
    """A relayer that has ended, and said so, is still a task until the loop's next turn."""
    world = World(waiting={"a.test": 1})
    async with managing(world, interval=timedelta(hours=1)) as manager:
        await until(lambda: world.running)
        world.gate.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await manager.stop(asyncio.Event(), timedelta(hours=1))

    assert len(world.sent) == 1


async def test_hurrying_aborts_relayers() -> None:
    class Stubborn(ARelayer):
        def finish(self) -> None:
            pass

    world = World(waiting={"a.test": 3})
    hurry = asyncio.Event()
    async with managing(world) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Stubborn(world)
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
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relayd.intake.PAUSE", 0.05)
    refusals = [error, error, error]

    class FullWorld(World):
        async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
            if refusals:
                raise refusals.pop()
            pickup.dropped.clear()
            return list(submissions)

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


async def test_nothing_is_kept_in_core_of_a_site_whose_back_off_is_forgotten() -> None:
    refused = Deferred(reason="connection refused")
    world = World(waiting={"down.test": 1}, relay=lambda deliveries: Ended(undone=deliveries, failure=refused))
    world.gate.set()
    async with managing(world) as manager:
        await until(lambda: manager._scheduler.failures("down.test"))
        await until(lambda: not manager._relaying)
        assert manager._routes.last("down.test")

        manager.site_forgotten("down.test")

        await until(lambda: not manager._scheduler.knows("down.test"))  # at once, or when its turn finds no mail
        await until(lambda: manager._routes.last("down.test") is None)


def a_submission(number: int = 0, *, original: Path | None = None) -> Submission:
    recipient = Recipient(number=0, address=Address("ann", "a.test"))
    envelope = Envelope(reverse_path=None, recipients=(recipient,))
    message = Message(id=f"s{number}", envelope=envelope, body=BODY, arrived=datetime.now(UTC))
    return Submission(message=message, path=Path("x"), identity=(0, 0), file=f"{number}.eml", original=original)


class SlowClock:
    """A wall clock that a test may set."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


async def a_while() -> None:
    """Let a manager that turns without a pause turn many times."""
    await asyncio.sleep(0.3)


async def test_while_all_connections_are_in_use_the_end_of_a_back_off_makes_no_round_after_round() -> None:
    refused = Deferred(scope=Scope.HOST, reason="refused", status=EnhancedStatus(4, 4, 1))

    class Brief(World):
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
            return datetime.now(UTC) + timedelta(milliseconds=50)

    world = Brief(waiting={"down.test": 1}, relay=lambda deliveries: Ended(undone=deliveries, failure=refused))
    world.gate.set()
    pickup = APickup()
    async with managing(world, pickup, interval=timedelta(hours=1), max_connections=1) as manager:
        await until(lambda: world.failed)
        world.gate.clear()
        world.waiting["slow.test"] = 1
        await manager.operator_changed_queue()
        await until(lambda: world.running)
        await asyncio.sleep(0.1)  # the back-off ends meanwhile
        looks = pickup.looks
        await a_while()

    assert pickup.looks - looks <= 3


async def test_a_queue_that_fails_is_not_asked_again_at_once() -> None:
    world = World()
    pickup = APickup()
    async with managing(world, pickup, interval=timedelta(milliseconds=100)):
        await until(lambda: pickup.looks > 1)
        world.trouble = [QueueError("disk I/O error") for _ in range(1000)]
        await a_while()
        left = len(world.trouble)
        world.trouble.clear()
        await until(lambda: any(isinstance(event, Restored) for event in world.events))

    assert 1000 - left <= 6
    assert [type(event) for event in world.events if not isinstance(event, Trouble)] == [Degraded, Restored]


async def test_a_spool_that_takes_nothing_is_offered_one_file_now_and_then() -> None:
    class Full(World):
        offered: ClassVar[list[int]] = []

        async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
            self.offered.append(len(submissions))
            raise QueueError("database or disk is full")

    class Scanning(APickup):
        def next_look(self) -> float | None:
            return time.monotonic()  # there is always more to look at

    world = Full()
    async with managing(world, Scanning(*(a_submission(n) for n in range(600))), interval=timedelta(hours=1)):
        await until(lambda: len(world.offered) == 2)
        await a_while()

    assert world.offered[:2] == [500, 1]
    assert len(world.offered) <= 3


async def test_what_the_spool_could_not_take_before_is_told_under_the_name_it_was_dropped_as() -> None:
    class Late(World):
        async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
            self.unfinished = False
            return [a_submission(7), *submissions]

    world = Late()
    world.unfinished = True
    world.waiting["a.test"] = 1
    world.gate.set()
    async with managing(world, interval=timedelta(hours=1)):
        await until(lambda: world.sent)

    assert [event.file for event in world.events if isinstance(event, Accepted)] == ["7.eml"]


async def test_leases_are_renewed_before_the_queue_is_asked_what_would_end_them() -> None:
    clock = SlowClock()
    asked: list[datetime] = []

    class Watchful(World):
        async def due(self, now: datetime, limit: int) -> list[Due]:
            assert all(until_ > now for _, until_ in self.renewed[-1:])
            asked.append(now)
            return await super().due(now, limit)

    world = Watchful(waiting={"a.test": 1})
    async with managing(world, clock=clock):
        await until(lambda: world.running)
        assert not world.renewed
        clock.ahead = timedelta(hours=1)  # the machine slept
        await until(lambda: asked and asked[-1] > datetime.now(UTC) + timedelta(minutes=30))
        assert [leases for leases, _ in world.renewed] == [[1]]
        world.gate.set()


async def test_while_leases_cannot_be_renewed_nothing_is_claimed() -> None:
    clock = SlowClock()

    class Full(World):
        async def renew(self, leases: Collection[int], until: datetime) -> None:
            self.renewed.append((sorted(leases), until))
            raise QueueError("database or disk is full")

    world = Full(waiting={"a.test": 1})
    async with managing(world, clock=clock):
        await until(lambda: world.running)
        clock.ahead = timedelta(hours=1)
        world.waiting["b.test"] = 1
        await until(lambda: len(world.renewed) > 3)
        assert world.waiting["b.test"] == 1
        world.gate.set()
        await until(lambda: len(world.sent) == 2)


class Full(World):
    """Refuses so often to take deliveries back."""

    def __init__(self, refusals: int, **fields: Any) -> None:
        super().__init__(**fields)
        self.refusals = refusals

    async def give_back(self, deliveries: Sequence[Delivery]) -> None:
        self.refusals -= 1
        if self.refusals >= 0:
            raise QueueError("database or disk is full")
        await super().give_back(deliveries)


async def test_what_cannot_be_given_back_keeps_its_lease_and_is_offered_again() -> None:
    world = Full(3, waiting={"a.test": 3}, relay=lambda deliveries: Ended(undone=deliveries[1:]))
    world.gate.set()
    async with managing(world, interval=timedelta(milliseconds=100)) as manager:
        await until(lambda: world.refusals == 2)
        assert manager._claims._ends
        await until(lambda: len(world.sent) == 3)
        await until(lambda: not manager._claims._ends)

    assert [type(event) for event in world.events if not isinstance(event, Trouble)] == [Degraded, Restored]


async def test_what_could_not_be_given_back_is_offered_once_more_by_a_stop() -> None:
    """Found by simulation, seed 2981 in bursts."""

    world = Full(1, waiting={"a.test": 3}, relay=lambda deliveries: Ended(undone=deliveries[1:]))
    world.gate.set()
    async with managing(world, interval=timedelta(hours=1)) as manager:
        await until(lambda: world.refusals == 0)
        await manager.stop(asyncio.Event(), timedelta(seconds=5))

    assert world.waiting == {"a.test": 2}


async def test_what_cannot_be_given_back_is_offered_again_though_bodies_cannot_be_unlinked() -> None:
    class Broken(Full):
        async def sweep(self, now: datetime) -> None:
            raise QueueError("Input/output error")

    world = Broken(1, waiting={"a.test": 2}, relay=lambda deliveries: Ended(undone=deliveries[1:]))
    world.gate.set()
    async with managing(world):
        await until(lambda: len(world.sent) == 2)


async def test_cleaning_goes_on_while_outcomes_wait_for_room_on_the_disk() -> None:
    class Stuck(World):
        cleaned = 0

        async def sweep(self, now: datetime) -> None:
            if asyncio.current_task() in self.sweeping:
                await asyncio.Event().wait()
            self.cleaned += 1

        sweeping: ClassVar[set[object]] = set()

        async def withdrawn(self) -> frozenset[str]:
            self.sweeping.add(asyncio.current_task())  # what asks for it is the sweep of attempts
            return frozenset()

    world = Stuck()
    async with managing(world):
        await until(lambda: world.cleaned > 3)


async def test_a_stop_does_not_wait_for_a_queue_that_takes_no_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.manager.RECORDING", timedelta(milliseconds=50))
    recorded = asyncio.Event()

    class Recording(ARelayer):
        async def run(self, deliveries: Sequence[Delivery]) -> Ended:
            world.running += 1
            while not recorded.is_set():
                with suppress(asyncio.CancelledError):  # what was answered is recorded even while stopping
                    await recorded.wait()
            return Ended()

    world = World(waiting={"a.test": 1})
    async with managing(world) as manager:
        manager._relays.new_relayer = lambda site, permit=None: Recording(world)
        await until(lambda: world.running)
        async with asyncio.timeout(5):
            await manager.stop(asyncio.Event(), timedelta(milliseconds=10))
        recorded.set()
        await until(lambda: not manager._relaying)

    assert any(isinstance(event, Trouble) and event.part == "stop" for event in world.events)


async def test_what_was_being_claimed_when_it_was_told_to_stop_is_given_back() -> None:
    class Slow(World):
        claiming = asyncio.Event()
        go_on = asyncio.Event()

        async def claim(
            self, destinations: Collection[str], limit: int, now: datetime, *, until: datetime
        ) -> list[Delivery]:
            self.claiming.set()
            await self.go_on.wait()
            return await super().claim(destinations, limit, now, until=until)

    world = Slow(waiting={"a.test": 3})
    async with managing(world) as manager:
        await world.claiming.wait()
        stopping = asyncio.create_task(manager.stop(asyncio.Event(), timedelta(seconds=5)))
        await asyncio.sleep(0)
        world.go_on.set()
        await stopping

    assert world.sent == []
    assert world.waiting == {"a.test": 3}


async def test_what_an_operator_changes_during_a_look_for_due_mail_is_looked_for_again() -> None:
    class Slow(World):
        looking = asyncio.Event()
        go_on = asyncio.Event()

        async def due(self, now: datetime, limit: int) -> list[Due]:
            found = await super().due(now, limit)
            self.looking.set()
            await self.go_on.wait()
            return found

    world = Slow()
    world.gate.set()
    async with managing(world, interval=timedelta(hours=1)) as manager:
        await world.looking.wait()
        world.waiting["a.test"] = 1  # released, after that look had read the queue
        await manager.operator_changed_queue()
        world.go_on.set()
        await until(lambda: world.sent)


async def test_the_longer_a_look_for_due_mail_takes_the_rarer_it_is() -> None:
    class Large(World):
        looks = 0

        async def due(self, now: datetime, limit: int) -> list[Due]:
            self.looks += 1
            await asyncio.sleep(0.02)
            return []

        async def next_due(self, now: datetime) -> datetime | None:
            return now + timedelta(milliseconds=1)  # of a million that wait, one is always about to fall due

    world = Large()
    async with managing(world, interval=timedelta(hours=1)):
        await until(lambda: world.looks > 1)
        await a_while()

    assert world.looks <= 4


def test_the_scheduler_takes_no_count_for_many_that_the_queue_could_have_ended_at() -> None:
    assert MANY <= MAX_COUNTED


async def test_files_that_never_cease_do_not_keep_due_mail_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.intake.LONGEST", 0.05)

    class Endless(APickup):
        async def take(self, limit: int) -> list[Submission]:
            await asyncio.sleep(0.001)
            self.looks += 1
            return [a_submission(self.looks)]

        def next_look(self) -> float | None:
            return time.monotonic()

    world = World(waiting={"late.test": 1})
    world.gate.set()
    async with managing(world, Endless()):
        await until(lambda: world.sent)
