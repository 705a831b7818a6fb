"""What was tried for a delivery, and its outcomes: what a relayer reports, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Outcome
from relayd.mail.recipient import Status
from relayd.mail.tls import Evidence
from relayd.mail.transcript import Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at one delivery, settled.

    `outcomes` has every recipient's number exactly once.  `peer` is `name[address]:port`, empty if no connection was
    made; `tls` is None for clear text.  `relays_dsn` tells that the peer offered DSN and so took over the duty to
    notify of success (RFC 3461 section 5.2.2); `relays_deadline`, that it offered DELIVERBY and was told of a deadline
    by BY (RFC 2852 section 4.1.4).  `altered` tells what was made of a content that cannot be sent as it is:
    `re-encoded`, or `folded`.  `retry_at`: for Deferred outcomes of scope HOST, when the site is tried again.
    """

    delivery: Delivery
    outcomes: Mapping[int, Outcome]
    ended: datetime
    peer: str = ""
    tls: Evidence | None = None
    relays_dsn: bool = False
    relays_deadline: bool = False
    seconds: float = 0.0
    altered: str = ""
    retry_at: datetime | None = None
    transcript: Transcript = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """An attempt as it is remembered, whatever came of it: one line each, for people.

    `seconds` is how long it took, without getting a connection; `tls` is as the log has it, empty for clear text or no
    connection; `transcript` is empty where none was kept.
    """

    ended: datetime
    seconds: float = 0.0
    peer: str = ""
    tls: str = ""
    altered: str = ""
    transcript: Transcript = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PastOutcome:
    """What became in an attempt of some recipients, alike."""

    numbers: tuple[int, ...]
    status: Status
    dsn: str
    reply: str
    possible_duplicate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PastAttempt:
    """An attempt and its outcomes; every recipient that took part is in exactly one."""

    tried: Tried
    outcomes: tuple[PastOutcome, ...]
