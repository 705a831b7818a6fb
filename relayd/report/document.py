"""A report as JSON (RFC 8460 section 4.4), compressed (section 5.2), with its name (section 5.1).

Pure: the same counts make the same octets, so that a report that is sent twice can be told to be one.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from relayd.mail.address import Address
from relayd.report.counting import Failure, Summary, Tally

MEDIA_TYPE = "application/tlsrpt+gzip"  # section 6.5
_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a report is about: a day, by UTC, of a domain; and who has counted.

    `domain` is the one that asks for it.  `hostname` is that of the machine that counted, `contact` a mailbox of those
    who answer for it: reports are named after its domain.
    """

    day: date
    domain: str
    organization: str
    contact: Address
    hostname: str

    @property
    def submitter(self) -> str:
        """The domain that reports."""
        return self.contact.domain

    @property
    def id(self) -> str:
        """The report's own name, a msg-id without its brackets: the same for the same day, domain and machine."""
        return f"{self.day.isoformat()}.{self.domain}@{self.hostname}"

    @property
    def start(self) -> datetime:
        """The first instant of the day."""
        return datetime.combine(self.day, time(), UTC)

    @property
    def end(self) -> datetime:
        """The last second of the day."""
        return self.start + _DAY - _SECOND

    @property
    def file_name(self) -> str:
        """`sender!domain!begin!end!id.json.gz` (section 5.1)."""
        begin, end = int(self.start.timestamp()), int(self.end.timestamp())
        unique = hashlib.sha256(self.id.encode()).hexdigest()[:16]
        return f"{self.submitter}!{self.domain}!{begin}!{end}!{unique}.json.gz"


def document(subject: Subject, tally: Tally) -> dict[str, Any]:
    """Return the report as what JSON can hold."""
    return {
        "organization-name": subject.organization,
        "date-range": {"start-datetime": _time(subject.start), "end-datetime": _time(subject.end)},
        "contact-info": str(subject.contact),
        "report-id": subject.id,
        "policies": [dict(_policy(summary, subject.domain)) for summary in tally.summaries],
    }


def compressed(report: dict[str, Any]) -> bytes:
    """Return a document as it is sent: I-JSON (RFC 7493), in ASCII, by gzip without a time."""
    return gzip.compress(json.dumps(report, separators=(",", ":")).encode("ascii"), mtime=0)


def _policy(summary: Summary, domain: str) -> Iterator[tuple[str, Any]]:
    policy = summary.policy
    described: dict[str, Any] = {"policy-type": policy.type.value}
    if policy.strings:
        described["policy-string"] = list(policy.strings)
    described["policy-domain"] = policy.domain or domain
    if policy.mx:
        described["mx-host"] = list(policy.mx)
    yield "policy", described
    yield (
        "summary",
        {
            "total-successful-session-count": summary.successes,
            "total-failure-session-count": summary.failed,
        },
    )
    if summary.failures:
        yield "failure-details", [dict(_failure(failure, sessions)) for failure, sessions in summary.failures]


def _failure(failure: Failure, sessions: int) -> Iterator[tuple[str, Any]]:
    yield "result-type", failure.result.value
    known = {
        "sending-mta-ip": failure.local,
        "receiving-mx-hostname": failure.host,
        "receiving-ip": failure.address,
    }
    yield from ((key, value) for key, value in known.items() if value)
    yield "failed-session-count", sessions
    if failure.detail:
        yield "failure-reason-code", failure.detail


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
