"""The scheduler's invariants, by a random machine, and its rules, one by one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relayd.schedule.gates import ROOM_GATES, SiteState, max_connections, verdict
from relayd.schedule.rate import Rate
from relayd.schedule.scheduler import SMALLEST_BATCH, Complaint, Course, Scheduler, Turn
from relayd.schedule.settings import ScheduleSettings, SiteLimits, SiteRule

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def a_scheduler(
    *, max_connections: int = 100, active_limit: int = 20_000, rules: tuple[SiteRule, ...] = (), **limits: Any
) -> Scheduler:
    """With windows that begin at their largest, unless a test says otherwise."""
    given = {"initial_connections": limits.get("max_connections_per_site", 20)} | limits
    given["max_connections"] = given.pop("max_connections_per_site", 20)
    return Scheduler(
        ScheduleSettings(
            max_connections=max_connections, active_limit=active_limit, limits=SiteLimits(**given), rules=rules
        )
    )


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


def test_a_site_that_backs_off_does_so_as_long_as_before_when_the_clock_was_set() -> None:
    """P7: forward and back."""
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 5, NOW)
    scheduler.failed("site", NOW + MINUTE, "refused", NOW)

    for now in (NOW - 600 * MINUTE, NOW + 600 * MINUTE):
        scheduler.clock_was_set(-600 * MINUTE if now < NOW else 1200 * MINUTE, now)

        assert scheduler.wake_at() == now + MINUTE
        assert scheduler.next(now) is None
    assert the_turn(scheduler, now + MINUTE).site == "site"


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


def run_out(scheduler: Scheduler) -> list[Turn]:
    """Start what may be started; each relayer claims all that it may."""
    turns = []
    while turn := scheduler.next(NOW):
        scheduler.taken(turn, turn.batch, NOW)
        turns.append(turn)
    return turns


def test_the_last_quarter_of_the_connections_is_for_quick_sites_without_one() -> None:
    scheduler = a_scheduler(max_connections=8)
    scheduler.mail_due("live", "live.example", 1, NOW)
    turn = the_turn(scheduler)
    scheduler.taken(turn, 1, NOW)
    scheduler.ended(turn, 1, NOW, Course(settled=1, took=timedelta(seconds=0.1)))
    for number in range(1000):
        scheduler.mail_due(f"slow{number}", f"slow{number}.example", 1, NOW)

    assert len(run_out(scheduler)) == 6
    closed = max_connections(SiteState.of(SiteLimits()), scheduler.room)
    assert closed is not None
    assert closed.gate == "max-connections"
    scheduler.mail_due("live", "live.example", 100, NOW)
    assert [each.site for each in run_out(scheduler)] == ["live"]


def test_a_site_that_took_long_for_each_message_has_no_part_in_the_reserve() -> None:
    scheduler = a_scheduler(max_connections=4)
    scheduler.mail_due("slow", "slow.example", 1, NOW)
    turn = the_turn(scheduler)
    scheduler.taken(turn, 1, NOW)
    scheduler.ended(turn, 1, NOW, Course(settled=1, took=timedelta(seconds=30)))
    for number in range(3):
        scheduler.mail_due(f"other{number}", f"other{number}.example", 1, NOW)
    assert len(run_out(scheduler)) == 3

    scheduler.mail_due("slow", "slow.example", 1, NOW)

    assert scheduler.next(NOW) is None


def test_a_connection_refused_while_others_are_served_is_a_limit_and_no_failure() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    turns = [the_turn(scheduler) for _ in range(11)]
    for turn in turns:
        scheduler.taken(turn, turn.batch, NOW)
    scheduler.ended(turns.pop(), 100, NOW, Course(settled=100, took=MINUTE))

    assert scheduler.refused("site", Complaint(crowded=True, why="421 too many"), NOW)
    scheduler.ended(turns.pop(), 100, NOW)

    assert scheduler.failures("site") == 0
    closed = scheduler.verdict("site", NOW)
    assert closed is not None
    assert "9 of 9 connections in use (421 too many)" in closed.why


def test_of_a_site_that_is_down_the_last_relayer_says_so() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    turns = [the_turn(scheduler) for _ in range(3)]
    limits = []
    for turn in turns:
        scheduler.taken(turn, turn.batch, NOW)
        limits.append(scheduler.refused("site", Complaint(crowded=True, why="reset"), NOW))
        scheduler.ended(turn, turn.batch, NOW)

    assert limits == [True, True, False]


def test_a_throttling_reply_makes_the_window_smaller() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    turn = the_turn(scheduler)
    scheduler.taken(turn, turn.batch, NOW)

    scheduler.ended(turn, turn.batch, NOW, Course(settled=3, complaint=Complaint(crowded=False, why="4.7.28")))

    assert len(run_out(scheduler)) == 10


def test_what_was_learned_is_remembered_for_a_while_without_mail() -> None:
    scheduler = a_scheduler()
    for _ in range(2):
        scheduler.mail_due("site", "example.org", 1, NOW)
        turn = the_turn(scheduler)
        scheduler.taken(turn, 1, NOW)
        scheduler.ended(turn, 1, NOW, Course(settled=1, complaint=Complaint(crowded=True, why="busy", stated=2)))

    assert not scheduler.knows("site")
    scheduler.mail_due("site", "example.org", 10_000, NOW + MINUTE)
    assert len(run_out(scheduler)) == 2


def test_what_was_learned_long_ago_is_not_believed() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 1, NOW - 20 * MINUTE)
    turn = the_turn(scheduler, NOW - 20 * MINUTE)
    scheduler.taken(turn, 1, NOW - 20 * MINUTE)
    complaint = Complaint(crowded=True, why="busy", stated=2)
    scheduler.ended(turn, 1, NOW - 20 * MINUTE, Course(settled=1, complaint=complaint))

    scheduler.mail_due("site", "example.org", 10_000, NOW)

    assert len(run_out(scheduler)) == 20


def test_a_message_rate_bounds_what_is_handed_out_and_opens_by_the_clock() -> None:
    scheduler = a_scheduler(message_rate=Rate.parse("100/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)

    assert [turn.batch for turn in run_out(scheduler)] == [10]
    closed = scheduler.verdict("site", NOW)
    assert closed is not None
    assert closed.gate == "message-rate"
    assert closed.until is not None
    assert scheduler.wake_at() == closed.until
    assert the_turn(scheduler, closed.until).batch == 1


def test_what_a_relayer_did_not_find_is_no_part_of_the_rate() -> None:
    scheduler = a_scheduler(message_rate=Rate.parse("100/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    turn = the_turn(scheduler)
    scheduler.taken(turn, 4, NOW)
    scheduler.mail_due("site", "example.org", 10_000, NOW)

    assert the_turn(scheduler).batch == 6


def test_a_connection_rate_bounds_how_many_are_opened() -> None:
    scheduler = a_scheduler(connection_rate=Rate.parse("30/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)

    assert len(run_out(scheduler)) == 3
    closed = scheduler.verdict("site", NOW)
    assert closed is not None
    assert closed.gate == "connection-rate"


def test_it_is_each_connection_that_is_counted_and_not_the_start_of_a_relayer() -> None:
    scheduler = a_scheduler(connection_rate=Rate.parse("3/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    the_turn(scheduler)
    assert scheduler.connects("site", NOW) is None

    scheduler.wants_to_connect("site", NOW)  # in clear text
    again = scheduler.connects("site", NOW)

    assert again is not None
    assert again - NOW == timedelta(seconds=20)
    assert scheduler.connects("site", again) is None


def test_a_relayer_that_waits_to_connect_goes_before_a_new_one() -> None:
    scheduler = a_scheduler(connection_rate=Rate.parse("3/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    the_turn(scheduler)
    scheduler.connects("site", NOW)
    scheduler.wants_to_connect("site", NOW)
    later = NOW + timedelta(seconds=20)

    assert scheduler.next(later) is None
    closed = scheduler.verdict("site", later)
    assert closed is not None
    assert (closed.gate, closed.until) == ("connection-rate", None)
    assert closed.why == "at most 3 in 60 s; 1 before it have yet to connect"
    scheduler.connects("site", later)
    assert the_turn(scheduler, later + timedelta(seconds=20)).limited


def test_a_relayer_that_did_not_connect_leaves_the_rate_as_it_was() -> None:
    scheduler = a_scheduler(connection_rate=Rate.parse("3/1m"))
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    turn = the_turn(scheduler)
    scheduler.taken(turn, 0, NOW)
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    assert scheduler.next(NOW) is None

    scheduler.wants_no_more("site", NOW)

    assert the_turn(scheduler).site == "site"


def test_a_rate_outlives_the_mail_that_used_it_up() -> None:
    scheduler = a_scheduler(message_rate=Rate.parse("10/24h"))
    for minutes, expected in ((0, 1), (30, 0)):
        now = NOW + minutes * MINUTE
        scheduler.mail_due("site", "example.org", 1, now)
        turn = scheduler.next(now)
        assert (turn is not None) == bool(expected)
        if turn:
            scheduler.taken(turn, 1, now)
            scheduler.ended(turn, 1, now, Course(settled=1))


def test_a_rule_matches_by_domain_or_by_host_and_the_first_one_counts() -> None:
    rules = (
        SiteRule(match=("vip.example",), max_connections=2, initial_connections=2),
        SiteRule(match=("*.mx.example",), max_connections=1),
    )
    scheduler = a_scheduler(rules=rules)
    scheduler.mail_due("by-host", "a.example", 10_000, NOW, ["one.mx.example"])
    scheduler.mail_due("by-domain", "vip.example", 10_000, NOW, ["one.mx.example"])
    scheduler.mail_due("neither", "b.example", 10_000, NOW, ["mx.b.example"])

    sites = [turn.site for turn in run_out(scheduler)]

    assert [sites.count(site) for site in ("by-host", "by-domain", "neither")] == [1, 2, 20]


def test_a_reload_changes_limits_at_once() -> None:
    scheduler = a_scheduler()
    scheduler.mail_due("site", "example.org", 10_000, NOW)
    settings = ScheduleSettings(rules=(SiteRule(match=("example.org",), max_connections=3),))

    scheduler.reload(settings, NOW)

    assert len(run_out(scheduler)) == 3


def test_a_batch_has_only_destinations_that_it_is_thought_to_need() -> None:
    scheduler = a_scheduler(max_messages_per_connection=100)
    for number in range(50):
        scheduler.mail_due("site", f"d{number}.example", 40, NOW)

    assert [len(turn.destinations) for turn in (the_turn(scheduler), the_turn(scheduler))] == [3, 3]


def test_no_more_destinations_of_a_site_are_kept_than_there_may_be_deliveries() -> None:
    scheduler = a_scheduler(active_limit=50)
    for number in range(1000):
        scheduler.mail_due("route:all", f"d{number}.example", 1, NOW)

    assert len(scheduler.state_of("route:all").due) == 50


def test_full_batches_grow_where_more_was_there_than_thought() -> None:
    scheduler = a_scheduler(max_connections_per_site=1)
    scheduler.mail_due("site", "example.org", 1, NOW)
    batches = []
    for _ in range(5):
        turn = the_turn(scheduler)
        scheduler.taken(turn, turn.batch, NOW)
        scheduler.ended(turn, turn.batch, NOW, Course(settled=turn.batch))
        batches.append(turn.batch)

    assert batches == [10, 20, 40, 80, 100]


NOBODY = SiteState.of(SiteLimits())
CROWDED = Complaint(crowded=True, why="too many connections")


class SchedulerMachine(RuleBasedStateMachine):
    """Random events in random order; a model that counts."""

    def __init__(self) -> None:
        super().__init__()
        rate = Rate.parse("20/10m")
        self.limits = SiteLimits(
            max_connections=3, initial_connections=2, max_messages_per_connection=20, connection_rate=rate
        )
        self.settings = ScheduleSettings(max_connections=7, active_limit=60, limits=self.limits)
        self.scheduler = Scheduler(self.settings)
        self.now = NOW
        self.claiming: list[Turn] = []
        self.running: list[tuple[Turn, int]] = []
        self.wanting: list[str] = []  # a site for each relayer that wants to connect
        self.connected: list[tuple[str, datetime]] = []

    sites = st.sampled_from("abc")

    @rule(site=sites, destination=st.integers(0, 3), recipients=st.integers(1, 100))
    def mail(self, site: str, destination: int, recipients: int) -> None:
        self.scheduler.mail_due(site, f"{site}{destination}", recipients, self.now)

    @rule()
    def start(self) -> None:
        waiting = self.scheduler._turns and not any(shut(NOBODY, self.scheduler.room) for shut in ROOM_GATES.values())
        turn = self.scheduler.next(self.now)
        assert bool(turn) >= bool(waiting)
        if turn:
            self.claiming.append(turn)
            self.wanting.append(turn.site)

    @precondition(lambda self: self.wanting)
    @rule()
    def connect(self) -> None:
        site = self.wanting[0]
        again = self.scheduler.connects(site, self.now)
        assert again is None or again > self.now
        if again is None:
            self.connected.append((self.wanting.pop(0), self.now))

    @precondition(lambda self: self.running)
    @rule()
    def connect_again(self) -> None:
        turn, _ = self.running[0]
        if self.wanting.count(turn.site) < self.scheduler.state_of(turn.site).running:
            self.scheduler.wants_to_connect(turn.site, self.now)
            self.wanting.append(turn.site)

    @precondition(lambda self: self.claiming)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        turn = self.claiming.pop(0)
        deliveries = data.draw(st.integers(0, turn.batch))
        self.scheduler.taken(turn, deliveries, self.now)
        self.running.append((turn, deliveries))

    @precondition(lambda self: self.running)
    @rule(how=st.sampled_from(["failed", "refused", "served", "crowded", "throttled"]), minutes=st.integers(1, 5))
    def end(self, how: str, minutes: int) -> None:
        turn, deliveries = self.running.pop(0)
        if self.wanting.count(turn.site) == self.scheduler.state_of(turn.site).running:  # this one among them
            self.wanting.remove(turn.site)
            self.scheduler.wants_no_more(turn.site, self.now)
        complaint = None
        if how == "failed" or (how == "refused" and not self.scheduler.refused(turn.site, CROWDED, self.now)):
            self.scheduler.failed(turn.site, self.now + minutes * MINUTE, "refused", self.now)
        elif how != "refused":
            self.scheduler.recovered(turn.site, self.now)
            complaint = {"crowded": CROWDED, "throttled": Complaint(crowded=False, why="slow down")}.get(how)
        course = Course(settled=deliveries, took=timedelta(seconds=deliveries), complaint=complaint)
        self.scheduler.ended(turn, deliveries, self.now, course)

    @rule(minutes=st.integers(1, 3))
    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @invariant()
    def a_site_is_in_the_turn_order_if_and_only_if_it_may_start(self) -> None:
        self.scheduler._open(self.now)
        for key, state in self.scheduler._sites.items():
            may = bool(state.due) and verdict(state, self.now) is None
            assert (key in self.scheduler._turns) == may
            reserved = may and state.quick and not state.running
            assert (key in self.scheduler._reserved) == reserved
        assert set(self.scheduler._turns) <= set(self.scheduler._sites)

    @invariant()
    def limits_are_kept(self) -> None:
        for key, state in self.scheduler._sites.items():
            mine = sum(t.site == key for t in self.claiming) + sum(t.site == key for t, _ in self.running)
            assert state.running == mine <= self.limits.max_connections
        assert len(self.claiming) + len(self.running) <= self.settings.max_connections
        in_core = sum(t.batch for t in self.claiming) + sum(n for _, n in self.running)
        assert self.scheduler._in_core == in_core <= self.settings.active_limit

    @invariant()
    def the_rate_of_connections_is_kept(self) -> None:
        for site in "abc":
            times = [at for each, at in self.connected if each == site]
            assert all(end - start >= 10 * MINUTE for start, end in zip(times, times[20:], strict=False))
            assert self.scheduler.state_of(site).connecting == self.wanting.count(site)


TestScheduler = SchedulerMachine.TestCase
