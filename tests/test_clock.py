"""relayd.clock: what is a leap of the time, and how much of it was lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from relayd.clock import Clock, Leap

START = datetime(2026, 11, 24, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOTHING = timedelta(0)


class Hands:
    """Two clocks to be turned."""

    def __init__(self) -> None:
        self.wall = START
        self.counted = 1000.0
        self.clock = Clock(wall=lambda: self.wall, counted=lambda: self.counted)

    def live(self, time: timedelta) -> None:
        """Let time pass, with a look every ten seconds."""
        while time > NOTHING:
            step = min(time, 10 * SECOND)
            time -= step
            self.sleep(step)

    def sleep(self, time: timedelta) -> None:
        """Let time pass without a look, and look then."""
        self.counted += time.total_seconds()
        self.turn(time)

    def turn(self, by: timedelta) -> None:
        """Set the wall clock."""
        self.wall += by
        assert self.clock() == self.wall


def test_time_that_passes_as_ever_is_no_leap() -> None:
    hands = Hands()
    hands.live(HOUR)
    hands.turn(SECOND)  # a leap second
    hands.turn(-2 * SECOND)
    hands.live(MINUTE)

    assert not hands.clock.take_leap()
    assert hands.clock.lost_within(DAY) == NOTHING


def test_a_clock_that_is_set_forward_is_seen_and_what_it_skips_is_lost() -> None:
    hands = Hands()
    hands.live(MINUTE)
    hands.turn(HOUR)

    assert hands.clock.take_leap() == Leap(set_by=HOUR, lost=HOUR)
    assert not hands.clock.take_leap()
    assert hands.clock.lost_within(5 * DAY) == HOUR


def test_a_clock_that_is_set_back_is_seen_and_nothing_is_lost() -> None:
    hands = Hands()
    hands.turn(-10 * 365 * DAY)

    assert hands.clock.take_leap() == Leap(set_by=-10 * 365 * DAY)
    assert hands.clock.lost_within(5 * DAY) == NOTHING


def test_a_machine_that_slept_has_lost_the_time_and_its_clock_was_not_set() -> None:
    hands = Hands()
    hands.sleep(8 * HOUR)

    assert hands.clock.take_leap() == Leap(lost=8 * HOUR)
    assert hands.clock.lost_within(5 * DAY) == 8 * HOUR


def test_what_was_lost_counts_as_long_as_something_can_be_so_old() -> None:
    hands = Hands()
    hands.turn(365 * DAY)
    hands.live(DAY - MINUTE)
    assert hands.clock.lost_within(DAY) == 365 * DAY
    hands.live(2 * MINUTE)

    assert hands.clock.lost_within(DAY) == NOTHING
    assert hands.clock.lost_within(2 * DAY) == 365 * DAY


def test_what_a_wrong_time_has_lost_is_found_when_it_is_put_right() -> None:
    hands = Hands()
    hands.sleep(2 * HOUR)
    hands.turn(365 * DAY)
    hands.live(MINUTE)
    hands.turn(-365 * DAY)
    assert hands.clock.lost_within(5 * DAY) == 2 * HOUR
    hands.turn(-HOUR)

    assert hands.clock.lost_within(5 * DAY) == HOUR
    hands.live(5 * DAY)
    assert hands.clock.lost_within(5 * DAY) == NOTHING


def test_time_before_the_start_was_lost_if_it_was_long() -> None:
    hands = Hands()
    hands.clock.begin(30 * SECOND)
    assert not hands.clock.take_leap()
    hands.clock.begin(DAY)

    assert hands.clock.take_leap() == Leap(lost=DAY)
    assert hands.clock.lost_within(5 * DAY) == DAY


def test_a_clock_that_was_set_back_before_the_start_is_seen() -> None:
    hands = Hands()
    hands.clock.begin(-HOUR)

    assert hands.clock.take_leap() == Leap(set_by=-HOUR)
    assert hands.clock.lost_within(5 * DAY) == NOTHING
