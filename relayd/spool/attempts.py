"""What is remembered of attempts, for people: each message's timeline, for as long as the message or its history row.

Each function is a job or a look-up on a `Database`.  The common case, one recipient delivered at the first try, costs
a few octets of its history row; whatever else happened is a row of `attempts`.  Bounds: of the deliveries that begin
with the same recipient, the last `ATTEMPTS_KEPT` are remembered, and the transcripts of the last `TRANSCRIPTS_KEPT`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from relayd.mail.address import Address, folded
from relayd.mail.attempt import PastAttempt, PastOutcome, Tried
from relayd.mail.recipient import Recipient, Status
from relayd.mail.transcript import Line, Speaker, Transcript
from relayd.spool.database import AMONG, Database, as_set, insert
from relayd.spool.rows import compacted, microseconds, storable, time_of

ATTEMPTS_KEPT = 20
TRANSCRIPTS_KEPT = 3

ATTEMPT = "ended, seconds, peer, tls, altered, outcomes, transcript"
INTO_ATTEMPTS = f"INSERT OR REPLACE INTO attempts (message, first, {ATTEMPT})"
FORGET_OLDER = """
    DELETE FROM attempts WHERE message = ?1 AND first = ?2 AND ended <= (
        SELECT ended FROM attempts WHERE message = ?1 AND first = ?2 ORDER BY ended DESC LIMIT 1 OFFSET ?3)
"""
FORGET_TRANSCRIPTS = """
    UPDATE attempts SET transcript = '' WHERE message = ?1 AND first = ?2 AND transcript <> '' AND ended <= (
        SELECT ended FROM attempts WHERE message = ?1 AND first = ?2 ORDER BY ended DESC LIMIT 1 OFFSET ?3)
"""
SELECT_OF = f"SELECT {ATTEMPT} FROM attempts WHERE message = ? ORDER BY ended, first"
SELECT_ONLY = "SELECT tried, recipients FROM history WHERE id = ? AND tried <> ''"
SELECT_TO = """
    SELECT DISTINCT message FROM recipients
    WHERE (destination = ?1 OR destination LIKE '%/' || ?1) AND lower(local_part) = ?2
    UNION
    SELECT id FROM history WHERE instr(lower(recipients), ?3) > 0
    ORDER BY 1 DESC LIMIT ?4
"""


def only(tried: Tried | None) -> str:
    """Return an attempt without a transcript as a history row keeps it, if it was the only one of its recipient."""
    if tried is None:
        return ""
    return _json([microseconds(tried.ended), round(tried.seconds, 3), storable(tried.peer), tried.tls, tried.altered])


class Remembered(NamedTuple):
    """An attempt, and the recipients of which it changed something, as they are after it."""

    message_id: str
    tried: Tried
    recipients: list[Recipient]

    @property
    def first(self) -> int:
        """The lowest number."""
        return min(recipient.number for recipient in self.recipients)

    @property
    def goes_on(self) -> bool:
        """Whether others will follow."""
        return any(recipient.status is Status.DEFERRED for recipient in self.recipients)


def remember(db: Database, attempts: Sequence[Remembered]) -> None:
    """Keep attempts; forget what there is too much of."""
    insert(db, INTO_ATTEMPTS, [_values(each) for each in attempts])
    going_on = [(each.message_id, each.first) for each in attempts if each.goes_on]
    db.executemany(FORGET_OLDER, [(*each, ATTEMPTS_KEPT) for each in going_on])
    db.executemany(FORGET_TRANSCRIPTS, [(*each, TRANSCRIPTS_KEPT) for each in going_on])


def _values(attempt: Remembered) -> tuple[Any, ...]:
    tried = attempt.tried
    return (
        attempt.message_id,
        attempt.first,
        microseconds(tried.ended),
        round(tried.seconds, 3),
        storable(tried.peer),
        tried.tls,
        tried.altered,
        _json([_row(outcome) for outcome in outcomes(attempt.recipients)]),
        _packed(tried.transcript),
    )


def outcomes(recipients: Iterable[Recipient]) -> tuple[PastOutcome, ...]:
    """Return what became of recipients, those together of whom the same was said."""
    alike: dict[tuple[Status, str, str, bool], list[int]] = {}
    for one in recipients:
        alike.setdefault((one.status, one.dsn, storable(one.reply), one.possible_duplicate), []).append(one.number)
    return tuple(
        PastOutcome(numbers=tuple(numbers), status=status, dsn=dsn, reply=reply, possible_duplicate=marked)
        for (status, dsn, reply, marked), numbers in alike.items()
    )


def of_message(db: Database, message_id: str) -> list[PastAttempt]:
    """Return what is remembered of a message's attempts, in the order in which they ended."""
    found = [_attempt_of(row) for row in db.execute(SELECT_OF, (message_id,))]
    row = db.execute(SELECT_ONLY, (message_id,)).fetchone()
    if row is not None:
        ended, seconds, peer, tls, altered = json.loads(row[0])
        tried = Tried(ended=time_of(ended), seconds=seconds, peer=peer, tls=tls, altered=altered)
        found.append(PastAttempt(tried=tried, outcomes=outcomes(compacted(row[1]))))
    return found


def forget(db: Database, message_ids: Collection[str]) -> None:
    """Drop what is remembered of messages whose history is forgotten."""
    db.execute(f"DELETE FROM attempts WHERE message {AMONG}", (as_set(message_ids),))


def messages_to(db: Database, address: Address, limit: int) -> list[str]:
    """Return the ids of the `limit` newest messages to an address, waiting or finished.  It reads all the history: a
    second or so for a million."""
    kept = folded(f",{_json(storable(address.local_part))},{_json(address.domain)},")
    found = db.execute(SELECT_TO, (address.domain, folded(address.local_part), kept, limit))
    return [row[0] for row in found]


def _attempt_of(row: Any) -> PastAttempt:
    ended, seconds, peer, tls, altered, kept, transcript = row
    tried = Tried(
        ended=time_of(ended),
        seconds=seconds,
        peer=peer,
        tls=tls,
        altered=altered,
        transcript=_transcript_of(transcript),
    )
    return PastAttempt(tried=tried, outcomes=tuple(map(_outcome_of, json.loads(kept))))


def _row(outcome: PastOutcome) -> list[Any]:
    status = outcome.status.value
    return [outcome.numbers, status, outcome.dsn, outcome.reply, int(outcome.possible_duplicate)]


def _outcome_of(row: list[Any]) -> PastOutcome:
    numbers, status, dsn, reply, marked = row
    return PastOutcome(
        numbers=tuple(numbers), status=Status(status), dsn=dsn, reply=reply, possible_duplicate=bool(marked)
    )


def _packed(transcript: Transcript) -> str:
    if not transcript:
        return ""
    return _json([[round(line.after, 3), line.speaker.value, storable(line.text)] for line in transcript])


def _transcript_of(packed: str) -> Transcript:
    lines = json.loads(packed) if packed else []
    return tuple(Line(after, Speaker(speaker), text) for after, speaker, text in lines)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
