"""One connection of the simulated network: octets on their way between a transport and a server's conversation.

They take time, come in pieces, and in order.  A connection may be cut after any octet in either direction (`Cut`), by
a FIN, a RST, or without a word; a server may take no more of what is sent, so that it stays in the daemon's own buffer.
What a killed or resetting client had on the way arrives whole, in part, or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tests.simulation.facts import Facts
from tests.simulation.loop import Agenda


class Wires(Protocol):
    """The network, as a connection sees it."""

    agenda: Agenda
    facts: Facts

    def closed(self, connection: Connection) -> None:
        """The client has closed, or said that it will."""


class End(Protocol):
    """The daemon's end, once it has a transport: transport.py."""

    def receive(self, octets: bytes) -> None:
        """Octets came."""

    def end(self, how: str) -> None:
        """The other side is gone."""


class Peer(Protocol):
    """A server's side of one connection: exchanger.py."""

    def receive(self, octets: bytes) -> None:
        """Octets arrived."""

    def closed(self) -> None:
        """The client is gone."""


class Host(Protocol):
    """Who listens at an address."""

    @property
    def latency(self) -> float:
        """Seconds for one way."""

    def answer(self, connection: Connection) -> Peer | float | None:
        """Return who speaks on a new connection; None: it is refused; a number: nothing is heard for so long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where a connection ends before its time: after so many octets `up` (to the server) or down; `how` is "fin",
    "rst" or "hush"; "full" lets the server take no more than that."""

    up: bool
    octets: int
    how: str


class Connection:
    """One TCP connection."""

    def __init__(self, network: Wires, number: int, host: Host, address: str, chance: random.Random) -> None:
        self.network = network
        self.number = number
        self.host = host
        self.address = address
        self.chance = chance
        self.peer: Peer | None = None
        self.cut: Cut | None = None
        self.open = True  # at the client's side
        self.serving = True  # at the server's side
        self.hushed = False
        self.inbox = bytearray()  # in the client's kernel
        self.ended = ""  # "fin" or "rst", once the client's kernel knows
        self.transport: End | None = None
        self.watcher: Callable[[], None] | None = None
        self.low_water = 1
        self._up_at = self.said_at = 0.0
        self._up = self._down = 0  # octets that passed

    # from the client

    @property
    def room(self) -> int:
        """How many octets the server's kernel still takes."""
        cut = self.cut
        return max(0, cut.octets - self._up) if cut is not None and cut.up and cut.how == "full" else 1 << 30

    def send(self, octets: bytes) -> None:
        """Octets leave the client."""
        if self.cut is not None and self.cut.how == "full":
            self._up += len(octets)
        agenda = self.network.agenda
        self._up_at = max(self._up_at, agenda.now + self.host.latency)
        agenda.at(self._up_at, self._arrive, octets)

    def close(self, *, reset: bool) -> None:
        """The client closes; what is on the way may be lost by a reset."""
        if not self.open:
            return
        self.open = False
        agenda = self.network.agenda
        self._up_at = max(self._up_at, agenda.now + self.host.latency)
        agenda.at(self._up_at, self._client_gone)
        if reset and self.chance.random() < 0.5:
            self.serving = self.serving and self.chance.random() < 0.5  # False: nothing on the way arrives
            if not self.serving and self.peer is not None:
                self.peer.closed()
        self.network.closed(self)

    def _arrive(self, octets: bytes) -> None:
        if not self.serving or self.hushed or self.peer is None:
            return
        cut = self.cut
        if cut is not None and cut.up and cut.how != "full":
            left = cut.octets - self._up
            if left <= len(octets):
                self._up += max(left, 0)
                if left > 0:
                    self.peer.receive(octets[:left])
                self._cut(cut)
                return
            self._up += len(octets)
        self.peer.receive(octets)

    def _client_gone(self) -> None:
        if self.serving and not self.hushed and self.peer is not None:
            self.serving = False
            self.peer.closed()

    def _cut(self, cut: Cut) -> None:
        self.network.facts.injected[f"cut {cut.how}"] += 1
        self.network.facts.note(self.network.agenda.now, f"c{self.number} cut {cut.how}")
        if cut.how == "hush":
            self.hushed = True
        elif self.serving:
            self.serving = False
            if self.peer is not None:
                self.peer.closed()
            self._end(cut.how)

    # from the server

    def reply(self, octets: bytes, delay: float) -> None:
        """Octets leave the server after a delay; replies stay in order."""
        agenda = self.network.agenda
        self.said_at = max(self.said_at, agenda.now + delay + self.host.latency)
        if len(octets) > 1 and self.chance.random() < 0.05:
            at = self.chance.randrange(1, len(octets))
            agenda.at(self.said_at, self._come, octets[:at])
            agenda.at(self.said_at + self.chance.random(), self._come, octets[at:])
            self.said_at += 1.0
            return
        agenda.at(self.said_at, self._come, octets)

    def hang_up(self, how: str, delay: float = 0.0) -> None:
        """The server closes ("fin") or resets ("rst"), after what it has said."""
        self.serving = False
        agenda = self.network.agenda
        self.said_at = max(self.said_at, agenda.now + delay + self.host.latency)
        agenda.at(self.said_at, self._end, how)

    def _come(self, octets: bytes) -> None:
        if not self.open or self.hushed or self.ended:
            return
        cut = self.cut
        if cut is not None and not cut.up:
            left = cut.octets - self._down
            self._down += len(octets)
            if left <= len(octets):
                if left > 0:
                    self._hand_over(octets[:left])
                self._cut(cut)
                return
        self._hand_over(octets)

    def _hand_over(self, octets: bytes) -> None:
        if self.transport is not None:
            self.transport.receive(octets)
            return
        self.inbox += octets
        if self.watcher is not None and len(self.inbox) >= self.low_water:
            self.watcher()

    def _end(self, how: str) -> None:
        if not self.open or self.ended:
            return
        self.ended = how
        if self.transport is not None:
            self.transport.end(how)
        elif self.watcher is not None:
            self.watcher()
