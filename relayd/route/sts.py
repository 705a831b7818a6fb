"""MTA-STS (RFC 8461): what a domain's TXT record and policy say, whether a host is meant, and when to ask again.

Pure.  Rules of this reading, where the RFC leaves a choice:

    A record or a policy that breaks the grammar counts for nothing, but empty lines of a policy are passed over, as
    are fields that nobody knows.  Of a field that may come once the first counts (section 3.2).
    A record begins with `v=STSv1;` to the letter (section 3.1; the grammar would allow a space before the semicolon).
    A policy is in force for at least MIN_AGE, so that one that ages at once is not fetched for every message.
    Without a usable record nothing is fetched, and what is cached stays in force (sections 3.3 and 5.1).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from relayd.mail.tls import Sts
from relayd.route.answers import Found, LookUp, NoData, NoName, Unavailable

MAX_AGE = timedelta(seconds=31_557_600)  # section 3.2
MIN_AGE = timedelta(minutes=5)
REFRESH = timedelta(days=1)  # section 3.3
MAX_MX = 100  # patterns of one policy; the largest providers have some ten
MAX_LABEL = 60  # characters of host names in a site's key

_BEGINNING = "v=STSv1;"
_BLANK = " \t"
_ID = re.compile(r"[A-Za-z0-9]{1,32}", re.ASCII)
_EXTENSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[!-:<>-~]+", re.ASCII)
_FIELD = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(.*)", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SECONDS = re.compile(r"\d{1,10}", re.ASCII)
_MX = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)


class Mode(Enum):
    """What is to become of mail for a host that fails the policy (section 5)."""

    ENFORCE = "enforce"  # it waits
    TESTING = "testing"  # it goes, and the failure is reported
    NONE = "none"  # as if there were no policy


@dataclass(frozen=True, slots=True)
class Record:
    """A domain's TXT record: there is a policy, and this is its version."""

    id: str


@dataclass(frozen=True, slots=True)
class NoRecord:
    """There is none that can be used; `why` in words."""

    why: str


@dataclass(frozen=True, slots=True)
class Invalid:
    """What was fetched is no policy; `why` in words."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StsPolicy:
    """A domain's policy.  `id` is that of the record that led to it; `mx` are patterns, lower-case; `fetched` when."""

    domain: str
    id: str
    mode: Mode
    mx: tuple[str, ...]
    max_age: timedelta
    fetched: datetime

    @property
    def expires(self) -> datetime:
        """Until when it is in force."""
        return self.fetched + max(self.max_age, MIN_AGE)

    def names(self, host: str) -> bool:
        """Whether `host`, a lower-case A-label, is one of the domain's mail exchangers."""
        return any(match(pattern, host) for pattern in self.mx)

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy as a report has it (RFC 8460 section 4.4)."""
        mx = (f"mx: {pattern}" for pattern in self.mx)
        seconds = int(self.max_age.total_seconds())
        return ("version: STSv1", f"mode: {self.mode.value}", *mx, f"max_age: {seconds}")


class Due(Enum):
    """What is to be done about a policy."""

    NOTHING = "nothing"
    REFRESH = "refresh"  # fetch it again, beside
    FETCH = "fetch"  # there is one that we do not have: mail waits for it


# the record


def record_of(answer: LookUp[str]) -> Record | NoRecord:
    """Read the answer to the TXT question for `_mta-sts.` and a domain (section 3.1)."""
    match answer:
        case Unavailable(reason):
            return NoRecord(reason)
        case NoName() | NoData():
            return NoRecord("there is no TXT record")
        case Found(records):
            meant = [record for record in records if record.startswith(_BEGINNING)]
            if len(meant) != 1:
                return NoRecord(f"there are {len(meant) or 'no'} TXT records of MTA-STS")
            return _record(meant[0])


def _record(text: str) -> Record | NoRecord:
    fields = [field.strip(_BLANK) for field in text.removeprefix(_BEGINNING).split(";")]
    if fields and not fields[-1]:
        fields.pop()
    ids = [field.removeprefix("id=") for field in fields if field.startswith("id=")]
    if not ids or not _ID.fullmatch(ids[0]):
        return NoRecord("the TXT record has no id of 1 to 32 letters and digits")
    if not all(_EXTENSION.fullmatch(field) for field in fields):
        return NoRecord("the TXT record is not of fields as name=value")
    return Record(ids[0])


# the policy


def parse_policy(domain: str, version: str, body: bytes, fetched: datetime) -> StsPolicy | Invalid:
    """Read a policy as it was fetched for the record with the id `version` (section 3.2)."""
    try:
        fields = list(_fields(body.decode("utf-8")))
    except ValueError as error:
        return Invalid("not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error))
    first = dict(reversed(fields))  # the first of each name
    if first.get("version") != "STSv1":
        return Invalid("its version is not STSv1")
    modes = {mode.value: mode for mode in Mode}
    if first.get("mode") not in modes:
        return Invalid("its mode is none of enforce, testing, none")
    if not _SECONDS.fullmatch(first.get("max_age", "")) or timedelta(seconds=int(first["max_age"])) > MAX_AGE:
        return Invalid("its max_age is not a number of seconds, of at most a year")
    mode, mx = modes[first["mode"]], [value.lower() for name, value in fields if name == "mx"]
    if odd := [pattern for pattern in mx if len(pattern) > 255 or not _MX.fullmatch(pattern)]:
        return Invalid(f"an mx is neither a host name nor one behind '*.': {odd[0][:60]!r}")
    if (not mx and mode is not Mode.NONE) or len(mx) > MAX_MX:
        return Invalid(f"it has no mx, or more than {MAX_MX}")
    age = timedelta(seconds=int(first["max_age"]))
    return StsPolicy(domain=domain, id=version, mode=mode, mx=tuple(mx), max_age=age, fetched=fetched)


def _fields(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r").rstrip(_BLANK)
        found = _FIELD.fullmatch(line)
        if _CONTROL.search(line) or (line and found is None):
            raise ValueError(f"line {number} is not of the form name: value")
        if found is not None:
            yield found[1], found[2]


def match(pattern: str, host: str) -> bool:
    """Whether a pattern means a host; both lower-case A-labels.  `*.` stands for one label (section 4.1)."""
    if pattern.startswith("*."):
        label, dot, rest = host.partition(".")
        return bool(label and dot) and rest == pattern[2:]
    return pattern == host


# what follows


def refresh_at(policy: StsPolicy, jitter: float) -> datetime:
    """Return when to fetch it again though it has not changed: daily, or well before it expires (section 3.3).

    `jitter`, 0.0 to 1.0, spreads this over the last fifth, so that what was fetched together is not again.
    """
    return policy.fetched + min(REFRESH, (policy.expires - policy.fetched) / 2) * (0.8 + 0.2 * jitter)


def due(cached: StsPolicy | None, record: Record | NoRecord, now: datetime, *, jitter: float) -> Due:
    """Return what is to be done, for a domain of which `cached` is known."""
    if isinstance(record, NoRecord):
        return Due.NOTHING
    if cached is None or cached.id != record.id or cached.expires <= now:
        return Due.FETCH
    if cached.fetched > now or refresh_at(cached, jitter) <= now:  # a clock that was set back must not keep it for long
        return Due.REFRESH
    return Due.NOTHING


def applied(policy: StsPolicy | None, hosts: Iterable[str]) -> Sts | None:
    """Return what a policy says of a site with these hosts; None if nothing."""
    if policy is None or policy.mode is Mode.NONE:
        return None
    return Sts(enforce=policy.mode is Mode.ENFORCE, hosts=frozenset(host for host in hosts if policy.names(host)))


def label(sts: Sts | None, hosts: Sequence[str]) -> str:
    """Return what a site's key has behind its hosts: `#mta-sts`, or `#mta-sts-testing`, and where not all of the hosts
    are meant, those that are: `#mta-sts:mx1.example.org`.  What differs in this must not share connections."""
    if sts is None:
        return ""
    word = "#mta-sts" if sts.enforce else "#mta-sts-testing"
    if sts.hosts.issuperset(hosts):
        return word
    meant = ",".join(sorted(sts.hosts)) or "-"
    if len(meant) > MAX_LABEL:
        meant = f"+{hashlib.sha256(meant.encode()).hexdigest()[:16]}"
    return f"{word}:{meant}"
