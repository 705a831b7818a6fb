"""TLS reports on their way from what was counted to who asked for them, as the spool keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What was counted of one day (UTC) and one domain; `tally` as its stage packs it.

    `due` is when its report is to be made, None while the day lasts; `first` is when that was to be tried first,
    `tries` how often it was.
    """

    day: date
    domain: str
    tally: str
    due: datetime | None = None
    first: datetime | None = None
    tries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owed:
    """A report that was made, to be handed over to one of those who asked for it.

    `place` is where, a URI; `id` the queue id that it has if it goes by mail; `content` all of it, the same at each
    try.  `due` is when to try next, `first` when it was tried first, and `tries` how often.
    """

    day: date
    domain: str
    place: str
    id: str
    content: bytes
    sessions: int
    failed: int
    due: datetime
    first: datetime
    tries: int = 0

    @property
    def by_mail(self) -> bool:
        """Whether it goes through the queue; else by POST."""
        return self.place.startswith("mailto:")
