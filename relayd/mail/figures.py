"""What one run of a relayer measured, in fixed buckets: it does not grow with mail, and is cheap to hand over.

Pure.  A wait is for a server, and counted under what was waited for: where servers answer several commands at once
(pipelining), under the first of them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from relayd.mail.tls import Demand, Evidence, Source


class Phase(Enum):
    """What a server was waited for."""

    CONNECT = "connect"  # the TCP connection
    GREETING = "greeting"  # with the handshake, where TLS is implicit
    EHLO = "ehlo"
    STARTTLS = "starttls"  # the reply and the handshake
    AUTH = "auth"
    MAIL = "mail"  # RSET too
    RCPT = "rcpt"
    DATA = "data"  # the 354
    BODY = "body"  # octets of a message to leave, where they did not at once; the reply to a chunk
    FINAL = "final"  # the reply to the message itself


WAITS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)  # seconds


@dataclass(slots=True)
class Histogram:
    """How many of what was measured were at most each of `bounds`, and greater than the one before; the last, greater
    than all."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        """Count."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: Histogram) -> None:
        """Count all that another one of the same bounds has."""
        self.counts = [one + another for one, another in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


Security: TypeAlias = tuple[str, str, str]  # TLS's version or "none", what the peer proved, whose policy it was under


@dataclass(slots=True)
class Figures:
    """See the module.  `connections` counts those that came as far as MAIL."""

    waits: dict[Phase, Histogram] = field(default_factory=dict)
    connections: dict[Security, int] = field(default_factory=dict)

    def waited(self, phase: Phase, seconds: float) -> None:
        """Count a wait."""
        histogram = self.waits.get(phase)
        if histogram is None:
            histogram = self.waits[phase] = Histogram(WAITS)
        histogram.add(seconds)

    def connected(self, demand: Demand, evidence: Evidence | None) -> None:
        """Count a connection."""
        source = demand.reported
        policy = demand.level.value if source is Source.CONFIGURED else source.value
        version, proof = ("none", "none") if evidence is None else (evidence.version, evidence.proof.value)
        security = (version, proof, policy)
        self.connections[security] = self.connections.get(security, 0) + 1

    def merge(self, other: Figures) -> None:
        """Count all that another one has."""
        for phase, histogram in other.waits.items():
            self.waits.setdefault(phase, Histogram(histogram.bounds)).merge(histogram)
        for security, count in other.connections.items():
            self.connections[security] = self.connections.get(security, 0) + count

    def __bool__(self) -> bool:
        return bool(self.waits or self.connections)
