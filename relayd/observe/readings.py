"""What is read when somebody asks for metrics: values of one instant, which the daemon gathers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteReading:
    """One site: relayers that run, how many it may have, seconds until it is tried again if it backs off; how often in
    a row it could not be used, and what was said then."""

    site: str
    connections: int
    window: int
    back_off: float
    failures: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReading:
    """How many recipients wait: `counts` by how they do, each by age; `ages` names these; `age` is how many seconds
    old that is, since a long queue is counted seldom."""

    counts: Mapping[str, tuple[int, ...]]
    ages: tuple[str, ...]
    age: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All of it.  `sites` are those with most to do, of `sites_known`, of which `sites_backing_off` back off;
    `queue` is None while it was never counted.  `workers` run, of those that were `workers_wanted`."""

    version: str
    healthy: bool
    connections: int
    connections_max: int
    in_core: int
    in_core_max: int
    look_ups: int
    sites: tuple[SiteReading, ...]
    sites_known: int
    sites_backing_off: int
    queue: QueueReading | None
    oldest_due: float  # seconds
    stuck: float  # seconds
    since_round: float  # seconds
    degraded: tuple[str, ...]
    workers: int
    workers_wanted: int
    lines_dropped: int
    free_octets: int | None


class Instruments(Protocol):
    """Where values are read."""

    def read(self) -> Reading:
        """Return what there is now; does not block."""
