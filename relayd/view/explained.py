"""How an explanation is shown: for programs, with stable keys, and for people, in lines.

Pure.  What a peer said is printed with its control characters replaced, as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from relayd.explanation import Standing, blocking, written
from relayd.mail.address import Address
from relayd.mail.back_off import BackOff
from relayd.spool.queue import HistoryRow, Listed, Shape
from relayd.view.shape import back_off_summary
from relayd.view.shown import iso_time, lines, printable, short_time, summary

UNTIL_RELEASED = "relayd queue release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How many recipients wait somewhere, of how many destinations; `in_flight` are among `total`, `held` are not."""

    destinations: int
    total: int
    in_flight: int
    held: int
    oldest: datetime | None

    @classmethod
    def of(cls, shapes: Sequence[Shape]) -> Waiting:
        """Sum shapes."""
        return cls(
            destinations=len(shapes),
            total=sum(shape.total for shape in shapes),
            in_flight=sum(shape.in_flight for shape in shapes),
            held=sum(shape.held for shape in shapes),
            oldest=min((shape.oldest for shape in shapes), default=None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The gates on the way to one destination, in their order.

    `recipients` are those of a message that still wait; `here` and `at_site` say how much waits at the destination
    and at its whole site, where no message was asked for.
    """

    destination: str
    site: str | None
    gates: tuple[Standing, ...]
    recipients: tuple[str, ...] = ()
    here: Waiting | None = None
    at_site: Waiting | None = None
    back_off: BackOff | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What was asked for, and an explanation for each of its destinations.

    `daemon` tells whether one answered, None if there was nothing to ask.  `found` is the message; or the oldest that
    waits for an address, or the newest of those that do not any more; or the one that goes first to a domain.
    `messages` are the oldest that wait for an address, with that one; `left_out` is how many destinations of a message
    are not explained, since it has very many.
    """

    subject: str
    kind: str  # message, address, domain
    at: datetime
    daemon: bool | None
    found: Listed | HistoryRow | None = None
    expires: datetime | None = None
    messages: tuple[str, ...] = ()
    explanations: tuple[Explanation, ...] = ()
    left_out: int = 0

    @property
    def idle_address(self) -> bool:
        """Whether it is an address for which nothing waits."""
        return self.kind == "address" and not self.messages


# for programs


def explained_summary(explained: Explained) -> dict[str, Any]:
    """Return what was explained as JSON has it."""
    return {
        "subject": explained.subject,
        "kind": explained.kind,
        "at": iso_time(explained.at),
        "daemon": explained.daemon,
        "message": summary(explained.found) if explained.found else None,
        "expires": _iso(explained.expires),
        "messages": explained.messages,
        "explanations": [_summary(each) for each in explained.explanations],
        "left_out": explained.left_out,
    }


def _summary(explanation: Explanation) -> dict[str, Any]:
    blocked = blocking(explanation.gates)
    return {
        "destination": explanation.destination,
        "site": explanation.site,
        "recipients": explanation.recipients,
        "gates": [written(gate) | {"until": _iso(gate.until)} for gate in explanation.gates],
        "blocked_by": blocked.gate if blocked else None,
        "until": _iso(blocked.until) if blocked else None,
        "waiting": _counts(explanation.here),
        "waiting_at_site": _counts(explanation.at_site),
        "back_off": back_off_summary(explanation.back_off) if explanation.back_off else None,
    }


def _counts(waiting: Waiting | None) -> dict[str, Any] | None:
    if waiting is None:
        return None
    return {
        "destinations": waiting.destinations,
        "total": waiting.total,
        "in_flight": waiting.in_flight,
        "held": waiting.held,
        "oldest": _iso(waiting.oldest),
    }


def _iso(time: datetime | None) -> str | None:
    return iso_time(time) if time else None


# for people


def explained_lines(explained: Explained) -> Iterator[str]:
    """Yield what was explained in lines."""
    for line in _lines(explained):
        yield printable(line)


def _lines(explained: Explained) -> Iterator[str]:
    match explained.found:
        case Listed() as listed:
            if explained.kind == "domain":
                yield f"Of what waits for {explained.subject} this goes first:"
            yield from lines(listed)
            if explained.expires and explained.explanations:
                yield f"  what still waits is given up at {short_time(explained.expires)}"
            if not explained.explanations:
                yield "It waits for its notification to be made: all its recipients are final."
        case HistoryRow() as row:
            yield f"{row.id}  finished {short_time(row.finished)}: it waits for nothing"
            for recipient in row.recipients:
                if explained.kind == "message" or recipient.address.is_like(Address.parse(explained.subject)):
                    yield f"  {recipient.address}  {recipient.status.value}: {recipient.reply}"
            yield f"  what was tried, and said: relayd history {row.id}"
        case None:
            pass
    if explained.idle_address and explained.found is None:
        yield f"no mail for {explained.subject} waits"
    for message_id in explained.messages[1:]:
        yield f"{message_id} waits for {explained.subject} as well: relayd explain {message_id}"
    for number, explanation in enumerate(explained.explanations):
        if number or explained.found or explained.idle_address:
            yield ""
        yield from _explanation(explanation, explained)
    if explained.left_out:
        yield f"{explained.left_out} other destinations of it are not shown"


def _explanation(explanation: Explanation, explained: Explained) -> Iterator[str]:
    site = f"at the site {explanation.site}" if explanation.site else "at a site that is not known yet"
    yield f"{explanation.destination}, {site}"
    if explanation.here:
        yield f"  {_waiting(explanation.here)}"
    if explanation.at_site and explanation.at_site.destinations > 1:
        yield f"  at the site, of {explanation.at_site.destinations} destinations: {_waiting(explanation.at_site)}"
    blocked = blocking(explanation.gates)
    for gate in explanation.gates:
        yield _gate(gate, ">" if gate is blocked else " ")
        if gate.gate == "back-off" and explanation.back_off:
            yield from _evidence(explanation.back_off)
    yield _verdict(explanation, blocked, explained)


def _waiting(waiting: Waiting) -> str:
    if not (waiting.total or waiting.held):
        return "no mail waits"
    words = [f"{waiting.total} recipient{'' if waiting.total == 1 else 's'} wait{'s' if waiting.total == 1 else ''}"]
    if waiting.in_flight:
        words.append(f"{waiting.in_flight} of them in flight")
    if waiting.held:
        words.append(f"{waiting.held} held")
    if waiting.oldest:
        words.append(f"the oldest since {short_time(waiting.oldest)}")
    return ", ".join(words)


def _gate(gate: Standing, mark: str) -> str:
    until = f"until {short_time(gate.until)}: " if gate.until and not gate.open else ""
    return f"{mark} {'open' if gate.open else 'closed':6}  {gate.gate:15}  {until}{gate.why}".rstrip()


def _evidence(back_off: BackOff) -> Iterator[str]:
    peer = f", last at {back_off.peer}" if back_off.peer else ""
    yield f"{'':27}since {short_time(back_off.since)}{peer}"


def _id(explained: Explained) -> str:
    found = explained.found
    return found.message.id if isinstance(found, Listed) else explained.subject


def _verdict(explanation: Explanation, blocked: Standing | None, explained: Explained) -> str:
    here = explanation.here
    nothing = explained.idle_address or (here is not None and not (here.total or here.held))
    what = "New mail would wait" if nothing else "It waits"
    if blocked is None:
        return (
            "New mail would go out at once." if nothing else "Nothing keeps it waiting: it goes with its site's turn."
        )
    if blocked.until:
        left = max(blocked.until - explained.at, timedelta(0))
        seconds = timedelta(seconds=round(left.total_seconds()))
        return f"{what} for the {blocked.gate} until {short_time(blocked.until)}, {seconds} from now."
    return {
        "hold": f"It waits until it is released: {UNTIL_RELEASED} {_id(explained)}",
        "lease": "It is being sent.",
        "daemon": f"{what}, since {blocked.why}.",
    }.get(blocked.gate, f"{what} for the {blocked.gate}: {blocked.why}.")
