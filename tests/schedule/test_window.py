"""Windows that learn: each rule of relayd/schedule/window.py, and that bounds hold whatever happens."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from relayd.schedule.settings import SiteLimits
from relayd.schedule.window import CEILING_SPAN, COMPLAINT_SPAN, Window

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = SiteLimits(max_connections=20, initial_connections=5)
FRESH = Window(size=5)


def grown(window: Window, connections: int, now: datetime = NOW) -> Window:
    """The window after so many connections ended well, each with a hundred messages, all of the window in use."""
    for _ in range(connections):
        window = window.served(100, window.allowed(LIMITS, now), LIMITS, now)
    return window


def test_it_begins_with_five() -> None:
    assert Window(size=SiteLimits().initial).allowed(SiteLimits(), NOW) == 5


def test_a_window_is_never_more_than_doubled_in_the_time_of_one_connection() -> None:
    assert grown(FRESH, 5).allowed(LIMITS, NOW) == 10
    assert grown(FRESH, 15).allowed(LIMITS, NOW) == 20
    assert grown(FRESH, 1000).allowed(LIMITS, NOW) == 20


def test_a_few_messages_move_it_by_their_share() -> None:
    window = FRESH
    for _ in range(5):
        window = window.served(1, 5, LIMITS, NOW)

    assert 5.9 < window.size < 6


def test_what_is_not_in_use_does_not_grow() -> None:
    assert FRESH.served(100, 4, LIMITS, NOW) == FRESH


def test_a_refusal_while_others_are_served_says_how_many_there_may_be() -> None:
    window = grown(FRESH, 15).refused(10, None, "421 busy", NOW)

    assert window.allowed(LIMITS, NOW) == 10
    assert grown(window, 100).allowed(LIMITS, NOW) == 10
    assert window.why == "421 busy"


def test_a_number_that_the_server_states_counts() -> None:
    window = grown(FRESH, 15).refused(10, 3, "at most 3", NOW)

    assert grown(window, 100).allowed(LIMITS, NOW) == 3


def test_a_ceiling_ends_and_the_window_grows_again() -> None:
    window = FRESH.refused(3, None, "421 busy", NOW)
    later = NOW + CEILING_SPAN

    assert window.allowed(LIMITS, later) == 3
    assert grown(window, 2, later).allowed(LIMITS, later) == 5


def test_a_clock_that_is_set_back_ends_a_ceiling() -> None:
    window = FRESH.refused(1, None, "421 busy", NOW)
    before = NOW - timedelta(days=365)

    assert grown(window, 3, before).allowed(LIMITS, before) > 1


def test_a_throttling_reply_halves_it_once_however_many_connections_hear_it() -> None:
    window = grown(FRESH, 15).throttled("421 4.7.28", NOW).throttled("421 4.7.28", NOW)

    assert window.allowed(LIMITS, NOW) == 10
    assert window.throttled("421 4.7.28", NOW + COMPLAINT_SPAN).allowed(LIMITS, NOW) == 5


@given(
    limits=st.integers(1, 50).flatmap(
        lambda most: st.builds(
            SiteLimits, max_connections=st.just(most), initial_connections=st.integers(1, 50), message_rate=st.none()
        )
    ),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["served", "refused", "throttled"]),
            st.integers(0, 200),
            st.one_of(st.none(), st.integers(1, 500)),
            st.integers(-3600, 3600),
        )
    ),
)
def test_there_is_always_at_least_one_connection_and_never_more_than_the_limits(
    limits: SiteLimits, steps: list[tuple[str, int, int | None, int]]
) -> None:
    window, now = Window(size=limits.initial), NOW
    for kind, number, stated, seconds in steps:
        now += timedelta(seconds=seconds)
        if kind == "served":
            window = window.served(number, window.allowed(limits, now), limits, now)
        elif kind == "refused":
            window = window.refused(number, stated, "busy", now)
            assert stated is None or window.allowed(limits, now) <= stated
        else:
            window = window.throttled("slow down", now)
        assert 1 <= window.allowed(limits, now) <= limits.max_connections
