"""What really happened in a simulated world, whatever the daemon believes: what its servers took, and what it counted.

The oracle compares this with what the daemon says (oracle.py).  Nothing here decides anything.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.scenario import Drop


class Broken(Exception):
    """A promise was broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """A server answered, or would have answered, 2yz to the end of a message, and so has it for `address`.

    `identity` is the Message-ID, without angle brackets; `queue_id` what the Received line, or for notifications the
    Message-ID, says.
    """

    at: float
    identity: str
    queue_id: str
    address: str
    server: str
    connection: int
    dsn: bool = False  # the server had offered DSN
    begun: float = 0.0  # when the client had begun it, or before


@dataclass(slots=True)
class Facts:
    """See the module."""

    takes: dict[tuple[str, str], list[Take]] = field(default_factory=lambda: defaultdict(list))  # by identity, address
    dropped: dict[str, Drop] = field(default_factory=dict)  # by identity
    payloads: dict[str, bytes] = field(default_factory=dict)
    marked: Callable[[Take], bool] = lambda take: False  # whether the queue has it marked as a possible duplicate
    made: dict[str, bytes] = field(default_factory=dict)  # notifications, by id
    sent_to: dict[str, Drop] = field(default_factory=dict)  # by address, which nothing else is sent to
    endings: Counter[str] = field(default_factory=Counter)  # how often the end of a message was about to leave, by id
    withdrawn: dict[str, float] = field(default_factory=dict)  # since when the daemon knows what was held or removed
    operated: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # messages, by the verb
    contents: dict[str, bytes] = field(default_factory=dict)  # of notifications that were taken, by identity
    backed_off: int = 0  # how often sites did
    injected: Counter[str] = field(default_factory=Counter)  # faults, by kind
    broken: list[str] = field(default_factory=list)
    digest: int = 0
    trace: list[str] | None = None

    def taken(self, take: Take, content: bytes) -> None:
        """A server has taken a message."""
        before = self.takes[take.identity, take.address]
        before.append(take)
        if len(before) > 1 and not self.marked(take):
            self.breach(f"{take.identity} came to {take.address} twice, unmarked: {before[-2:]}")
        withdrawn = self.withdrawn.get(take.queue_id)
        if withdrawn is not None and take.begun > withdrawn and len(self.dropped[take.identity].to) == 1:
            self.breach(f"{take.identity} was begun at {take.begun:.3f}, and withdrawn at {withdrawn:.3f}")
        payload = self.payloads.get(take.identity)
        if payload is None:
            known = self.contents.setdefault(take.identity, content)
            if known != content:
                self.breach(f"notification {take.identity} came with different contents")
        elif content.partition(b"\r\n\r\n")[2] != payload and self.dropped[take.identity].shape in ("plain", "dots"):
            self.breach(f"{take.identity} came to {take.address} with another body")

    def any_with_dsn(self, address: str) -> bool:
        """Whether a server that offers DSN has a message for `address`, which only one message was sent to."""
        return any(each.dsn for (_, to), takes in self.takes.items() if to == address for each in takes)

    def breach(self, what: str) -> None:
        """Note a broken promise."""
        self.broken.append(what)

    def note(self, at: float, what: str, octets: bytes = b"") -> None:
        """Add to what two runs of one scenario must have in common."""
        self.digest = zlib.crc32(octets, zlib.crc32(f"{at:.6f} {what}".encode(), self.digest))
        if self.trace is not None:
            self.trace.append(f"{at:12.6f} {what} {octets[:200]!r}" if octets else f"{at:12.6f} {what}")
