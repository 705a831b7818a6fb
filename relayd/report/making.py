"""Makes the report of a day and a domain, for each of its places: what is owed from then on, to the last octet.

A signature takes some 40 ms, so this is done away from the loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from relayd.mail.message import new_id
from relayd.mail.report import Counted, Owed
from relayd.report.counting import Tally
from relayd.report.document import Subject, compressed, document
from relayd.report.mail import content
from relayd.report.record import ByMail, Place
from relayd.report.settings import ReportSettings
from relayd.report.signing import signer


def make(settings: ReportSettings, counted: Counted, wanted: Sequence[Place], now: datetime) -> list[Owed]:
    """Return what is owed to each of the places.

    Raises:
        ValueError: what was counted cannot be read.
        Exception: it cannot be signed.
    """
    tally = Tally.unpacked(counted.tally)
    subject = subject_of(counted, settings)
    report = compressed(document(subject, tally))
    return [_owed(place, subject, tally, report, settings, now) for place in wanted]


def subject_of(counted: Counted, settings: ReportSettings) -> Subject:
    """Return what a report of it is about, and by whom."""
    return Subject(
        day=counted.day,
        domain=counted.domain,
        organization=settings.organization,
        contact=settings.contact,
        hostname=settings.hostname,
    )


def _owed(place: Place, subject: Subject, tally: Tally, report: bytes, settings: ReportSettings, now: datetime) -> Owed:
    message_id, octets = new_id(now), report
    if isinstance(place, ByMail):
        sign = signer(settings.dkim, settings.sender.domain)
        octets = content(subject, report, message_id=message_id, sender=settings.sender, to=place.address, sign=sign)
    return Owed(
        day=subject.day,
        domain=subject.domain,
        place=str(place),
        id=message_id,
        content=octets,
        sessions=tally.sessions,
        failed=tally.failed,
        due=now,
        first=now,
    )
