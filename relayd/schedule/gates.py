"""The gates that can make a site wait.

Pure.  Each gate is a function of what is known of the site, the settings and `now`, or of what all sites share; it
returns None if it is open, else a verdict that says until when (None: until something ends, not a time) and why.
`relayd explain` shows them in the order of `GATES` and `ROOM_GATES`, and the scheduler obeys the same functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from relayd.schedule.rate import UNUSED, Meter
from relayd.schedule.settings import SiteLimits
from relayd.schedule.window import Window


@dataclass(slots=True, kw_only=True)
class SiteState:
    """What the scheduler knows of one site.

    `due` has, for each destination with mail that may be tried now, how many recipients are thought to wait: an
    estimate, never less than one; `fresh` are those of them that were named since a relayer last began to claim.
    `connecting` of the `running` relayers are about to connect, or wait until they may.
    `failures` counts attempts in a row that could not use the site at all.  `quick` says whether the last relayer
    needed little time for each message.  `rule` is the number of the [[site]] table that `limits` come from;
    `opens_at` is when a gate opens for which the scheduler waits.
    """

    limits: SiteLimits
    window: Window
    rule: int | None = None
    due: dict[str, int] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    running: int = 0
    connecting: int = 0
    failures: int = 0
    retry_at: datetime | None = None
    reason: str = ""
    messages: Meter = UNUSED
    connections: Meter = UNUSED
    quick: bool = False
    opens_at: datetime | None = None

    @classmethod
    def of(cls, limits: SiteLimits) -> SiteState:
        """Return the state of a site of which nothing is known."""
        return cls(limits=limits, window=Window(size=limits.initial))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What all sites share: relayers that run, deliveries in core, and how many of each there may be.

    Of the connections those beyond `unreserved` are for quick sites that have none.
    """

    running: int
    max_connections: int
    unreserved: int
    in_core: int
    active_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Why a site has to wait."""

    gate: str
    until: datetime | None
    why: str


def allowed(site: SiteState, now: datetime) -> int:
    """Return how many relayers a site may have: one, the probe, while it has not recovered."""
    return 1 if site.failures else site.window.allowed(site.limits, now)


def back_off(site: SiteState, now: datetime) -> Verdict | None:
    """A site that could not be used is left alone until its retry time."""
    if site.retry_at is None or site.retry_at <= now:
        return None
    times = "once" if site.failures == 1 else f"{site.failures} times in a row"
    return Verdict(gate="back-off", until=site.retry_at, why=f"out of reach {times}: {site.reason}")


def window(site: SiteState, now: datetime) -> Verdict | None:
    """At most so many relayers as window.py has found."""
    if site.running < allowed(site, now):
        return None
    why = f"{site.running} of {allowed(site, now)} connections in use"
    return Verdict(gate="window", until=None, why=f"{why} ({site.window.why})" if site.window.why else why)


def connection_rate(site: SiteState, now: datetime) -> Verdict | None:
    """At most so many connections in a time; relayers that were started, and have yet to connect, come first."""
    rate, wanted = site.limits.connection_rate, site.connecting + 1
    if rate is None or wanted <= site.connections.room(rate, now):
        return None
    until = site.connections.open_at(rate, now, wanted) if wanted <= rate.burst else None
    why = f"at most {rate}; {site.connecting} before it have yet to connect" if site.connecting else f"at most {rate}"
    return Verdict(gate="connection-rate", until=until, why=why)


def message_rate(site: SiteState, now: datetime) -> Verdict | None:
    """At most so many messages in a time."""
    rate = site.limits.message_rate
    if rate is None or site.messages.room(rate, now) > 0:
        return None
    return Verdict(gate="message-rate", until=site.messages.open_at(rate, now), why=f"at most {rate}")


GATES: dict[str, Callable[[SiteState, datetime], Verdict | None]] = {
    "back-off": back_off,
    "window": window,
    "connection-rate": connection_rate,
    "message-rate": message_rate,
}


def verdict(site: SiteState, now: datetime) -> Verdict | None:
    """Return the first gate that is closed, None if a relayer may start."""
    return back_off(site, now) or window(site, now) or connection_rate(site, now) or message_rate(site, now)


def active_limit(site: SiteState, room: Room) -> Verdict | None:
    """At most so many deliveries in core, of all sites together."""
    if room.in_core < room.active_limit:
        return None
    why = f"{room.in_core} deliveries in core, of at most {room.active_limit}"
    return Verdict(gate="active-limit", until=None, why=why)


def max_connections(site: SiteState, room: Room) -> Verdict | None:
    """At most so many connections, of all sites together."""
    reserved = site.quick and not site.running
    if room.running < (room.max_connections if reserved else room.unreserved):
        return None
    why = f"{room.running} of {room.max_connections} connections in use"
    if room.running < room.max_connections:
        why += "; the others are for quick sites without one"
    return Verdict(gate="max-connections", until=None, why=why)


ROOM_GATES: dict[str, Callable[[SiteState, Room], Verdict | None]] = {
    "active-limit": active_limit,
    "max-connections": max_connections,
}
