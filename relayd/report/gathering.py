"""Counts sessions in memory until they are written down, so that a connection costs no write.

Bounded: at most MAX_DOMAINS wait to be written; while nothing can be, those that come beyond are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial

from relayd.mail.tls import TlsSession
from relayd.report.counting import Tally, by_domain
from relayd.report.ports import Key, Merge, StsLines

MAX_DOMAINS = 10_000


class Gathering:
    """See the module."""

    def __init__(self, sts_lines: StsLines) -> None:
        self._sts_lines = sts_lines
        self._tallies: dict[Key, Tally] = {}

    def __bool__(self) -> bool:
        return bool(self._tallies)

    def session(self, session: TlsSession, now: datetime) -> None:
        """Count a session that was opened, or not, just now."""
        for domain, policy, failure in by_domain(session, self._sts_lines):
            tally = self._of((now.date(), domain))
            if tally is not None:
                tally.add(policy, failure)

    def _of(self, key: Key) -> Tally | None:
        if key not in self._tallies and len(self._tallies) >= MAX_DOMAINS:
            return None
        return self._tallies.setdefault(key, Tally())

    def take(self) -> dict[Key, Tally]:
        """Return what has gathered, and begin anew."""
        taken, self._tallies = self._tallies, {}
        return taken

    def put_back(self, taken: Mapping[Key, Tally]) -> None:
        """What was taken could not be written down: count it still."""
        for key, tally in taken.items():
            kept = self._of(key)
            if kept is not None:
                kept.merge(tally)


def changes(taken: Mapping[Key, Tally]) -> dict[Key, Merge]:
    """Return how what is kept changes by what was taken."""
    return {key: partial(_merged, tally=tally) for key, tally in taken.items()}


def _merged(kept: str | None, *, tally: Tally) -> str:
    """What is kept and cannot be read counts for nothing: it is the count of a day, not mail."""
    merged = Tally()
    if kept is not None:
        with suppress(ValueError):
            merged = Tally.unpacked(kept)
    merged.merge(tally)
    return merged.packed()
