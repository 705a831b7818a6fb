"""Waiting for a sink's counter, and what times say."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

POLL = 0.005  # seconds between two looks at the counter
PATIENCE = 300.0  # seconds for one run


class Counting(Protocol):
    """A sink that counts."""

    @property
    def messages(self) -> int:
        """How many it has taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """When a sink had the first and the last of its messages, to `POLL`, in seconds of CLOCK_MONOTONIC; `last` is None
    if it did not get them all."""

    first: float
    last: float | None


def until(sink: Counting, messages: int, runs: Callable[[], bool], patience: float = PATIENCE) -> Arrived:
    """Wait until a sink has so many messages, as long as its client runs and patience lasts."""
    end, first = time.monotonic() + patience, 0.0
    while (count := sink.messages) < messages and time.monotonic() < end and runs():
        if count and not first:
            first = time.monotonic()
        time.sleep(POLL)
    now = time.monotonic()
    return Arrived(first=first or now, last=now if count >= messages else None)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share (0.0 to 1.0) of the values do not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)), 1) - 1]


def milliseconds(seconds: Sequence[float]) -> str:
    """Return median, p95, p99 and longest of times, in words."""
    parts = (("median", 0.5), ("p95", 0.95), ("p99", 0.99), ("longest", 1.0))
    return ", ".join(f"{name} {percentile(seconds, share) * 1e3:.1f} ms" for name, share in parts)
