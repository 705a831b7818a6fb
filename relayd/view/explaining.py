"""Why a message waits, or the mail for an address or a domain, and until when: who is asked, and what they said.

What the queue knows is read; how the gates of a site stand is asked of the daemon, if one runs, since only it knows.
Without one the queue still tells of holds, retry times and sites that are out of reach.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from relayd.attempt.retry import expires
from relayd.attempt.settings import RetrySettings
from relayd.explanation import (
    Standing,
    in_order,
    of_back_off,
    of_daemon,
    of_hold,
    of_last_route,
    of_lease,
    of_retry,
    of_unmet_policy,
    read,
)
from relayd.mail.address import Address, parse_domain
from relayd.mail.back_off import BackOff
from relayd.mail.errors import RelaydError
from relayd.mail.message import arrival_of
from relayd.mail.recipient import Recipient
from relayd.spool.queue import HistoryRow, Lease, Listed, Queue
from relayd.view.explained import Explained, Explanation, Waiting
from relayd.view.shown import short_time

MOST = 20  # destinations of a message that are explained
MESSAGES = 10  # that wait for an address


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the daemon said of one destination; `begun` tells since when it has leases in hand."""

    owner: str
    degraded: tuple[str, ...]
    site: str | None
    gates: tuple[Standing, ...]
    begun: Mapping[int, datetime]

    @classmethod
    def read(cls, said: Mapping[str, Any] | None) -> _Answer | None:
        """Return what was said; None if nothing was, or by a daemon of another version in words that we do not know."""
        if said is None:
            return None
        try:
            return cls(
                owner=str(said["owner"]),
                degraded=tuple(map(str, said["degraded"])),
                site=said["site"],
                gates=tuple(map(read, said["gates"])),
                begun={int(lease): datetime.fromisoformat(at) for lease, at in said["begun"].items()},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class _Daemon:
    """What the daemon answered for each destination; nothing if none answered."""

    answers: Mapping[str, _Answer]
    holder: str | None

    @property
    def owner(self) -> str | None:
        """The name of its start."""
        return next((answer.owner for answer in self.answers.values()), None)

    def begun(self, lease: int) -> datetime | None:
        """Return since when it has a lease in hand."""
        return next((answer.begun[lease] for answer in self.answers.values() if lease in answer.begun), None)

    def standing(self) -> Standing:
        """Return whether it runs."""
        degraded = sorted({part for answer in self.answers.values() for part in answer.degraded})
        return of_daemon(answers=bool(self.answers), holder=self.holder, degraded=degraded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Whom to ask.  `ask` is a running daemon, which returns None if it does not answer; `holder` returns the process
    that has the spool, if any."""

    queue: Queue
    ask: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]]
    holder: Callable[[], str | None]
    retry: RetrySettings


async def explained(sources: Sources, subject: str) -> Explained:
    """Explain a message, by its id, or what waits for an address or a domain.

    Raises:
        RelaydError: there is no such message; or it is no address and no domain (InvalidAddress).
    """
    queue = sources.queue
    found = None if "@" in subject else await queue.show(subject)
    if found is not None:
        return await _message(sources, subject, found)
    if "@" in subject:
        return await _address(sources, subject, Address.parse(subject))
    if is_id(subject):
        raise RelaydError(f"no message {subject} in the queue or its history")
    return await _domain(sources, subject, parse_domain(subject))


def is_id(text: str) -> bool:
    """Whether it may be the id of a message."""
    try:
        arrival_of(text)
    except (ValueError, OverflowError):
        return False
    return True


# a message


async def _message(sources: Sources, subject: str, found: Listed | HistoryRow) -> Explained:
    queue = sources.queue
    now = datetime.now(UTC)
    if isinstance(found, HistoryRow):
        return Explained(subject=subject, kind="message", at=now, daemon=None, found=found)
    message = found.message
    waiting: dict[str, list[Recipient]] = {}
    for recipient in message.envelope.recipients:
        if not recipient.status.final:
            waiting.setdefault(recipient.destination, []).append(recipient)
    shown = list(waiting)[:MOST]
    leases = await queue.leased(message.id)
    daemon = await _ask(sources, shown, [lease.number for lease in leases.values()])
    known = await _Known.of(queue, shown)
    return Explained(
        subject=subject,
        kind="message",
        at=now,
        daemon=bool(daemon.answers) if shown else None,
        found=found,
        expires=expires(sources.retry, message.arrived, message.envelope.deadline),
        explanations=tuple(
            _of_message(found, destination, waiting[destination], leases, known, daemon, now) for destination in shown
        ),
        left_out=len(waiting) - len(shown),
    )


def _of_message(
    listed: Listed,
    destination: str,
    recipients: list[Recipient],
    leases: Mapping[int, Lease],
    known: _Known,
    daemon: _Daemon,
    now: datetime,
) -> Explanation:
    held = [leases[recipient.number] for recipient in recipients if recipient.number in leases]
    site, gates = known.gates(destination, daemon, now)
    gates += [
        of_hold(held=listed.message.held, reason=listed.hold_reason),
        of_retry(recipients, now),
        of_lease(len(held), len(recipients), _in_hand(held[0], daemon, now) if held else ""),
    ]
    return Explanation(
        destination=destination,
        site=site,
        gates=tuple(in_order(gates)),
        recipients=tuple(str(recipient.address) for recipient in recipients),
        back_off=known.back_offs.get(site or ""),
    )


def _in_hand(lease: Lease, daemon: _Daemon, now: datetime) -> str:
    """Say who has mail that is in flight."""
    if daemon.owner is None and daemon.holder is not None:
        return f"under lease {lease.number}"
    if daemon.owner != lease.owner:
        return f"under lease {lease.number} of a daemon that has ended; the next start takes it over"
    begun = daemon.begun(lease.number)
    since = f"for {max(now - begun, timedelta(0)).total_seconds():.0f} s, " if begun else ""
    return f"{since}under lease {lease.number}, until {short_time(lease.ends)} unless renewed"


# an address or a domain


async def _address(sources: Sources, subject: str, address: Address) -> Explained:
    """Explain the oldest message that waits for an address, or show what became of the newest that did."""
    queue = sources.queue
    waiting = tuple(await queue.waiting_for(address, MESSAGES))
    there = await _destination(sources, subject, address.domain, waiting)
    ids = waiting[:1] or await queue.messages_to(address, 1)
    found = await queue.show(ids[0]) if ids else None
    return await _by_a_message(sources, there, found, lambda one: one.address.is_like(address))


async def _domain(sources: Sources, subject: str, domain: str) -> Explained:
    """Explain the message that goes first of those that wait for a domain."""
    there = await _destination(sources, subject, domain, None)
    first = await sources.queue.foremost(domain)
    found = await sources.queue.show(first) if first else None
    if not isinstance(found, Listed):
        return there
    return await _by_a_message(sources, there, found, lambda one: one.destination == domain)


async def _by_a_message(
    sources: Sources, there: Explained, found: Listed | HistoryRow | None, meant: Callable[[Recipient], bool]
) -> Explained:
    """Explain what waits by one message of it, and those of its recipients that are meant."""
    if not isinstance(found, Listed):
        return replace(there, found=found)
    envelope = found.message.envelope
    only = replace(envelope, recipients=tuple(filter(meant, envelope.recipients)))
    shown = await _message(sources, there.subject, replace(found, message=replace(found.message, envelope=only)))
    if not shown.explanations:  # it ended meanwhile
        return there
    (asked,) = there.explanations
    explanations = tuple(replace(each, here=asked.here, at_site=asked.at_site) for each in shown.explanations[:1])
    return replace(shown, kind=there.kind, messages=there.messages, explanations=explanations)


async def _destination(sources: Sources, subject: str, destination: str, messages: tuple[str, ...] | None) -> Explained:
    queue = sources.queue
    now = datetime.now(UTC)
    daemon = await _ask(sources, [destination], [])
    known = await _Known.of(queue, [destination])
    site, gates = known.gates(destination, daemon, now)
    shapes = await queue.shape(now)
    explanation = Explanation(
        destination=destination,
        site=site,
        gates=tuple(in_order(gates)),
        here=Waiting.of([shape for shape in shapes if shape.destination == destination]),
        at_site=Waiting.of([shape for shape in shapes if shape.site == site]) if site else None,
        back_off=known.back_offs.get(site or ""),
    )
    return Explained(
        subject=subject,
        kind="domain" if messages is None else "address",
        at=now,
        daemon=bool(daemon.answers),
        messages=messages or (),
        explanations=(explanation,),
    )


# who knows


@dataclass(frozen=True, slots=True)
class _Known:
    """What the queue remembers: to which sites destinations led last, and which sites are out of reach."""

    sites: Mapping[str, str]
    back_offs: Mapping[str, BackOff]

    @classmethod
    async def of(cls, queue: Queue, destinations: Collection[str]) -> _Known:
        """Ask the queue."""
        return cls(await queue.sites_of(destinations), {each.site: each for each in await queue.sites()})

    def gates(self, destination: str, daemon: _Daemon, now: datetime) -> tuple[str | None, list[Standing]]:
        """Return a destination's site and its gates, as the daemon tells of them, else as far as the queue does."""
        answer = daemon.answers.get(destination)
        site = answer.site if answer is not None else self.sites.get(destination)
        back_off = self.back_offs.get(site or "")
        if answer is not None:
            gates = [daemon.standing(), *answer.gates]
        else:
            gates = [daemon.standing(), of_last_route(site, back_off)]
            if all(gate.open for gate in gates[1:]):
                gates.append(of_back_off(back_off, now))
        if (unmet := of_unmet_policy(back_off, now)) is not None:
            gates = [*(gate for gate in gates if gate.gate != "policy"), unmet]
        return site, gates


async def _ask(sources: Sources, destinations: Collection[str], leases: Collection[int]) -> _Daemon:
    questions = [{"ask": "gates", "destination": each, "leases": sorted(set(leases))} for each in destinations]
    said = await asyncio.gather(*(sources.ask(question) for question in questions))
    answers = {each: _Answer.read(answer) for each, answer in zip(destinations, said, strict=True)}
    understood = {each: answer for each, answer in answers.items() if answer is not None}
    return _Daemon(understood, sources.holder())
