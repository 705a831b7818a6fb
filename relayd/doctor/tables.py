"""What the queue says of itself: nothing is lost, nothing is stuck.

Pure: an `Examination` of the tables becomes findings.  What a daemon would have done by now is a broken promise only
while one runs; without one it will be done at the next start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from relayd.doctor.finding import Finding, counted, error, information
from relayd.doctor.running import Running
from relayd.mail.back_off import BackOff
from relayd.spool.examination import MOST, Examination
from relayd.spool.queue import Lease

LONG = timedelta(hours=1)  # out of reach
SITES = 20  # that are told of
REBUILD = "report it; with the daemon stopped, move queue.db aside and run relayd recover"


def of_tables(found: Examination) -> Iterator[Finding]:
    """Say where tables do not agree with each other: that is always our own mistake."""
    for ids, one, several in (
        (
            found.miscounted,
            "message has a wrong count of its recipients",
            "messages have wrong counts of their recipients",
        ),
        (found.unfinished, "message waits for nothing and does not end", "messages wait for nothing and do not end"),
        (found.half_held, "message is held for some recipients only", "messages are held for some recipients only"),
        (found.without_message, "message is gone but its recipients are not", "messages are gone, recipients are not"),
        (found.without_lease, "message is in flight under no lease", "messages are in flight under no lease"),
    ):
        if ids:
            yield error("inconsistent", counted(ids, one, several, at_most=MOST), REBUILD)


def of_leases(leases: Sequence[Lease], state: Running) -> Iterator[Finding]:
    """Say what is in flight that the daemon which runs has not got in hand: its start ended all older leases."""
    strange = [lease for lease in leases if lease.recipients and lease.owner != state.owner]
    if strange and state.answers:
        recipients = sum(lease.recipients for lease in strange)
        detail = f"{recipients} recipients are in flight under leases of another daemon than the one that runs"
        yield error("lease", detail, "report it, and restart relayd: a start takes them over")


def of_what_is_late(found: Examination, state: Running) -> Iterator[Finding]:
    """Say what should have been done by now."""
    for what, ids, one, several in (
        (
            "lease",
            found.leased_too_long,
            "message is in flight under a lease that has ended",
            "messages are in flight under leases that have ended",
        ),
        (
            "expired",
            found.expired,
            "message still waits although its lifetime, or its deadline, is over",
            "messages still wait although their lifetime, or their deadline, is over",
        ),
        (
            "notice",
            found.owed,
            "message has waited for long for its notification to be made",
            "messages have waited for long for their notifications to be made",
        ),
        (
            "finished-body",
            found.not_unlinked,
            "finished message has a body still",
            "finished messages have bodies still",
        ),
    ):
        if ids and state.answers:
            advice = "see event=degraded and event=trouble in the log; report it, and restart relayd"
            yield error(what, counted(ids, one, several, at_most=MOST), advice)
        elif ids:
            yield information(what, counted(ids, one, several, at_most=MOST), "the next start sees to it")


def of_sites(back_offs: Sequence[BackOff], now: datetime) -> Iterator[Finding]:
    """Say which sites have been out of reach for long."""
    long = sorted((each for each in back_offs if now - each.since > LONG), key=lambda each: each.since)
    for known in long[:SITES]:
        since = f"{known.since:%Y-%m-%d %H:%M} UTC"
        detail = f"{known.site} is out of reach since {since}, {known.failures} times in a row: {known.reply}"
        yield information("site", detail, "nothing, if it is theirs; to try it at once: relayd queue retry --all")
    if len(long) > SITES:
        yield information("site", f"{len(long) - SITES} more sites are out of reach for long", "relayd queue shape")
