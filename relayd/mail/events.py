"""What happened, as values: what the log writes, the counters count and `relayd demo` shows.

A stage takes an `Events`, a callable, and tells it; it never learns who listens.  Texts may come from a hostile
peer or file name: whoever prints them escapes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TypeAlias

from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message
from relayd.mail.recipient import Recipient
from relayd.mail.settlement import Action
from relayd.mail.tls import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A message is durable in the queue; from now on it is ours.  `file` is the name it was dropped under."""

    message: Message
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """A dropped file had the key of message `id`: it made no message of its own, and is gone."""

    id: str
    key: SubmissionKey | None
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRejected:
    """A dropped file was not understood and went to `rejected/`."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLeft:
    """A dropped file stays where it is: unreadable, a link, not a regular file.  Told once for each file."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One recipient's attempt is settled and durable; `recipient` is as it stands now."""

    id: str
    recipient: Recipient
    tls: Evidence | None
    seconds: float
    age: float  # seconds since the message arrived
    altered: str = ""  # as in Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Notified:
    """A notification is in the queue as message `id`."""

    id: str
    action: Action
    message_id: str
    recipients: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NotificationDropped:
    """No notification was made, because there is nobody to tell (a message from `<>`)."""

    message_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteBackedOff:
    """A site could not be used; it is tried again at `retry_at`."""

    site: str
    failures: int
    retry_at: datetime
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRecovered:
    """A site that backed off took mail again."""

    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Found in flight at the start or at a worker's death, its end may have left: marked "possible duplicate"."""

    id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAfterDeaths:
    """The daemon, or a worker, died `deaths` times with this message in hand; it is held."""

    id: str
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied:
    """A relayer process ended by itself with so many relayers; another takes its place.  `how` in words."""

    pid: int
    how: str
    relayers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """So many jobs of the queue were written in one group commit, which took that long, syncing included."""

    jobs: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Degraded:
    """A part cannot do its work now; nothing is lost, and it is tried again."""

    part: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """A degraded part works again."""

    part: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifecycle:
    """The daemon: started, stopping, stopped, reloaded; `detail` in words."""

    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockLeapt:
    """The wall clock was set by so much, or so much time was lost, in which nothing could be tried."""

    set_by: timedelta
    lost: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Warned:
    """Something for the operator to see to; the daemon goes on.  `about` is a setting's key."""

    about: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsReported:
    """A report on TLS of a day was handed over `to` a URI that its domain named, as message `id` if by mail; or given
    up for a `trouble`.  It tells of so many sessions, of which so many failed."""

    domain: str
    day: date
    to: str
    sessions: int
    failed: int
    id: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Our own trouble: an exception where none was expected.  `detail` is one line."""

    part: str
    detail: str


Event: TypeAlias = (
    Accepted
    | Repeated
    | FileRejected
    | FileLeft
    | Attempted
    | Notified
    | NotificationDropped
    | SiteBackedOff
    | SiteRecovered
    | Marked
    | HeldAfterDeaths
    | WorkerDied
    | Committed
    | Degraded
    | Restored
    | Lifecycle
    | ClockLeapt
    | Warned
    | TlsReported
    | Trouble
)
Events: TypeAlias = Callable[[Event], None]
