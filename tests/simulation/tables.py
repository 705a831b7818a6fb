"""The tables of the queue in memory: what is durable of it, and the index of what waits.

Plain rows and dicts; each job of claiming.py, settling.py and operating.py changes them in one piece, so that whatever
is here between two turns of the loop is what a crash leaves.  What the reader must not break:

    A row has an entry among what waits if and only if it may be claimed once it is due; `changed` sees to it.
    What is taken out of a heap's middle stays there, and counts for nothing once its row has another entry or none.

Costs: O(log n) for each row that begins to wait or falls due; what does not wait costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
from typing import TypeAlias

from relayd.mail.back_off import BackOff
from relayd.mail.key import SubmissionKey
from relayd.mail.message import Message
from relayd.mail.recipient import Recipient, Status
from relayd.mail.settlement import Action
from relayd.spool.attempts import Remembered
from relayd.spool.queue import HistoryRow

URGENT, FRESH, TRIED = TURNS = (0, 1, 2)
BODY_GONE, BODY_FINISHED, BODY_KEPT = 0, 1, 2

_EVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(slots=True, eq=False)
class Row:
    """A recipient of a message, and how it stands."""

    message: MessageRow
    recipient: Recipient
    lease: int | None = None
    removing: bool = False
    entry: Entry | None = None  # among what waits
    ripe: bool = False  # it waits, and is due

    @property
    def waits(self) -> bool:
        """Whether it may be claimed once it is due."""
        return self.lease is None and not self.message.held and not self.recipient.status.final


Entry: TypeAlias = tuple[datetime, int, Row]  # when it is due, a number of its own, and whose it is


@dataclass(slots=True, eq=False)
class MessageRow:
    """A message; its recipients are in `rows`, not in `message`."""

    message: Message
    rows: list[Row] = field(default_factory=list)
    open: int = 0  # recipients that are not final
    held: bool = False
    hold_reason: str = ""
    deaths: int = 0
    warned: int = 0  # 1: of its delay; 2: nothing will be told any more
    notices: list[NoticeRow] = field(default_factory=list)  # owed


@dataclass(slots=True, eq=False)
class NoticeRow:
    """A notification that is owed."""

    id: str
    message: MessageRow
    action: Action
    numbers: set[int]
    handed: bool = False


@dataclass(slots=True, eq=False)
class LeaseRow:
    """A claim."""

    owner: str
    ends: datetime
    rows: dict[Row, None] = field(default_factory=dict)
    left: bool = False


@dataclass(slots=True, eq=False)
class Past:
    """A finished message and its body."""

    row: HistoryRow
    body: int


@dataclass(slots=True, eq=False)
class Place:
    """What is due at a destination, by turns."""

    turns: tuple[list[Entry], list[Entry], list[Entry]] = field(default_factory=lambda: ([], [], []))
    count: int = 0

    def first(self, turn: int) -> Entry | None:
        """Return what is due longest of a turn."""
        heap = self.turns[turn]
        while heap and heap[0][2].entry is not heap[0]:
            heappop(heap)
        return heap[0] if heap else None

    @property
    def since(self) -> datetime:
        """When what is due longest fell due."""
        return min(entry[0] for turn in TURNS if (entry := self.first(turn)))


class Waiting:
    """What may be claimed: what is due by destination, the rest by time."""

    def __init__(self) -> None:
        self.due: dict[str, Place] = {}
        self._later: list[Entry] = []
        self._now = _EVER
        self._entries = 0

    def changed(self, row: Row) -> None:
        """A row may have begun to wait, ceased to, or be due at another time."""
        if row.entry is not None:
            self._drop(row)
        if row.waits:
            assert row.recipient.due is not None
            self._entries += 1
            row.entry = (row.recipient.due, self._entries, row)
            heappush(self._later, row.entry)

    def leave(self, row: Row) -> None:
        """A row waits here no more."""
        if row.entry is not None:
            self._drop(row)

    def advance(self, now: datetime) -> None:
        """Find out what is due at `now`, which may be before an earlier one."""
        if now < self._now:
            for row in [e[2] for place in self.due.values() for turn in place.turns for e in turn if e[2].entry is e]:
                self.changed(row)
        self._now = now
        later = self._later
        while later and later[0][0] <= now:
            entry = heappop(later)
            if entry[2].entry is entry:
                self._ripen(entry)

    def next(self) -> datetime | None:
        """Return when the next that is not due yet falls due."""
        while self._later and self._later[0][2].entry is not self._later[0]:
            heappop(self._later)
        return self._later[0][0] if self._later else None

    def _ripen(self, entry: Entry) -> None:
        row = entry[2]
        place = self.due.setdefault(row.recipient.destination, Place())
        place.count += 1
        row.ripe = True
        heappush(place.turns[_turn(row)], entry)

    def _drop(self, row: Row) -> None:
        row.entry = None
        if row.ripe:
            row.ripe = False
            domain = row.recipient.destination
            self.due[domain].count -= 1
            if not self.due[domain].count:
                del self.due[domain]


def _turn(row: Row) -> int:
    if row.message.message.urgent:
        return URGENT
    return FRESH if row.recipient.status is Status.QUEUED else TRIED


class Agenda:
    """Messages by a time: O(log n) for each.  Those that are over are dropped when they are met, or too many."""

    def __init__(self, messages: Mapping[str, object]) -> None:
        self._messages = messages
        self._heap: list[tuple[datetime, str]] = []

    def add(self, at: datetime, message_id: str) -> None:
        """Note a message."""
        heappush(self._heap, (at, message_id))
        if len(self._heap) > 2 * len(self._messages) + 1_000:
            self._heap = sorted({each for each in self._heap if each[1] in self._messages})

    def take(self, before: datetime) -> list[tuple[datetime, str]]:
        """Take those out whose time is before `before`, the earliest first; who still has use for one adds it again."""
        taken: list[tuple[datetime, str]] = []
        while self._heap and self._heap[0][0] < before:
            each = heappop(self._heap)
            if each[1] in self._messages and (not taken or taken[-1] != each):
                taken.append(each)
        return taken

    def restore(self, taken: Iterable[tuple[datetime, str]]) -> None:
        """Note what was taken out again."""
        for each in taken:
            heappush(self._heap, each)


class Tables:
    """See the module.  All that is durable of a queue."""

    def __init__(self) -> None:
        self.messages: dict[str, MessageRow] = {}
        self.waiting = Waiting()
        self.arrived = Agenda(self.messages)
        self.unwarned = Agenda(self.messages)
        self.ending = Agenda(self.messages)  # by a deadline that ends them
        self.notifying = Agenda(self.messages)  # by one that is only to be told of
        self.leases: dict[int, LeaseRow] = {}
        self.lease_ends: list[tuple[datetime, int]] = []
        self.last_lease = 0
        self.lapsed = 0  # recipients whose lease ended before they were settled or given back
        self.notices: dict[str, NoticeRow] = {}
        self.sites: dict[str, BackOff] = {}
        self.destinations: dict[str, tuple[str, datetime]] = {}  # where mail went, and when that was seen
        self.history: dict[str, Past] = {}
        self.attempts: dict[str, list[Remembered]] = {}
        self.to_unlink: dict[str, None] = {}  # of the history, in order
        self.keys: dict[SubmissionKey, tuple[str, datetime]] = {}  # whose they are, and when it arrived
        self.old = Agenda(self.history)  # by their end, those whose bodies are gone, or kept until then

    def changed(self, row: Row) -> None:
        """See `Waiting.changed`."""
        self.waiting.changed(row)

    def move(self, row: Row, recipient: Recipient) -> None:
        """Let a row be of a recipient that goes elsewhere."""
        self.waiting.leave(row)
        row.recipient = recipient
        self.changed(row)

    def free(self, row: Row) -> None:
        """End a claim on a row."""
        if row.lease is not None:
            lease = self.leases.get(row.lease)
            if lease is not None:
                del lease.rows[row]
            row.lease = None
            self.changed(row)
