"""Events become log lines and figures.  It reads, it never decides, and it never fails."""

from __future__ import annotations

from typing import assert_never

from structlog.typing import FilteringBoundLogger

from relayd.mail.events import (
    Accepted,
    Attempted,
    ClockLeapt,
    Committed,
    Degraded,
    Event,
    FileLeft,
    FileRejected,
    HeldAfterDeaths,
    Lifecycle,
    Marked,
    NotificationDropped,
    Notified,
    Repeated,
    Restored,
    SiteBackedOff,
    SiteRecovered,
    TlsReported,
    Trouble,
    Warned,
    WorkerDied,
)
from relayd.mail.recipient import Recipient, Status
from relayd.mail.settlement import Action
from relayd.observe.counters import Counted, Counters
from relayd.observe.parts import Parts
from relayd.observe.values import Change, Seconds, WholeSeconds, utc

_OUTCOMES = {
    Status.DELIVERED: Counted.DELIVERED,
    Status.DEFERRED: Counted.DEFERRED,
    Status.FAILED: Counted.FAILED,
    Status.REMOVED: Counted.REMOVED,
}
_NOTIFICATIONS = {
    Action.FAILED: Counted.BOUNCES,
    Action.DELAYED: Counted.DELAY_WARNINGS,
    Action.RELAYED: Counted.SUCCESS_NOTICES,
}


class Observer:
    """An `Events`: call it with what happened.  `log` may be replaced."""

    def __init__(self, log: FilteringBoundLogger, counters: Counters, parts: Parts) -> None:
        self.log = log
        self._counters = counters
        self._parts = parts

    def __call__(self, event: Event) -> None:
        """Count an event and write its line."""
        self._count(event)
        self._parts(event)
        self._write(event)

    def _count(self, event: Event) -> None:
        add = self._counters.add
        match event:
            case Attempted():
                add(Counted.ATTEMPTS)
                if outcome := _OUTCOMES.get(event.recipient.status):
                    add(outcome)
            case Accepted():
                add(Counted.ACCEPTED)
                add(Counted.ACCEPTED_OCTETS, event.message.body.size)
            case Repeated():
                add(Counted.REPEATED)
            case FileRejected():
                add(Counted.REJECTED)
            case FileLeft():
                add(Counted.LEFT)
            case Notified():
                add(_NOTIFICATIONS[event.action])
            case NotificationDropped():
                add(Counted.UNTOLD)
            case SiteBackedOff():
                add(Counted.BACK_OFFS)
            case SiteRecovered():
                add(Counted.RECOVERIES)
            case Marked():
                add(Counted.MARKED)
            case HeldAfterDeaths():
                add(Counted.HELD)
            case WorkerDied():
                add(Counted.WORKER_DEATHS)
            case Degraded():
                add(Counted.DEGRADED)
            case Trouble():
                add(Counted.TROUBLE)
            case Committed() | Restored() | Lifecycle() | ClockLeapt() | Warned() | TlsReported():
                pass
            case _:
                assert_never(event)

    def _write(self, event: Event) -> None:
        log = self.log
        match event:
            case Attempted():
                self._write_attempt(event)
            case Accepted():
                self._write_accepted(event)
            case Repeated():
                self._write_repeated(event)
            case FileRejected():
                log.warning("rejected", file=event.file, reason=event.reason)
            case FileLeft():
                log.warning("left", file=event.file, reason=event.reason)
            case Notified():
                count = event.recipients
                log.info("notified", q=event.message_id, action=event.action.value, recipients=count, by=event.id)
            case NotificationDropped():
                log.warning("not-notified", q=event.message_id, reason=event.reason)
            case SiteBackedOff():
                until = utc(event.retry_at)
                log.warning(
                    "site-backs-off", site=event.site, failures=event.failures, until=until, reason=event.reason
                )
            case SiteRecovered():
                log.info("site-recovered", site=event.site)
            case Marked():
                log.warning("possible-duplicate", q=event.id, r=event.address)
            case HeldAfterDeaths():
                log.error("held", q=event.id, deaths=event.deaths)
            case WorkerDied():
                log.error("worker-died", pid=event.pid, how=event.how, relayers=event.relayers)
            case Degraded():
                log.error("degraded", part=event.part, reason=event.reason)
            case Restored():
                log.info("restored", part=event.part)
            case Lifecycle():
                log.info(event.state, detail=event.detail or None)
            case ClockLeapt():
                if event.set_by:
                    log.warning("clock-set", by=Change(round(event.set_by.total_seconds())))
                if event.lost:
                    log.info("time-lost", lost=WholeSeconds(round(event.lost.total_seconds())))
            case Warned():
                log.warning("warning", about=event.about, detail=event.detail)
            case TlsReported():
                self._write_report(event)
            case Trouble():
                log.error("trouble", part=event.part, detail=event.detail)
            case Committed():
                pass
            case _:
                assert_never(event)

    def _write_accepted(self, event: Accepted) -> None:
        message = event.message
        deadline = message.envelope.deadline
        self.log.info(
            "accepted",
            q=message.id,
            sender=message.envelope.reverse_path or "<>",
            recipients=len(message.envelope.recipients),
            size=message.body.size,
            deadline=utc(deadline.at) if deadline else None,
            file=event.file or None,
        )

    def _write_repeated(self, event: Repeated) -> None:
        key = event.key
        self.log.info(
            "repeated", q=event.id, key=key.text if key else None, uid=key.owner if key else None, file=event.file
        )

    def _write_report(self, event: TlsReported) -> None:
        write = self.log.warning if event.trouble else self.log.info
        write(
            "tls-report-given-up" if event.trouble else "tls-reported",
            q=event.id or None,
            domain=event.domain,
            day=event.day.isoformat(),
            to=event.to,
            sessions=event.sessions,
            failed=event.failed,
            reason=event.trouble or None,
        )

    def _write_attempt(self, event: Attempted) -> None:
        """The line of docs/operations.md; `host` and `addr` are missing where no connection was made."""
        recipient = event.recipient
        host, bracket, rest = recipient.peer.partition("[")
        write = self.log.warning if recipient.status is Status.FAILED else self.log.info
        write(
            "",
            q=event.id,
            r=recipient.address,
            status=recipient.status.value,
            dsn=recipient.dsn or None,
            n=recipient.attempts,
            host=host or None,
            addr=bracket + rest or None,
            tls=event.tls,
            cipher=event.tls.cipher if event.tls else None,
            took=Seconds(event.seconds),
            age=Seconds(event.age),
            altered=event.altered or None,
            next=_next(recipient),
            dup="possible" if recipient.possible_duplicate else None,
            reply=recipient.reply,
        )


def _next(recipient: Recipient) -> WholeSeconds | None:
    if recipient.status is not Status.DEFERRED or not recipient.due or not recipient.attempted:
        return None
    return WholeSeconds(round(max((recipient.due - recipient.attempted).total_seconds(), 0)))
