"""What is measured for metrics beside the counters: an `Events`, and what relayers and the resolver tell.

In memory of a fixed size, whatever there is of mail.  Cost: some additions for each event, and nothing where metrics
are not served, since nobody listens then.
"""

from __future__ import annotations

from collections import Counter, deque

from relayd.mail.events import Attempted, Committed, Event
from relayd.mail.figures import Figures, Histogram
from relayd.mail.recipient import Status

AGES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 432000.0)  # seconds
JOBS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
TIMES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds
LAGS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # seconds
RECENT = 60  # looks at the loop that `lag_max` is of
OTHER = "other"  # where a label would be of no known kind


class Metrics:
    """See the module.  Used from one thread."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str, str]] = Counter()  # status, class and subject of the enhanced status
        self.delivery_age = Histogram(AGES)
        self.commit_jobs = Histogram(JOBS)
        self.commit_seconds = Histogram(TIMES)
        self.queries: Counter[tuple[str, str]] = Counter()  # kind, result
        self.query_seconds = Histogram(TIMES)
        self.lag = Histogram(LAGS)
        self.figures = Figures()
        self._lags: deque[float] = deque(maxlen=RECENT)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if isinstance(event, Attempted):
            recipient = event.recipient
            self.outcomes[recipient.status.value, *_class_of(recipient.dsn)] += 1
            if recipient.status is Status.DELIVERED:
                self.delivery_age.add(event.age)
        elif isinstance(event, Committed):
            self.commit_jobs.add(event.jobs)
            self.commit_seconds.add(event.seconds)

    def measured(self, figures: Figures) -> None:
        """A run has measured this."""
        self.figures.merge(figures)

    def asked(self, kind: str, result: str, seconds: float) -> None:
        """The DNS was asked for records of a kind, and answered so, or not, after so long."""
        self.queries[kind, result] += 1
        self.query_seconds.add(seconds)

    def lagged(self, seconds: float) -> None:
        """The event loop came so much too late."""
        self.lag.add(seconds)
        self._lags.append(seconds)

    @property
    def lag_max(self) -> float:
        """The worst of the last looks."""
        return max(self._lags, default=0.0)


def _class_of(dsn: str) -> tuple[str, str]:
    """Return class and subject of an enhanced status, `4.2.1`: those of RFC 3463, whatever a server makes up."""
    kind, _, rest = dsn.partition(".")
    subject = rest.partition(".")[0]
    return kind if kind in ("2", "4", "5") else OTHER, subject if subject in tuple("01234567") else OTHER
