"""What a server offers: the reply to EHLO, read (RFC 5321 section 4.1.1.1).

Pure.  A keyword that cannot be understood is as if it were not there: nothing in an EHLO reply stops the mail.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from relayd.mail.reply import Reply

_MAX_SIZE_DIGITS = 20  # RFC 1870 section 3
_BY_TIME = re.compile("([0-9]{1,9})(?:,|$)")  # RFC 2852 section 3
_LIMIT = re.compile("[1-9][0-9]{0,5}")  # RFC 9422 section 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a server says it takes (RFC 9422); None where it does not say."""

    mails: int | None = None  # MAILMAX: transactions on one connection
    recipients: int | None = None  # RCPTMAX: of one transaction
    domains: int | None = None  # RCPTDOMAINMAX: different ones of recipients, on one connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The extensions that matter to us.  All off is a server that speaks HELO only.

    `size` is the largest message in octets, None where the server names no limit (`SIZE`, `SIZE 0`, nonsense).
    """

    pipelining: bool = False  # RFC 2920
    chunking: bool = False  # RFC 3030
    limits: Limits = Limits()
    size_declared: bool = False  # RFC 1870: SIZE= may be sent
    size: int | None = None
    eight_bit_mime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    dsn: bool = False  # RFC 3461
    deliver_by: bool = False  # RFC 2852
    deliver_by_min: int = 0  # seconds that a by-time of mode R must have at least; 0 where none are named
    starttls: bool = False  # RFC 3207
    auth: frozenset[str] = frozenset()  # RFC 4954: mechanisms, upper case
    require_tls: bool = False  # RFC 8689; of no meaning in clear text

    @classmethod
    def parse(cls, reply: Reply) -> Self:
        """Read a positive reply to EHLO; its first line is the server's name and no keyword."""
        offered: dict[str, list[str]] = {}
        for line in reply.text.split("\n")[1:]:
            words = line.upper().replace("AUTH=", "AUTH ", 1).split()  # AUTH=LOGIN: as servers of old wrote it
            if words:
                offered.setdefault(words[0], []).extend(words[1:])
        return cls(
            pipelining="PIPELINING" in offered,
            chunking="CHUNKING" in offered,
            limits=_limits(offered.get("LIMITS", [])),
            size_declared="SIZE" in offered,
            size=_size(offered.get("SIZE", [])),
            eight_bit_mime="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            dsn="DSN" in offered,
            deliver_by="DELIVERBY" in offered,
            deliver_by_min=_least(offered.get("DELIVERBY", [])),
            starttls="STARTTLS" in offered,
            auth=frozenset(offered.get("AUTH", [])),
            require_tls="REQUIRETLS" in offered,
        )


def _size(words: list[str]) -> int | None:
    for word in words:
        if word.isascii() and word.isdigit() and len(word) <= _MAX_SIZE_DIGITS:
            return int(word) or None
    return None


def _least(words: list[str]) -> int:
    """Read the minimum of DELIVERBY, the first of a list with commas (RFC 2852 section 3)."""
    for word in words:
        if found := _BY_TIME.match(word):
            return int(found[1])
    return 0


def _limits(words: list[str]) -> Limits:
    """Read `NAME=VALUE` words; unknown names and what is no number from 1 to 999999 count for nothing."""
    found: dict[str, int] = {}
    for word in words:
        name, _, value = word.partition("=")
        if _LIMIT.fullmatch(value):
            found[name] = min(int(value), found.get(name, int(value)))
    return Limits(mails=found.get("MAILMAX"), recipients=found.get("RCPTMAX"), domains=found.get("RCPTDOMAINMAX"))
