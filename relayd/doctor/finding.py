"""What the doctor found: one thing, how bad it is, and what to do about it.

Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

NAMED = 3  # of many, so many are named


class Severity(Enum):
    """How bad it is.  With ERROR or WARNING among its findings `relayd doctor` ends with 1."""

    ERROR = "error"  # a promise is broken, or mail cannot go out
    WARNING = "warning"  # somebody should see to it
    INFORMATION = "information"  # good to know; nothing is wrong with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing.  `what` names its kind, for programs; `detail` and `advice` are a sentence each, without its stop."""

    what: str
    severity: Severity
    detail: str
    advice: str


def error(what: str, detail: str, advice: str) -> Finding:
    """Return a finding that somebody must see to."""
    return Finding(what=what, severity=Severity.ERROR, detail=detail, advice=advice)


def warning(what: str, detail: str, advice: str) -> Finding:
    """Return a finding that somebody should see to."""
    return Finding(what=what, severity=Severity.WARNING, detail=detail, advice=advice)


def information(what: str, detail: str, advice: str) -> Finding:
    """Return a finding that is no trouble."""
    return Finding(what=what, severity=Severity.INFORMATION, detail=detail, advice=advice)


def counted(names: Sequence[str], one: str, several: str, *, at_most: int) -> str:
    """Return `3 messages wait: a, b, c`; of many only the first are named, and from `at_most` on they are not counted.

    `one` and `several` say what they do, as `message waits` and `messages wait`.
    """
    number = f"{len(names)} or more" if len(names) >= at_most else str(len(names))
    more = ", ..." if len(names) > NAMED else ""
    return f"{number} {one if len(names) == 1 else several}: {', '.join(names[:NAMED])}{more}"
