"""A scenario: everything that a run of the simulation depends on, as a value.

Drawn from a seed (drawing.py), told in a few lines, replayed from them, and shrunk part by part (shrinking.py).  What
chance decides during a run comes from `seed`, in streams of their own, so that leaving a part out disturbs the others
little.  Times are seconds since the beginning.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.temper import Temper


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """A mail exchanger of a site."""

    name: str
    addresses: tuple[str, ...]
    preference: int
    temper: Temper


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A destination.  `nature`: mx, implicit (no MX, a host of this name), null, nxdomain, nodata, servfail."""

    name: str
    site: int
    nature: str = "mx"


@dataclass(frozen=True, slots=True, kw_only=True)
class To:
    """A recipient."""

    address: str
    notify: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """A file that is dropped.  `deadline` is what X-Relayd-Deadline or BY says, in seconds; 0: none."""

    at: float
    number: int
    sender: str  # "": <>
    to: tuple[To, ...]
    size: int = 200
    shape: str = "plain"  # or "8bit", "long" (a line), "dots"
    ret: str = ""
    deadline: int = 0
    foreign: bool = False  # of another user, so that it is copied

    @property
    def identity(self) -> str:
        """The Message-ID."""
        return f"m{self.number}@application.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """Something that happens to the daemon: at a time, "stop" (in order, and start again), "kill", "jump" (the clock,
    by `value` seconds), or an operator's "hold", "release", "retry", "remove" of the message that was dropped as
    number `value`, "dns" (nobody answers for `value` seconds), "disk" (nothing can be written for so long), or "power"
    (it is cut)."""

    at: float
    what: str
    value: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the daemon is configured to do; durations in seconds."""

    check_interval: float = 60.0
    max_connections: int = 20
    per_site: int = 5
    initial: int = 3
    per_connection: int = 20
    message_rate: str = ""
    connection_rate: str = ""
    active_limit: int = 1000
    first: float = 60.0
    factor: float = 2.0
    max: float = 900.0
    greylist: float = 300.0
    lifetime: float = 7200.0
    warn_after: float = 3600.0
    window: int = 16
    window_size: int = 1024 * 1024
    small_body: int = 256 * 1024
    read_ahead: int = 16
    max_unreported: int = 32
    max_recipients: int = 100
    stop_grace: float = 60.0
    timeouts: float = 1.0  # times those of RFC 5321


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """See the module.

    `kills` are steps of the first starts of the daemon after which it is killed.  Until `calm_at` faults happen.
    `queue_faults` is the chance that a change of the queue fails, `ambiguous` that of those it had happened.
    """

    seed: int
    rules: Rules = field(default_factory=Rules)
    sites: tuple[tuple[HostPlan, ...], ...] = ()
    domains: tuple[Domain, ...] = ()
    drops: tuple[Drop, ...] = ()
    strikes: tuple[Strike, ...] = ()
    kills: tuple[int, ...] = ()
    calm_at: float = 0.0
    queue_faults: float = 0.0
    ambiguous: float = 0.5
    dns_faults: float = 0.0
    slow_disk: float = 0.0  # seconds for a commit, at most

    @property
    def recipients(self) -> int:
        """How many recipients are dropped."""
        return sum(len(drop.to) for drop in self.drops)

    @property
    def quiet(self) -> bool:
        """Whether nothing happens to the daemon, its disk or its clock."""
        return not (self.strikes or self.kills or self.queue_faults or self.slow_disk)

    @property
    def uninterrupted(self) -> bool:
        """Whether the daemon runs in one piece, on one clock."""
        ends = any(strike.what in ("stop", "kill", "power", "jump") for strike in self.strikes)
        return not (ends or self.kills or self.disk_fails)  # without a disk it may not start

    @property
    def clock_is_set(self) -> bool:
        """Whether the wall clock leaps."""
        return any(strike.what == "jump" for strike in self.strikes)

    @property
    def disk_fails(self) -> bool:
        """Whether something cannot be written."""
        return self.queue_faults > 0 or any(strike.what == "disk" for strike in self.strikes)

    @property
    def disk_lies(self) -> bool:
        """Whether the queue may be told that what happened did not."""
        return self.queue_faults > 0 and self.ambiguous > 0

    @property
    def power_fails(self) -> bool:
        """Whether the machine loses its power."""
        return any(strike.what == "power" for strike in self.strikes)
