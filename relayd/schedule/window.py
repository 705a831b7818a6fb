"""A site's window: how many connections it may have now.  It learns from how connections end.

Pure.  The rules, and why:

    It begins at `initial_connections` (5): enough to be quick, too few for a big provider to mind.
    It grows by one for each window's worth of messages that the site settled without a complaint, at most by one for
        each connection that went well: as in Postfix, feedback of 1/N, which cannot more than double the window in
        the time of one connection.  Only a window that is in use grows: permission that nobody used is no evidence.
    A connection that failed while others of the site were open says: not so many.  The window becomes as many as were
        open, and that is its ceiling for `CEILING_SPAN`; so does "too many connections", or what number the server
        states.  The ceiling is an observation, so it has an end: then growth may try again.
    A throttling reply ("rate limited", 4.7.28) halves it, at most once in `COMPLAINT_SPAN`: the same complaint comes on
        every connection that is open.  Halving, since a rate falls with the number of connections only by and by.
    A site that could not be used at all has a window of one, the probe; when the probe is served it begins anew.
    A site without mail is as it was for `REMEMBERED`, then it begins anew: both what was granted and what was refused
        a while ago tell little of now.

Invariant, checked by tests/schedule/test_window.py: 1 <= allowed <= max_connections, and never more than the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from relayd.schedule.settings import SiteLimits

CEILING_SPAN = timedelta(minutes=10)
COMPLAINT_SPAN = timedelta(seconds=10)
REMEMBERED = timedelta(minutes=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How many connections a site may have.  `size` has a fraction: growth that is not a whole connection yet.
    `why` says what made it smaller last."""

    size: float
    ceiling: int | None = None
    ceiling_since: datetime | None = None
    throttled_at: datetime | None = None
    why: str = ""

    def allowed(self, limits: SiteLimits, now: datetime) -> int:
        """Return how many connections there may be at `now`."""
        return max(1, min(int(self.size), self._most(limits, now)))

    def _most(self, limits: SiteLimits, now: datetime) -> int:
        if self.ceiling is None or not _within(self.ceiling_since, CEILING_SPAN, now):
            return limits.max_connections
        return min(self.ceiling, limits.max_connections)

    def served(self, messages: int, running: int, limits: SiteLimits, now: datetime) -> Window:
        """Return the window after a connection, one of `running`, ended well with so many messages settled."""
        if running < int(self.size):
            return self
        grown = self.size + min(messages / self.size, 1.0)
        return replace(self, size=max(1.0, min(grown, self._most(limits, now))))

    def refused(self, others: int, stated: int | None, why: str, now: datetime) -> Window:
        """Return the window after a connection was refused while `others` were open.

        `stated` is the limit that the server named, None if it named none.
        """
        ceiling = max(1, others if stated is None else stated)
        size = max(1.0, min(self.size, ceiling))
        return replace(self, size=size, ceiling=ceiling, ceiling_since=now, why=why)

    def throttled(self, why: str, now: datetime) -> Window:
        """Return the window after a throttling reply."""
        if _within(self.throttled_at, COMPLAINT_SPAN, now):
            return self
        return replace(self, size=max(1.0, self.size / 2), throttled_at=now, why=why)


def _within(since: datetime | None, span: timedelta, now: datetime) -> bool:
    """Whether `since` is less than `span` ago; a time to come, after the clock was set back, is not."""
    return since is not None and timedelta(0) <= now - since < span
