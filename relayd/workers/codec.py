"""How the nouns cross between the daemon and its workers: as tuples of plain values, which `marshal` takes.

Pure.  Both ends are the same relayd on the same interpreter, so there are no versions.  What is done for every message
is written out by hand: a delivery costs a third of what pickle takes.  A noun that gains a field gains it here, in its
`pack_` and in its `_of`; tests/workers/test_codec.py fills every field of each and fails until that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.deadline import Deadline, DeadlineMode
from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures, Histogram, Phase
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome, Scope
from relayd.mail.recipient import Notify, Recipient, Status
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.tls import (
    Evidence,
    Proof,
    TlsWish,
)
from relayd.mail.transcript import Line, Speaker, Transcript
from relayd.relay.relayer import Ended

Packed: TypeAlias = tuple[Any, ...]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATUS = {status.value: status for status in Status}
_SCOPE = {scope.value: scope for scope in Scope}
_WISH = {wish.value: wish for wish in TlsWish}
_PHASE = {phase.value: phase for phase in Phase}
_PROOF = {proof.value: proof for proof in Proof}
_FAILURE: dict[str, type[Deferred] | type[Failed]] = {"deferred": Deferred, "failed": Failed}


def _pack_time(time: datetime | None) -> int | None:
    return None if time is None else (time - _EPOCH) // _MICROSECOND


def _time_of(packed: int | None) -> datetime | None:
    return None if packed is None else _EPOCH + timedelta(0, 0, packed)


# deliveries


def pack_delivery(delivery: Delivery) -> Packed:
    """See the module."""
    sender = delivery.reverse_path
    return (
        delivery.id,
        (sender.local_part, sender.domain) if sender else None,
        [_pack_recipient(one) for one in delivery.recipients],
        _pack_body(delivery.body),
        (delivery.arrived - _EPOCH) // _MICROSECOND,
        delivery.lease,
        delivery.ret,
        delivery.envid,
        delivery.notification,
        _pack_deadline(delivery.deadline),
        delivery.tls.value,
    )


def delivery_of(packed: Packed) -> Delivery:
    """Undo `pack_delivery`."""
    message_id, sender, recipients, body, arrived, lease, ret, envid, notification, deadline, tls = packed
    return Delivery(
        id=message_id,
        reverse_path=Address(*sender) if sender else None,
        recipients=tuple([_recipient_of(one) for one in recipients]),
        body=_body_of(body),
        arrived=_EPOCH + timedelta(0, 0, arrived),
        lease=lease,
        ret=ret,
        envid=envid,
        notification=notification,
        deadline=_deadline_of(deadline),
        tls=_WISH[tls],
    )


def _pack_deadline(deadline: Deadline | None) -> Packed | None:
    return None if deadline is None else (_pack_time(deadline.at), deadline.mode.value, deadline.trace)


def _deadline_of(packed: Packed | None) -> Deadline | None:
    if packed is None:
        return None
    at, mode, trace = packed
    return Deadline(at=_EPOCH + timedelta(0, 0, at), mode=DeadlineMode(mode), trace=trace)


def _pack_recipient(one: Recipient) -> Packed:
    return (
        one.number,
        one.address.local_part,
        one.address.domain,
        None if one.notify is None else one.notify.value,
        one.orcpt,
        one.status.value,
        one.attempts,
        _pack_time(one.due),
        one.reply,
        one.dsn,
        one.peer,
        _pack_time(one.attempted),
        one.possible_duplicate,
        one.via,
    )


def _recipient_of(packed: Packed) -> Recipient:
    number, local_part, domain, notify, orcpt, status, attempts, due, reply, dsn, peer, attempted, duplicate, via = (
        packed
    )
    return Recipient(
        number=number,
        address=Address(local_part, domain),
        notify=None if notify is None else Notify(notify),
        orcpt=orcpt,
        status=_STATUS[status],
        attempts=attempts,
        due=_time_of(due),
        reply=reply,
        dsn=dsn,
        peer=peer,
        attempted=_time_of(attempted),
        possible_duplicate=duplicate,
        via=via,
    )


def _pack_body(body: Body) -> Packed:
    return (
        body.size,
        body.wire_size,
        body.header_end,
        body.cuts,
        body.prefix,
        body.eight_bit,
        body.eight_bit_header,
        body.long_lines,
        body.nul,
        body.canonical,
    )


def _body_of(packed: Packed) -> Body:
    size, wire_size, header_end, cuts, prefix, eight_bit, eight_bit_header, long_lines, nul, canonical = packed
    return Body(
        size=size,
        wire_size=wire_size,
        header_end=header_end,
        cuts=cuts,
        prefix=prefix,
        eight_bit=eight_bit,
        eight_bit_header=eight_bit_header,
        long_lines=long_lines,
        nul=nul,
        canonical=canonical,
    )


# outcomes


def pack_outcome(outcome: Outcome) -> Packed:
    """See the module."""
    if isinstance(outcome, Delivered):
        return ("delivered", _pack_reply(outcome.reply))
    status = outcome.status
    shared = (
        None if outcome.reply is None else _pack_reply(outcome.reply),
        outcome.scope.value,
        outcome.reason,
        None if status is None else (status.category, status.subject, status.detail),
    )
    if isinstance(outcome, Deferred):
        return ("deferred", *shared, outcome.possible_duplicate)
    return ("failed", *shared)


def outcome_of(packed: Packed) -> Outcome:
    """Undo `pack_outcome`."""
    if packed[0] == "delivered":
        return Delivered(_reply_of(packed[1]))
    return failure_of(packed)


def failure_of(packed: Packed) -> Deferred | Failed:
    """Undo `pack_outcome` for what cannot be Delivered."""
    kind, reply, scope, reason, status, *rest = packed
    return _FAILURE[kind](
        None if reply is None else _reply_of(reply),
        _SCOPE[scope],
        reason,
        None if status is None else EnhancedStatus(*status),
        *rest,
    )


def _pack_reply(reply: Reply) -> Packed:
    status = reply.status
    return (reply.code, reply.text, None if status is None else (status.category, status.subject, status.detail))


def _reply_of(packed: Packed) -> Reply:
    code, text, status = packed
    return Reply(code, text, None if status is None else EnhancedStatus(*status))


# what a relayer reports; the delivery stays with the daemon


def pack_attempt(attempt: Attempt) -> Packed:
    """Pack all but the delivery."""
    return (
        {number: pack_outcome(outcome) for number, outcome in attempt.outcomes.items()},
        (attempt.ended - _EPOCH) // _MICROSECOND,
        attempt.peer,
        _pack_evidence(attempt.tls),
        attempt.relays_dsn,
        attempt.relays_deadline,
        attempt.seconds,
        attempt.altered,
        _pack_time(attempt.retry_at),
        _pack_transcript(attempt.transcript),
    )


def attempt_of(packed: Packed, delivery: Delivery) -> Attempt:
    """Undo `pack_attempt`."""
    outcomes, ended, peer, tls, relays_dsn, relays_deadline, seconds, altered, retry_at, transcript = packed
    return Attempt(
        delivery=delivery,
        outcomes={number: outcome_of(outcome) for number, outcome in outcomes.items()},
        ended=_EPOCH + timedelta(0, 0, ended),
        peer=peer,
        tls=_evidence_of(tls),
        relays_dsn=relays_dsn,
        relays_deadline=relays_deadline,
        seconds=seconds,
        altered=altered,
        retry_at=_time_of(retry_at),
        transcript=_transcript_of(transcript),
    )


def _pack_transcript(transcript: Transcript) -> Packed:
    return tuple([(line.after, line.speaker.value, line.text) for line in transcript])


def _transcript_of(packed: Packed) -> Transcript:
    return tuple([Line(after, Speaker(speaker), text) for after, speaker, text in packed])


def _pack_evidence(evidence: Evidence | None) -> Packed | None:
    if evidence is None:
        return None
    return (evidence.version, evidence.cipher, evidence.proof.value, evidence.matched)


def _evidence_of(packed: Packed | None) -> Evidence | None:
    if packed is None:
        return None
    version, cipher, proof, matched = packed
    return Evidence(version=version, cipher=cipher, proof=_PROOF[proof], matched=matched)


# what a run measured


def pack_figures(figures: Figures) -> Packed:
    """See the module."""
    waits = [(phase.value, each.bounds, each.counts, each.total) for phase, each in figures.waits.items()]
    return waits, list(figures.connections.items())


def figures_of(packed: Packed) -> Figures:
    """Undo `pack_figures`."""
    waits, connections = packed
    return Figures(
        waits={_PHASE[phase]: Histogram(bounds, counts, total) for phase, bounds, counts, total in waits},
        connections=dict(connections),
    )


# the end of a run


def pack_ended(ended: Ended, numbers: Mapping[str, int]) -> Packed:
    """`numbers` has the place of each delivery in the run, by its id."""
    return (
        [numbers[delivery.id] for delivery in ended.undone],
        ended.settled,
        ended.delivered,
        None if ended.failure is None else pack_outcome(ended.failure),
        ended.peer,
        None if ended.throttled is None else _pack_reply(ended.throttled),
        _pack_transcript(ended.transcript),
    )


def ended_of(packed: Packed, deliveries: Sequence[Delivery]) -> Ended:
    """Undo `pack_ended` with the deliveries of the run."""
    undone, settled, delivered, failure, peer, throttled, transcript = packed
    return Ended(
        undone=tuple([deliveries[number] for number in undone]),
        settled=settled,
        delivered=delivered,
        failure=None if failure is None else failure_of(failure),
        peer=peer,
        throttled=None if throttled is None else _reply_of(throttled),
        transcript=_transcript_of(transcript),
    )
