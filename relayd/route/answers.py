"""What the DNS says of a name, as values, and the port through which the router asks.

Pure.  The four kinds of answer are kept apart because mail depends on it: a name that does not exist fails for good,
one without such records may have others, and one that nobody could tell us about waits (RFC 5321 section 5.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Generic, Protocol, TypeAlias, TypeVar

from relayd.mail.tls import Tlsa

T = TypeVar("T")

MAX_RECORDS = 100  # kept of one answer: ten times what is ever tried, so that an answer of 64 KiB costs no memory
MAX_CONTENT = 16 * 1024  # octets kept of all TLSA records of one answer
MAX_TEXT = 1024  # characters kept of a TXT record: several times what any of those that we ask for has


class Kind(Enum):
    """The record types that we ask for."""

    MX = "MX"
    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    TLSA = "TLSA"
    TXT = "TXT"


@dataclass(frozen=True, slots=True, order=True)
class Exchanger:
    """An MX record.  `host` is lower-case without a trailing dot, as it was found; "" is the root (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """The name has such records: at least one, in the resolver's order.  `ttl` as the DNS gave it, not clamped.

    `secure`: DNSSEC proves all of it, aliases included (RFC 4035 section 4.9.3), as a resolver says that is to be
    trusted.  `canonical` is the name that aliases led to, empty where there were none.
    """

    records: tuple[T, ...]
    ttl: timedelta = timedelta(0)
    secure: bool = False
    canonical: str = ""


@dataclass(frozen=True, slots=True)
class NoName:
    """NXDOMAIN: there is no such name.  `ttl` says for how long (RFC 2308 section 5); `secure` as in Found."""

    ttl: timedelta = timedelta(0)
    secure: bool = False


@dataclass(frozen=True, slots=True)
class NoData:
    """NODATA: the name exists and has no such records."""

    ttl: timedelta = timedelta(0)
    secure: bool = False


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Nobody could say: SERVFAIL (so bogus data, too), REFUSED, a time-out, a lame or broken server, none to ask."""

    reason: str


LookUp: TypeAlias = Found[T] | NoName | NoData | Unavailable


class Resolver(Protocol):
    """Looks names up.  Every implementation passes tests/contracts/test_resolver.py.

    Names are lower-case A-labels without a trailing dot, taken as absolute: no search list is ever applied (RFC 5321
    section 5.1).  Aliases are followed.  Nothing raises but CancelledError, and every answer comes within the time
    that the implementation was given.
    """

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """Return the mail exchangers of `name`, best first; at most MAX_RECORDS, the best ones."""

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """Return the IP addresses of `name`, of `kind` A or AAAA, in the order of the answer; at most MAX_RECORDS."""

    async def alias(self, name: str) -> LookUp[str]:
        """Return what `name` itself is an alias of: one name, or NoData; no alias is followed."""

    async def associations(self, name: str) -> LookUp[Tlsa]:
        """Return the TLSA records of `name`, whatever they say, in the order of the answer; at most MAX_RECORDS.  The
        content of one is empty if it, with those before, has more than MAX_CONTENT octets: nothing matches that."""

    async def texts(self, name: str) -> LookUp[str]:
        """Return the TXT records of `name`, in the order of the answer; at most MAX_RECORDS, of each the first MAX_TEXT
        characters.  The strings of a record are joined (RFC 8461 section 3.1); what is not ASCII is U+FFFD."""
