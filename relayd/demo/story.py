"""The four stories of the demo: what is dropped, what should become of it, and what did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from aiosmtpd.smtp import Envelope

SENDER = "alice@sender.example"

#: Each domain's mail exchangers, in order, and their addresses.  Nobody listens on 127.0.0.4.
EXCHANGERS = {
    "prompt.example": [("mx.prompt.example", "127.0.0.2")],
    "greylisting.example": [("mx.greylisting.example", "127.0.0.3")],
    "half-dead.example": [("mx1.half-dead.example", "127.0.0.4"), ("mx2.half-dead.example", "127.0.0.5")],
    "refusing.example": [("mx.refusing.example", "127.0.0.6")],
    "sender.example": [("mx.sender.example", "127.0.0.7")],
}


@dataclass
class Story:
    """One message: what should happen to it, and what did."""

    name: str
    recipient: str
    promise: str
    told: Callable[[Story], bool]
    statuses: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    received: list[Envelope] = field(default_factory=list)
    bounces: list[str] = field(default_factory=list)

    @property
    def message(self) -> bytes:
        """What the application drops."""
        return (
            f"From: Alice <{SENDER}>\nTo: {self.recipient}\nSubject: {self.name}\n\nThis message is {self.name}.\n"
        ).encode()


def stories() -> list[Story]:
    """Return the four stories, none of them begun."""
    return [
        Story(
            "prompt",
            "bob@prompt.example",
            "delivered at once",
            lambda s: s.statuses == ["delivered"] and len(s.received) == 1,
        ),
        Story(
            "greylisted",
            "bob@greylisting.example",
            "put off, then delivered on the retry",
            lambda s: s.statuses == ["deferred", "delivered"] and len(s.received) == 1,
        ),
        Story(
            "second-exchanger",
            "bob@half-dead.example",
            "first mail exchanger dead, delivered to the second",
            lambda s: (
                s.statuses == ["delivered"] and len(s.received) == 1 and s.hosts[0].startswith("mx2.half-dead.example")
            ),
        ),
        Story(
            "refused",
            "nobody@refusing.example",
            "refused, and the sender told by a bounce",
            lambda s: s.statuses == ["failed"] and not s.received and s.bounces == ["5.1.1"],
        ),
    ]
