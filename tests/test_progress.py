"""relayd.progress: due mail that waits for something, and such that is stuck."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from relayd.progress import Progress
from relayd.routes import Routes
from relayd.schedule.scheduler import Scheduler
from relayd.schedule.settings import ScheduleSettings, SiteLimits

NOW = datetime(2026, 11, 27, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Due:
    destination: str
    since: datetime
    recipients: int = 1


class Known:
    """What Progress asks of Routes."""

    def __init__(self) -> None:
        self.sites = {"example.org": "mx"}
        self.looking_up: set[str] = set()

    @property
    def look_ups(self) -> int:
        return len(self.looking_up)

    def known(self, destination: str) -> str | None:
        return self.sites.get(destination)

    def is_looking_up(self, destination: str) -> bool:
        return destination in self.looking_up


class World:
    def __init__(self, **settings: Any) -> None:
        self.scheduler = Scheduler(ScheduleSettings(limits=SiteLimits(), **settings))
        self.routes = Known()
        self.ticks: Iterator[float] = iter(range(1000))
        self.progress = Progress(self.scheduler, cast(Routes, self.routes), lambda: next(self.ticks))

    def stuck(self, waited: int = 40) -> bool:
        """Whether mail that has been due for so many seconds is seen stuck by a look."""
        self.progress.looked([Due("example.org", NOW - waited * SECOND)], NOW)
        return self.progress.stuck(NOW) is not None


def test_what_waits_for_nothing_is_stuck_from_the_first_look_on_until_one_that_does_not_find_it() -> None:
    progress = World().progress
    since = NOW - 40 * SECOND

    for seconds in (0, 5, 65):
        progress.looked([Due("example.org", since)], NOW + seconds * SECOND)
    assert progress.stuck(NOW + 66 * SECOND) == ("example.org", 66 * SECOND)
    assert progress.waiting(NOW + 66 * SECOND) == 106 * SECOND

    progress.looked([], NOW + 70 * SECOND)
    assert progress.stuck(NOW + 70 * SECOND) is None
    assert progress.waiting(NOW + 70 * SECOND) == timedelta(0)


def test_what_has_been_due_for_moments_has_had_no_turn_yet() -> None:
    assert not World().stuck(waited=29)
    assert World().stuck(waited=31)


def back_off(world: World) -> None:
    world.scheduler.failed("mx", NOW + timedelta(hours=1), "connection refused", NOW)


def is_served(world: World) -> None:
    world.scheduler.mail_due("mx", "example.org", 1, NOW)
    assert world.scheduler.next(NOW) is not None


def is_looked_up(world: World) -> None:
    world.routes.looking_up.add("example.org")


def waits_for_the_dns(world: World) -> None:
    world.routes.sites.clear()
    world.scheduler.failed("dns:example.org", NOW + timedelta(hours=1), "SERVFAIL", NOW)


def is_not_looked_up_yet(world: World) -> None:
    world.routes.sites.clear()
    world.routes.looking_up.add("another.example")


@pytest.mark.parametrize("reason", [back_off, is_served, is_looked_up, waits_for_the_dns, is_not_looked_up_yet])
def test_what_waits_for_a_reason_is_not_stuck(reason: Callable[[World], None]) -> None:
    world = World()
    reason(world)

    assert not world.stuck()


def test_where_there_is_no_room_nothing_is_stuck() -> None:
    world = World(max_connections=1)
    world.scheduler.mail_due("other", "other.example", 1, NOW)
    assert world.scheduler.next(NOW) is not None

    assert not world.stuck()


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    progress = World().progress
    progress.looked([Due("example.org", NOW + timedelta(hours=1))], NOW)

    assert progress.waiting(NOW) == timedelta(0)


def test_the_time_since_a_round_is_counted_by_a_clock_that_cannot_be_set() -> None:
    world = World()
    world.progress.round_ended()

    assert world.progress.since_round == SECOND
