"""What the pool needs of the daemon, which plugs it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from relayd.mail.events import Events
from relayd.relay.ports import AddressBook, Measured, Reports, Sessions, Tokens
from relayd.spool.notes import Noted


class Buried(Protocol):
    """What the queue found of a dead worker's deliveries: (id, address) of what it marked, (id, deaths) of what it
    held."""

    @property
    def marked(self) -> tuple[tuple[str, str], ...]: ...

    @property
    def held(self) -> tuple[tuple[str, int], ...]: ...


class Bury(Protocol):
    """Marks and counts what a dead worker left in flight: see relayd/spool/takeover.py."""

    def __call__(self, noted: Noted, now: datetime) -> Awaitable[Buried]:
        """Return when that is durable.

        Raises:
            QueueError: nothing has changed.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """Where workers work: `bodies` is `<spool>/queue`, `lock` the descriptor of the spool's lock, `notes` the place
    of each worker's own notes, by its number, and `boot` the first line of those."""

    bodies: Path
    lock: int
    notes: Callable[[int], Path]
    boot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPorts:
    """All of them."""

    reports: Reports
    addresses: AddressBook
    tokens: Tokens
    sessions: Sessions
    bury: Bury
    premises: Premises
    clock: Callable[[], datetime]
    events: Events
    measured: Measured = lambda figures: None
