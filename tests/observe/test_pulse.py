"""How mail has flowed: rates by the second, quantiles of what was delivered, and what did not go well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from relayd.mail.address import Address
from relayd.mail.events import Attempted, FileRejected
from relayd.mail.figures import Histogram
from relayd.mail.recipient import Recipient, Status
from relayd.observe.counters import Counted, Counters
from relayd.observe.pulse import RECENT, SAMPLES, Pulse, quantile

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def an_attempt(status: Status, number: int = 0) -> Attempted:
    recipient = Recipient(
        number=0, address=Address(f"r{number}", "example.net"), status=status, reply="said", peer="mx", attempted=NOW
    )
    return Attempted(id="Q", recipient=recipient, tls=None, seconds=1.0, age=1.0)


def test_a_sample_has_what_was_done_since_the_one_before_by_the_second() -> None:
    counters, ages = Counters(), Histogram((1.0, 2.0, 4.0))
    pulse = Pulse(counters, ages)
    pulse.beat(NOW, 100.0, 0)
    counters.add(Counted.DELIVERED, 30)
    for _ in range(10):
        ages.add(1.5)
    pulse.beat(NOW + timedelta(seconds=4), 104.0, 7)
    pulse.beat(NOW + timedelta(seconds=6), 106.0, 0)

    _, busy, idle = pulse.samples
    assert (busy.delivered, busy.accepted, busy.connections) == (7.5, 0.0, 7)
    assert (busy.median, busy.slow) == (1.5, 1.95)
    assert (idle.delivered, idle.median, idle.slow) == (0.0, None, None)
    assert pulse.past()["delivered"] == [0.0, 7.5, 0.0]


def test_what_is_kept_is_bounded() -> None:
    pulse = Pulse(Counters(), Histogram((1.0,)))
    for number in range(SAMPLES + 10):
        pulse.beat(NOW, float(number), 0)
        pulse(an_attempt(Status.FAILED, number))

    assert len(pulse.samples) == SAMPLES
    assert len(pulse.recent()) == RECENT
    assert pulse.recent()[0]["who"] == f"r{SAMPLES + 9}@example.net"


def test_what_went_well_is_no_setback_and_a_rejected_file_is_one() -> None:
    pulse = Pulse(Counters(), Histogram((1.0,)))
    for status in (Status.DELIVERED, Status.DEFERRED, Status.FAILED):
        pulse(an_attempt(status))
    pulse(FileRejected(file="x.eml", reason="no sender"))

    assert [setback["status"] for setback in pulse.recent()] == ["rejected", "failed", "deferred"]


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([0, 0, 0, 0], 0.5, None),
        ([4, 0, 0, 0], 0.5, 0.5),
        ([0, 4, 0, 0], 1.0, 2.0),
        ([1, 0, 3, 0], 0.5, 2.6667),
        ([0, 0, 0, 9], 0.5, 4.0),
    ],
)
def test_a_quantile_is_as_exact_as_buckets_are(counts: list[int], share: float, value: float | None) -> None:
    assert quantile((1.0, 2.0, 4.0), counts, share) == value
