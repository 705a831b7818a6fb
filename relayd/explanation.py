"""Why mail waits: every gate in its order, how it stands, and which of them blocks now.

Pure.  What is known of a message, of its site and of the daemon becomes a `Standing` for each gate.  The gates of a
site are those that the scheduler obeys (schedule/gates.py): here is only said how they stand while they are open.  The
first gate that is closed blocks; others behind it may be closed too, and then they are the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from relayd.mail.back_off import BackOff
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.recipient import Recipient
from relayd.mail.route import Site
from relayd.mail.tls import TlsPolicy
from relayd.schedule.gates import GATES, ROOM_GATES, Room, SiteState, Verdict, allowed
from relayd.schedule.rate import Meter, Rate
from relayd.schedule.settings import SiteLimits

ORDER = ("hold", "retry-time", "lease", "route", "policy", *GATES, *ROOM_GATES, "daemon")
UNMET = frozenset({"4.7.4", "4.7.5", "4.7.10"})  # RFC 3463 and RFC 5248: of TLS, what a site backs off with
LONGEST = 1_000  # characters of what a peer said


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a gate stands; `until` when it opens by the clock, None if it is open or waits for something to end."""

    gate: str
    open: bool
    until: datetime | None = None
    why: str = ""


def blocking(gates: Iterable[Standing]) -> Standing | None:
    """Return the gate that blocks: the first that is closed."""
    return next((gate for gate in in_order(gates) if not gate.open), None)


def in_order(gates: Iterable[Standing]) -> list[Standing]:
    """Return gates in the order in which mail comes to them."""
    return sorted(gates, key=lambda gate: ORDER.index(gate.gate))


def _open(gate: str, why: str = "") -> Standing:
    return Standing(gate=gate, open=True, why=why)


def _closed(gate: str, why: str, until: datetime | None = None) -> Standing:
    return Standing(gate=gate, open=False, until=until, why=why[:LONGEST])


# of the message


def of_hold(*, held: bool, reason: str) -> Standing:
    """An operator, or the deaths of the daemon, may have put a message on hold."""
    return _closed("hold", reason or "held by an operator") if held else _open("hold")


def of_retry(recipients: Sequence[Recipient], now: datetime) -> Standing:
    """What was put off waits for its time: of several recipients, for the first one's."""
    first = min(recipients, key=lambda recipient: recipient.due or now)
    if first.due is None or first.due <= now:
        return _open("retry-time", _tried(first))
    return _closed("retry-time", _tried(first), first.due)


def _tried(recipient: Recipient) -> str:
    if recipient.attempted is None:
        return f"not tried yet; of its site: {recipient.reply}" if recipient.reply else "not tried yet"
    what = "tried while its site was out of reach"  # which is not counted
    if recipient.attempts:
        what = f"{recipient.attempts} attempt{'' if recipient.attempts == 1 else 's'}"
    said = f"{recipient.peer}: {recipient.reply}" if recipient.peer else recipient.reply
    return f"{what}; last {said}" if recipient.reply else what


def of_lease(in_flight: int, recipients: int, holder: str) -> Standing:
    """What is in flight is being sent now, by `holder`."""
    if not in_flight:
        return _open("lease", "not in flight")
    what = "in flight" if in_flight == recipients else f"{in_flight} of {recipients} recipients in flight"
    return _open("lease", what) if in_flight < recipients else _closed("lease", f"{what}: {holder}")


# of the way


def of_route(where: Site | Deferred | Failed | None, until: datetime | None = None) -> Standing:
    """A destination has to lead to a site; None: it is being looked up."""
    match where:
        case Site():
            hosts = ", ".join(str(host) for group in where.hosts for host in group)
            return _open("route", f"to {hosts}"[:LONGEST])
        case Deferred():
            return _closed("route", f"it cannot be looked up: {where}", until)
        case Failed():
            return _closed("route", f"its mail fails: {where}")
        case None:
            return _closed("route", "it is being looked up")


def of_last_route(site: str | None, back_off: BackOff | None) -> Standing:
    """What the queue remembers of a destination's route, for want of a daemon that would look it up anew."""
    if site is None:
        return _open("route", "not looked up yet")
    if back_off is not None and site.startswith("dns:"):
        return _closed("route", f"it cannot be looked up: {back_off.reply}", back_off.retry_at)
    return _open("route", "as it was looked up last")


# of what is demanded of TLS


def of_policy(site: Site) -> Standing:
    """What is demanded of a site's hosts, as far as it is the same for all of them; nothing, until one was asked."""
    sources = [_LEVELS[site.tls]]
    if site.dane and site.tls is not TlsPolicy.NONE:
        sources.append("what DANE says of a host")
    if site.sts is not None:
        sources.append("MTA-STS" if site.sts.enforce else "MTA-STS, for a report only")
    return _open("policy", ", ".join(sources))


def of_unmet_policy(back_off: BackOff | None, now: datetime) -> Standing | None:
    """Return how it stands at a site that backs off since its hosts do not meet what is demanded; None if none does."""
    if back_off is None or back_off.dsn not in UNMET or back_off.retry_at <= now:
        return None
    return _closed("policy", f"not met: {back_off.reply}", back_off.retry_at)


_LEVELS = {
    TlsPolicy.NONE: "no TLS",
    TlsPolicy.OPPORTUNISTIC: "TLS where it can be had",
    TlsPolicy.REQUIRE: "TLS, whoever the host is",
    TlsPolicy.VERIFY: "TLS, and a certificate for the host's name",
}


# of the site


def of_site(state: SiteState, room: Room, now: datetime) -> list[Standing]:
    """How the scheduler's gates stand for a site."""
    own = [_stands(gate, closed(state, now), _OPEN[gate](state, now)) for gate, closed in GATES.items()]
    return own + [_stands(gate, closed(state, room), _ROOM[gate](room)) for gate, closed in ROOM_GATES.items()]


def of_back_off(back_off: BackOff | None, now: datetime) -> Standing:
    """The one gate of a site that the queue knows of, too."""
    state = SiteState.of(SiteLimits())
    if back_off is not None:
        state.failures, state.retry_at, state.reason = back_off.failures, back_off.retry_at, back_off.reply
    return _stands("back-off", GATES["back-off"](state, now), _probe(state, now))


def _stands(gate: str, closed: Verdict | None, why: str) -> Standing:
    return _open(gate, why[:LONGEST]) if closed is None else _closed(gate, closed.why, closed.until)


def _probe(site: SiteState, now: datetime) -> str:
    return f"out of reach until now, so one connection is tried: {site.reason}" if site.failures else "within reach"


def _in_use(site: SiteState, now: datetime) -> str:
    in_use = f"{site.running} of {allowed(site, now)} connections in use"
    return f"{in_use} ({site.window.why})" if site.window.why else in_use


def _left(rate: Rate | None, meter: Meter, now: datetime, *, bespoken: int = 0) -> str:
    return "no limit" if rate is None else f"at most {rate}; {meter.room(rate, now) - bespoken} at once now"


_OPEN: dict[str, Callable[[SiteState, datetime], str]] = {
    "back-off": _probe,
    "window": _in_use,
    "connection-rate": lambda site, now: _left(
        site.limits.connection_rate, site.connections, now, bespoken=site.connecting
    ),
    "message-rate": lambda site, now: _left(site.limits.message_rate, site.messages, now),
}
_ROOM: dict[str, Callable[[Room], str]] = {
    "active-limit": lambda room: f"{room.in_core} deliveries in core, of at most {room.active_limit}",
    "max-connections": lambda room: f"{room.running} of {room.max_connections} connections in use",
}


# of the daemon


def of_daemon(*, answers: bool, holder: str | None, degraded: Sequence[str] = ()) -> Standing:
    """Nothing goes out without a daemon.  `holder` is the process that has the spool, None if none has."""
    if answers:
        return _open("daemon", f"it runs, but cannot do all its work: {', '.join(degraded)}" if degraded else "it runs")
    if holder is None:
        return _closed("daemon", "no daemon runs")
    return _closed("daemon", f"process {holder} has the spool and does not answer")


# as JSON has it

Written: TypeAlias = dict[str, Any]


def written(gate: Standing) -> Written:
    """Return how a gate stands for programs; times in ISO 8601."""
    until = gate.until.isoformat(timespec="milliseconds") if gate.until else None
    return {"gate": gate.gate, "open": gate.open, "until": until, "why": gate.why}


def read(gate: Mapping[str, Any]) -> Standing:
    """Return what `written` wrote.

    Raises:
        KeyError, ValueError: it did not.
    """
    if gate["gate"] not in ORDER:
        raise ValueError(f"no such gate: {gate['gate']!r}")
    until = datetime.fromisoformat(gate["until"]) if gate["until"] else None
    return Standing(gate=gate["gate"], open=bool(gate["open"]), until=until, why=str(gate["why"]))
