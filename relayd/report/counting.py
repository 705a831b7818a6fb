"""What is counted for the reports: sessions of one day and one domain, by the policy they were under and how they went.

Pure.  Invariants, checked by tests/report/test_counting.py:

    Every session that is added is counted once, whatever the bounds do to its details.
    A tally has at most MAX_POLICIES policies and MAX_FAILURES kinds of failure with all their details; what comes
    beyond is counted under the same type of policy, or of result, without them.
    Nothing in it names a user: domains, hosts, addresses of machines, policies, and what TLS failed for.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

from relayd.mail.tls import Source, TlsResult, TlsSession

MAX_POLICIES = 50  # one for each mail exchanger with DANE, and what they were before a change
MAX_FAILURES = 100
MAX_STRINGS = 8192  # characters of one policy, all its strings together: two certificates, a hundred of MTA-STS's lines
MAX_DETAIL = 300  # characters of what a session failed for

_MX = "mx: "


class PolicyType(Enum):
    """Whose policy it is (RFC 8460 section 4.4)."""

    STS = "sts"
    TLSA = "tlsa"
    NONE = "no-policy-found"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What sessions were under.

    `domain`: against which it is defined: of MTA-STS, and of none, the destination; of DANE the TLSA base domain of the
    host (RFC 8460 section 1.1); empty for what is counted together beyond MAX_POLICIES.  `strings`: TLSA records, or
    the lines of MTA-STS's policy (section 4.5).
    """

    type: PolicyType
    domain: str
    strings: tuple[str, ...] = ()

    @property
    def mx(self) -> tuple[str, ...]:
        """The patterns of host names in a policy of MTA-STS."""
        if self.type is not PolicyType.STS:
            return ()
        return tuple(line.removeprefix(_MX) for line in self.strings if line.startswith(_MX))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """How sessions failed, and where: from our `local` address to a `host` at its `address`; `detail` in words.  What
    is not known is empty."""

    result: TlsResult
    local: str = ""
    host: str = ""
    address: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The sessions under one policy."""

    policy: Policy
    successes: int
    failures: tuple[tuple[Failure, int], ...]

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(sessions for _, sessions in self.failures)


class Tally:
    """See the module."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[Policy, Failure | None], int] = {}
        self._policies: set[Policy] = set()
        self._failures = 0

    def add(self, policy: Policy, failure: Failure | None, sessions: int = 1) -> None:
        """Count sessions; `failure` None: they were as the policy wants.  O(1)."""
        if (policy, failure) not in self._sessions:
            policy = self._bounded_policy(policy)
            failure = self._bounded_failure(policy, failure)
        self._sessions[policy, failure] = self._sessions.get((policy, failure), 0) + sessions

    def _bounded_policy(self, policy: Policy) -> Policy:
        if policy not in self._policies and len(self._policies) >= MAX_POLICIES:
            policy = Policy(type=policy.type, domain="")
        self._policies.add(policy)
        return policy

    def _bounded_failure(self, policy: Policy, failure: Failure | None) -> Failure | None:
        if failure is None or (policy, failure) in self._sessions:
            return failure
        if self._failures >= MAX_FAILURES:
            return Failure(result=failure.result)
        self._failures += 1
        return failure

    def merge(self, other: Tally) -> None:
        """Count what another has counted."""
        for (policy, failure), sessions in other._sessions.items():
            self.add(policy, failure, sessions)

    @property
    def summaries(self) -> Iterator[Summary]:
        """Yield what was counted under each policy, in the order in which they came first."""
        for policy in dict.fromkeys(policy for policy, _ in self._sessions):
            of_it = [(failure, n) for (each, failure), n in self._sessions.items() if each == policy]
            yield Summary(
                policy=policy,
                successes=sum(n for failure, n in of_it if failure is None),
                failures=tuple((failure, n) for failure, n in of_it if failure is not None),
            )

    @property
    def sessions(self) -> int:
        """How many there were."""
        return sum(self._sessions.values())

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(n for (_, failure), n in self._sessions.items() if failure is not None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and self._sessions == other._sessions

    __hash__ = None  # type: ignore[assignment]

    # as a text, for the disk

    def packed(self) -> str:
        """Return all of it as a text."""
        rows = [
            [_packed_policy(policy), _packed_failure(failure), n] for (policy, failure), n in self._sessions.items()
        ]
        return json.dumps(rows, separators=(",", ":"))

    @classmethod
    def unpacked(cls, text: str) -> Self:
        """Undo `packed`; ValueError if this is no such text."""
        tally = cls()
        try:
            for policy, failure, sessions in json.loads(text):
                tally.add(_policy(*policy), None if failure is None else _failure(*failure), int(sessions))
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"not a tally: {error!r}") from None
        return tally


def _packed_policy(policy: Policy) -> list[Any]:
    return [policy.type.value, policy.domain, policy.strings]


def _policy(kind: str, domain: str, strings: Sequence[str]) -> Policy:
    return Policy(type=PolicyType(kind), domain=domain, strings=tuple(strings))


def _packed_failure(failure: Failure | None) -> list[str] | None:
    if failure is None:
        return None
    return [failure.result.value, failure.local, failure.host, failure.address, failure.detail]


def _failure(result: str, local: str, host: str, address: str, detail: str) -> Failure:
    return Failure(result=TlsResult(result), local=local, host=host, address=address, detail=detail)


# of a session


def counted(session: TlsSession, domain: str, sts: Sequence[str]) -> tuple[Policy, Failure | None]:
    """Return what a session counts as for one of its domains, whose policy of MTA-STS has the lines `sts`."""
    if session.result is TlsResult.SUCCESS:
        return _policy_of(session, domain, sts), None
    failure = Failure(
        result=session.result,
        local=_address(session.local),
        host=session.host,
        address=_address(session.address),
        detail=_printable(session.detail),
    )
    return _policy_of(session, domain, sts), failure


def _policy_of(session: TlsSession, domain: str, sts: Sequence[str]) -> Policy:
    match session.source:
        case Source.DANE:
            return Policy(
                type=PolicyType.TLSA, domain=session.base or session.host or domain, strings=_bounded(session.records)
            )
        case Source.MTA_STS:
            return Policy(type=PolicyType.STS, domain=domain, strings=_bounded(sts))
        case Source.CONFIGURED | Source.MESSAGE:
            return Policy(type=PolicyType.NONE, domain=domain)


def _bounded(strings: Sequence[str]) -> tuple[str, ...]:
    """Return as many as there is room for, each in full: a record that is cut off would be another one."""
    kept, room = [], MAX_STRINGS
    for text in strings:
        if len(text) <= room:
            kept.append(text)
            room -= len(text)
    return tuple(kept)


def _address(text: str) -> str:
    """Return an IP address as RFC 8460 wants it (RFC 5952 for IPv6), empty if it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _printable(text: str) -> str:
    """Return a text on one line of printable ASCII, at most so long: a server may have had a hand in it."""
    return "".join(c if " " <= c <= "~" else "?" for c in " ".join(text.split())[:MAX_DETAIL])


def by_domain(
    session: TlsSession, sts_lines: Callable[[str], Sequence[str]]
) -> Iterator[tuple[str, Policy, Failure | None]]:
    """Yield what a session counts as for each of its domains that can ask for reports: not for address literals.

    `sts_lines` has the lines of a domain's policy of MTA-STS.
    """
    for domain in session.domains:
        if not domain.startswith("["):
            yield domain, *counted(session, domain, sts_lines(domain) if session.source is Source.MTA_STS else ())
