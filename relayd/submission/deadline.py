"""Until when a dropped message is to be delivered: X-Relayd-Deadline, and BY behind the address of X-Sender.

Pure.  Spans count from the arrival, which is in the queue id, so that a second examination of the file finds the same.
Where both are given, the one that ends the tries counts, of two such the earlier; the other is as if it were not there.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from relayd.mail.deadline import FARTHEST, Deadline, DeadlineMode
from relayd.mail.duration import parse_duration
from relayd.submission.header import Header
from relayd.submission.mailboxes import text_of
from relayd.submission.refusal import Refused, shown

NAME = "X-Relayd-Deadline"
_FIELD = NAME.lower()

# RFC 5322 section 3.3, and what Date fields have in practice: GMT, the name of the zone as a comment.
_DATE = re.compile(
    r"(?:[A-Z][a-z]{2}, *)?(\d{1,2} [A-Z][a-z]{2} \d{4} \d\d:\d\d(?::\d\d)? (?:[+-]\d{4}|GMT|UTC?))(?: \([A-Z]+\))?",
    re.ASCII,
)


def read_deadline(header: Header, by: Deadline | None, arrived: datetime) -> Deadline | None:
    """Return the deadline of a message that arrived then, None if it has none; `by` is that of X-Sender.

    Raises:
        Refused: it cannot be read, or has passed.
    """
    fields = [field for field in (*header.leading, *header.fields) if field.name == _FIELD]
    if len(fields) > 1:
        raise Refused(f"there are {len(fields)} {NAME} lines", "leave one")
    given = [_own(text_of(field.value, NAME), arrived) for field in fields] + ([by] if by else [])
    return min(given, key=lambda deadline: (not deadline.ends, deadline.at), default=None)


def _own(text: str, arrived: datetime) -> Deadline:
    at = _time(text, arrived)
    if at is None:
        raise Refused(
            f"{NAME} is neither a time with its zone nor a span: {shown(text)}",
            'write it as "2026-11-24T21:00:00Z" or "30m", and drop the file again',
        )
    if at <= arrived:
        raise Refused(f"the deadline has passed: {shown(text)}", "write a later one, and drop the file again")
    if at - arrived > FARTHEST:
        raise Refused(f"the deadline is too far away: {shown(text)}", "leave it out, and drop the file again")
    return Deadline(at=at.astimezone(UTC), mode=DeadlineMode.OWN)


def _time(text: str, arrived: datetime) -> datetime | None:
    """Return the time that a text names, None if it names none; a span is counted from the arrival."""
    try:
        return arrived + min(parse_duration(text), FARTHEST + timedelta.resolution)
    except ValueError:
        pass
    try:
        if date := _DATE.fullmatch(text):
            at = parsedate_to_datetime(date[1])
            return at if at.tzinfo else at.replace(tzinfo=UTC)  # -0000: UTC, from who knows where
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo else None
