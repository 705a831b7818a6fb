"""The scheduler's invariants, by a random machine, and its rules, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.schedule.gates import verdict
from relayd.schedule.scheduler import SMALLEST_BATCH, Scheduler, Turn
from relayd.schedule.settings import ScheduleSettings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_scheduler(**settings: int) -> Scheduler:
    return Scheduler(ScheduleSettings(**settings))


def the_turn(scheduler: Scheduler, now: datetime = NOW) -> Turn:
    turn = scheduler.next(now)
    assert turn is not None
    return turn


def test_sites_take_turns_so_that_one_with_much_mail_does_not_keep_the_others_waiting() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("big", "big.example", 1_000_000, NOW)
    scheduler.mail_due("small", "small.example", 1, NOW)

    assert [the_turn(scheduler).site for _ in range(3)] == ["big", "small", "big"]


def test_a_site_has_at_most_its_window_of_relayers() -> None:
    scheduler = a_scheduler(max_connections_per_site=2)
    scheduler.mail_due("site", "example.org", 1000, NOW)

    turns = [the_turn(scheduler), the_turn(scheduler)]

    assert scheduler.next(NOW) is None
    scheduler.taken(turns[0], turns[0].batch, NOW)
    scheduler.ended(turns[0], turns[0].batch, NOW)
    assert the_turn(scheduler).site == "site"


def test_what_is_due_is_shared_among_the_connections_a_site_may_have() -> None:
    scheduler = a_scheduler(max_connections_per_site=4, max_messages_per_connection=100)
    scheduler.mail_due("site", "example.org", 200, NOW)

    assert the_turn(scheduler).batch == 50


def test_a_batch_is_neither_tiny_nor_more_than_a_connection_takes() -> None:
    scheduler = a_scheduler(max_messages_per_connection=100)
    scheduler.mail_due("few", "few.example", 2, NOW)
    scheduler.mail_due("many", "many.example", 1_000_000, NOW)

    assert [the_turn(scheduler).batch, the_turn(scheduler).batch] == [SMALLEST_BATCH, 100]


def test_a_short_claim_means_that_there_is_no_more() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 1, NOW)

    turn = the_turn(scheduler)
    scheduler.taken(turn, 1, NOW)

    assert scheduler.next(NOW) is None


def test_mail_that_falls_due_while_a_relayer_claims_is_not_overlooked() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 1, NOW)
    turn = the_turn(scheduler)

    scheduler.mail_due("site", "example.org", 1, NOW)
    scheduler.taken(turn, 1, NOW)

    assert the_turn(scheduler).site == "site"


def test_a_site_that_failed_is_left_alone_until_its_time_and_then_probed_once() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 1000, NOW)
    scheduler.failed("site", NOW + MINUTE, "connection refused", NOW)

    assert scheduler.next(NOW) is None
    assert scheduler.wake_at() == NOW + MINUTE
    closed = scheduler.verdict("site", NOW)
    assert closed is not None
    assert (closed.gate, closed.until) == ("back-off", NOW + MINUTE)
    assert "connection refused" in closed.why
    assert the_turn(scheduler, NOW + MINUTE).batch == 1
    assert scheduler.next(NOW + MINUTE) is None


def test_a_site_that_recovers_has_its_whole_window_again() -> None:
    scheduler = a_scheduler(max_connections_per_site=3)
    scheduler.mail_due("site", "example.org", 1000, NOW)
    scheduler.failed("site", NOW + MINUTE, "refused", NOW)

    scheduler.recovered("site", NOW)

    assert [the_turn(scheduler).site for _ in range(3)] == ["site"] * 3


def test_relayers_that_fail_together_count_as_one_failure() -> None:
    scheduler = a_scheduler()
    for _ in range(3):
        scheduler.failed("site", NOW + MINUTE, "refused", NOW)

    assert scheduler.failures("site") == 1


def test_deliveries_in_core_are_bounded() -> None:
    scheduler = a_scheduler(active_limit=15)
    scheduler.mail_due("a", "a.example", 5, NOW)
    scheduler.mail_due("b", "b.example", 5, NOW)

    assert [the_turn(scheduler).batch, the_turn(scheduler).batch] == [10, 5]
    scheduler.mail_due("c", "c.example", 5, NOW)
    assert scheduler.next(NOW) is None


class SchedulerMachine(RuleBasedStateMachine):
    """Random events in random order; a model that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = ScheduleSettings(max_connections_per_site=3, active_limit=60, max_messages_per_connection=20)
        self.scheduler = Scheduler(self.settings)
        self.now = NOW
        self.claiming: list[Turn] = []
        self.running: list[tuple[Turn, int]] = []

    sites = st.sampled_from("abc")

    @rule(site=sites, destination=st.integers(0, 3), recipients=st.integers(1, 100))
    def mail(self, site: str, destination: int, recipients: int) -> None:
        self.scheduler.mail_due(site, f"{site}{destination}", recipients, self.now)

    @rule()
    def start(self) -> None:
        waiting = self.scheduler._turns and self.scheduler._in_core < self.settings.active_limit
        turn = self.scheduler.next(self.now)
        assert bool(turn) >= bool(waiting)
        if turn:
            self.claiming.append(turn)

    @precondition(lambda self: self.claiming)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        turn = self.claiming.pop(0)
        deliveries = data.draw(st.integers(0, turn.batch))
        self.scheduler.taken(turn, deliveries, self.now)
        self.running.append((turn, deliveries))

    @precondition(lambda self: self.running)
    @rule(failed=st.booleans(), minutes=st.integers(1, 5))
    def end(self, failed: bool, minutes: int) -> None:
        turn, deliveries = self.running.pop(0)
        if failed:
            self.scheduler.failed(turn.site, self.now + minutes * MINUTE, "refused", self.now)
        else:
            self.scheduler.recovered(turn.site, self.now)
        self.scheduler.ended(turn, deliveries, self.now)

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @invariant()
    def a_site_is_in_the_turn_order_if_and_only_if_it_may_start(self) -> None:
        self.scheduler._end_back_offs(self.now)
        for key, state in self.scheduler._sites.items():
            may = bool(state.due) and verdict(state, self.settings, self.now) is None
            assert (key in self.scheduler._turns) == may
        assert set(self.scheduler._turns) <= set(self.scheduler._sites)

    @invariant()
    def limits_are_kept(self) -> None:
        for key, state in self.scheduler._sites.items():
            mine = sum(t.site == key for t in self.claiming) + sum(t.site == key for t, _ in self.running)
            assert state.running == mine <= self.settings.max_connections_per_site
        in_core = sum(t.batch for t in self.claiming) + sum(n for _, n in self.running)
        assert self.scheduler._in_core == in_core <= self.settings.active_limit


TestScheduler = SchedulerMachine.TestCase
