"""The gates that can make a site wait.

Pure.  Each gate is a function of what is known of the site, the settings and `now`; it returns None if it is open,
else a verdict that says until when (None: until something ends, not a time) and why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from relayd.schedule.settings import ScheduleSettings


@dataclass(slots=True, kw_only=True)
class SiteState:
    """What the scheduler knows of one site.

    `due` has, for each destination with mail that may be tried now, how many recipients are thought to wait: an
    estimate, never less than one; `fresh` are those of them that were named since a relayer last began to claim.
    `failures` counts attempts in a row that could not use the site at all.
    """

    due: dict[str, int] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    running: int = 0
    failures: int = 0
    retry_at: datetime | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a site has to wait."""

    gate: str
    until: datetime | None
    why: str


def back_off(site: SiteState, now: datetime) -> Verdict | None:
    """A site that could not be used is left alone until its retry time."""
    if site.retry_at is None or site.retry_at <= now:
        return None
    return Verdict(gate="back-off", until=site.retry_at, why=f"{site.failures} failures in a row: {site.reason}")


def window(site: SiteState, settings: ScheduleSettings) -> Verdict | None:
    """At most `max_connections_per_site` relayers; one, the probe, while the site has not recovered."""
    allowed = 1 if site.failures else settings.max_connections_per_site
    if site.running < allowed:
        return None
    return Verdict(gate="window", until=None, why=f"{site.running} of {allowed} connections in use")


def verdict(site: SiteState, settings: ScheduleSettings, now: datetime) -> Verdict | None:
    """Return the first gate that is closed, None if a relayer may start."""
    return back_off(site, now) or window(site, settings)
