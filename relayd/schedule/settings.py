"""The limits of the scheduler: for all, for each site, and for sites that a [[site]] table names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from relayd.mail.pattern import matches
from relayd.schedule.rate import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLimits:
    """What one site is given at most.  It begins with no more connections than it may have, whatever is said."""

    max_connections: int = 20
    initial_connections: int = 5
    max_messages_per_connection: int = 100
    message_rate: Rate | None = None
    connection_rate: Rate | None = None

    @property
    def initial(self) -> int:
        """With how many connections a site begins of which nothing is known."""
        return min(self.initial_connections, self.max_connections)


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRule:
    """One [[site]]: limits of sites that serve a domain, or have a mail exchanger, which `match` names.

    What is None is as for all sites.
    """

    match: tuple[str, ...]  # patterns of mail/pattern.py
    max_connections: int | None = None
    initial_connections: int | None = None
    max_messages_per_connection: int | None = None
    message_rate: Rate | None = None
    connection_rate: Rate | None = None

    def __post_init__(self) -> None:
        if not self.match:
            raise ValueError("a site needs at least one pattern to match")

    def applies(self, names: Iterable[str]) -> bool:
        """Whether one of the names, of destinations or hosts, is meant."""
        return any(matches(pattern, name) for name in names for pattern in self.match)

    def applied(self, limits: SiteLimits) -> SiteLimits:
        """Return `limits` with what this rule says."""
        return replace(
            limits,
            max_connections=self.max_connections or limits.max_connections,
            initial_connections=self.initial_connections or limits.initial_connections,
            max_messages_per_connection=self.max_messages_per_connection or limits.max_messages_per_connection,
            message_rate=self.message_rate or limits.message_rate,
            connection_rate=self.connection_rate or limits.connection_rate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """How many relayers, and how much they are given.  Of `rules` the first that applies to a site counts."""

    max_connections: int = 100
    active_limit: int = 20_000  # deliveries in core, of all relayers together
    limits: SiteLimits = field(default_factory=SiteLimits)
    rules: tuple[SiteRule, ...] = ()

    @property
    def unreserved(self) -> int:
        """How many connections any site may use; the others are for sites that took mail quickly of late, for their
        first relayer (see scheduler.py)."""
        return self.max_connections - self.max_connections // 4

    def rule_for(self, names: Iterable[str], before: int | None) -> int | None:
        """Return which rule applies to a site: the first, by `names` or as it was known before."""
        named = tuple(names)
        for number, rule in enumerate(self.rules[:before]):
            if rule.applies(named):
                return number
        return before

    def limits_of(self, rule: int | None) -> SiteLimits:
        """Return the limits of a site to which a rule applies, or none does."""
        return self.limits if rule is None else self.rules[rule].applied(self.limits)
