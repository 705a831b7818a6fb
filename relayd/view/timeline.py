"""What became of a message: its arrival, every attempt that is remembered, and its end.

Pure, but for `timelines`, which asks the queue.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from relayd.mail.address import Address
from relayd.mail.attempt import PastAttempt, PastOutcome
from relayd.mail.errors import RelaydError
from relayd.mail.recipient import Recipient
from relayd.spool.queue import HistoryRow, Listed, Queue
from relayd.view.shown import iso_time, printable, short_time, standing, summary
from relayd.view.transcripts import transcript_lines, transcript_summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """A message and its attempts; of the recipients only `address`, if it is given."""

    found: Listed | HistoryRow
    attempts: Sequence[PastAttempt]
    address: Address | None = None

    @property
    def all_recipients(self) -> tuple[Recipient, ...]:
        """All of the message."""
        found = self.found
        return found.recipients if isinstance(found, HistoryRow) else found.message.envelope.recipients

    @property
    def recipients(self) -> tuple[Recipient, ...]:
        """Those that are asked for."""
        return tuple(one for one in self.all_recipients if self.address is None or one.address.is_like(self.address))

    def of(self, recipient: Recipient) -> Iterator[tuple[PastAttempt, PastOutcome]]:
        """Yield the attempts in which a recipient took part."""
        for attempt in self.attempts:
            for outcome in attempt.outcomes:
                if recipient.number in outcome.numbers:
                    yield attempt, outcome


async def timelines(queue: Queue, subject: str, limit: int) -> list[Timeline]:
    """Return that of a message, by its id, or those of the `limit` newest messages to an address.

    Raises:
        RelaydError: there is none; or it is no address (InvalidAddress).
    """
    address = Address.parse(subject) if "@" in subject else None
    ids = await queue.messages_to(address, limit) if address else [subject]
    found = []
    for message_id in ids:
        if (message := await queue.show(message_id)) is not None:
            found.append(Timeline(found=message, attempts=await queue.attempts(message_id), address=address))
    if not found and address:
        raise RelaydError(f"no message to {address} in the queue, or finished within relay.history")
    if not found:
        raise RelaydError(f"no message {printable(subject)} in the queue or its history")
    return found


def timeline_summary(timeline: Timeline) -> dict[str, Any]:
    """Return what `--json` prints: the message as `queue show` has it, its recipients with their attempts, and the
    transcripts once for all who took part."""
    shown = summary(timeline.found)
    numbered = zip(timeline.all_recipients, shown["recipients"], strict=True)
    shown["recipients"] = [
        each | {"timeline": [_attempt_summary(*one) for one in timeline.of(recipient)]}
        for recipient, each in numbered
        if recipient in timeline.recipients
    ]
    wanted = {recipient.number for recipient in timeline.recipients}
    shown["transcripts"] = [
        {"at": iso_time(attempt.tried.ended), "lines": transcript_summary(attempt.tried.transcript)}
        for attempt in timeline.attempts
        if attempt.tried.transcript and any(wanted & set(outcome.numbers) for outcome in attempt.outcomes)
    ]
    return shown


def _attempt_summary(attempt: PastAttempt, outcome: PastOutcome) -> dict[str, Any]:
    tried = attempt.tried
    return {
        "at": iso_time(tried.ended),
        "seconds": tried.seconds,
        "host": tried.peer,
        "tls": tried.tls,
        "altered": tried.altered,
        "status": outcome.status.value,
        "dsn": outcome.dsn,
        "reply": outcome.reply,
        "possible_duplicate": outcome.possible_duplicate,
    }


def timeline_lines(timeline: Timeline, *, transcripts: bool) -> Iterator[str]:
    """Yield it for people."""
    shown = summary(timeline.found)
    yield f"{shown['id']} from {shown['sender'] or '<>'}, {shown['size']} octets, arrived {shown['arrived'][:19]}Z"
    for recipient in timeline.recipients:
        yield from _recipient_lines(timeline, recipient, held=shown["held"])
    if shown["finished"]:
        yield f"finished {shown['finished'][:19]}Z"
    if transcripts:
        yield from _transcript_lines(timeline)


def _recipient_lines(timeline: Timeline, recipient: Recipient, *, held: bool) -> Iterator[str]:
    yield f"to {recipient.address}: {standing(recipient, held=held)}"
    remembered = list(timeline.of(recipient))
    if recipient.attempts > len(remembered):
        missing = recipient.attempts - len(remembered)
        yield f"  {missing} earlier attempt{'' if missing == 1 else 's'} not remembered"
    for attempt, outcome in remembered:
        tried = attempt.tried
        where = f"{tried.peer or 'no connection'}{f' TLS {tried.tls}' if tried.tls else ''}"
        mark = ", possible duplicate" if outcome.possible_duplicate else ""
        yield f"  {short_time(tried.ended)} {outcome.status.value}{mark} by {where} in {tried.seconds:.3f} s"
        yield f"    {outcome.reply}"
    last = remembered[-1][1].reply if remembered else ""
    if recipient.status.final and recipient.reply and recipient.reply != last:
        yield f"  {recipient.status.value}: {recipient.reply}"


def _transcript_lines(timeline: Timeline) -> Iterator[str]:
    wanted = {recipient.number for recipient in timeline.recipients}
    for attempt in timeline.attempts:
        if attempt.tried.transcript and any(wanted & set(outcome.numbers) for outcome in attempt.outcomes):
            yield ""
            yield f"What was said up to {short_time(attempt.tried.ended)}, with the seconds since the first line:"
            yield from transcript_lines(attempt.tried.transcript)


def printed(timelines: Sequence[Timeline], *, transcripts: bool) -> Iterator[str]:
    """Yield all of them, with a line between two, fit for a terminal."""
    for number, timeline in enumerate(timelines):
        if number:
            yield ""
        for line in timeline_lines(timeline, transcripts=transcripts):
            yield printable(line)
