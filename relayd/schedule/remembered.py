"""What is remembered of sites that have neither mail nor a relayer: a bounded number, each for a while.

Pure.  A hint: losing it costs a site its learned window.  A meter that is not whole yet is kept whatever the time, so
that a rate of so many a day is not begun anew with every burst of mail.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta

from relayd.schedule.gates import SiteState
from relayd.schedule.window import REMEMBERED, Window

MOST = 10_000  # sites; some 500 octets each


class RememberedSites:
    """See the module.  Each call is O(1)."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[datetime, SiteState]] = OrderedDict()

    def keep(self, site: str, state: SiteState, now: datetime) -> None:
        """Remember a site as it is; the one that was kept the longest goes when there are too many."""
        self._kept[site] = (now, state)
        self._kept.move_to_end(site)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def take(self, site: str, now: datetime) -> SiteState | None:
        """Take out what is remembered of a site, as far as it still tells something."""
        kept = self._kept.pop(site, None)
        if kept is None:
            return None
        since, state = kept
        if not timedelta(0) <= now - since < REMEMBERED:
            state.window = Window(size=state.limits.initial)
            state.quick = False
        return state

    def look(self, site: str) -> SiteState | None:
        """Return what is remembered of a site, and leave it there."""
        kept = self._kept.get(site)
        return None if kept is None else kept[1]

    def forget_rules(self) -> None:
        """The [[site]] tables have changed: limits are found anew when a site has mail again."""
        for _, state in self._kept.values():
            state.rule = None
