"""How mail has flowed in the last quarter of an hour: what the status page draws, and `relayd top` shows.

In memory of a fixed size.  Cost: an addition for each event that failed, and one sample in BEAT.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from relayd.mail.events import Attempted, Event, FileRejected
from relayd.mail.figures import Histogram
from relayd.mail.recipient import Status
from relayd.observe.counters import Counted, Counters

BEAT = 2.0  # seconds
SAMPLES = 450  # a quarter of an hour
RECENT = 50  # failures

_RATES = (Counted.ACCEPTED, Counted.DELIVERED, Counted.DEFERRED, Counted.FAILED)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was done in a beat, by the second; how long half, and nineteen of twenty, of what was delivered in it had
    taken from their arrival; how many connections there were at its end."""

    at: str
    accepted: float
    delivered: float
    deferred: float
    failed: float
    median: float | None
    slow: float | None
    connections: int


@dataclass(frozen=True, slots=True)
class Setback:
    """A recipient that was not delivered, or a file that was not understood."""

    at: str
    id: str
    who: str  # the recipient, or the file
    status: str
    host: str
    reply: str


class Pulse:
    """An `Events`.  `beat` is to be called every BEAT seconds or so."""

    def __init__(self, counters: Counters, ages: Histogram) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.setbacks: deque[Setback] = deque(maxlen=RECENT)
        self._counters = counters
        self._ages = ages
        self._seen = self._figures()
        self._seen_ages = list(ages.counts)
        self._at: float | None = None
        self._now = ""

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Attempted) and event.recipient.status in (Status.DEFERRED, Status.FAILED):
            one = event.recipient
            at = one.attempted.isoformat(timespec="seconds") if one.attempted else self._now
            self.setbacks.append(Setback(at, event.id, str(one.address), one.status.value, one.peer, one.reply))
        elif isinstance(event, FileRejected):
            self.setbacks.append(Setback(self._now, "", event.file, "rejected", "", event.reason))

    def beat(self, now: datetime, counted: float, connections: int) -> None:
        """Take a sample; `counted` is a clock that cannot be set, in seconds."""
        self._now = now.isoformat(timespec="seconds")
        figures, ages = self._figures(), list(self._ages.counts)
        span = BEAT if self._at is None else max(counted - self._at, 0.001)
        rates = [round((after - before) / span, 2) for before, after in zip(self._seen, figures, strict=True)]
        these = [after - before for before, after in zip(self._seen_ages, ages, strict=True)]
        self._seen, self._seen_ages, self._at = figures, ages, counted
        median, slow = (quantile(self._ages.bounds, these, share) for share in (0.5, 0.95))
        accepted, delivered, deferred, failed = rates
        self.samples.append(Sample(self._now, accepted, delivered, deferred, failed, median, slow, connections))

    def past(self) -> dict[str, list[object]]:
        """Return all samples, by field."""
        return {name: [getattr(sample, name) for sample in self.samples] for name in Sample.__slots__}

    def recent(self) -> list[dict[str, object]]:
        """Return what did not go well lately, the newest first."""
        return [asdict(setback) for setback in reversed(self.setbacks)]

    def _figures(self) -> list[int]:
        return [self._counters[counted] for counted in _RATES]


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Return a value that `share` of what was counted does not exceed, as exactly as buckets tell: between two bounds
    by the line between them, above all of them the last one; None if nothing was counted."""
    wanted = share * sum(counts)
    if not wanted:
        return None
    below = 0
    for number, count in enumerate(counts):
        if count and below + count >= wanted:
            if number == len(bounds):
                break
            low = bounds[number - 1] if number else 0.0
            return round(low + (bounds[number] - low) * (wanted - below) / count, 4)
        below += count
    return bounds[-1]
