"""What a server offers: the reply to EHLO, read (RFC 5321 section 4.1.1.1).

Pure.  A keyword that cannot be understood is as if it were not there: nothing in an EHLO reply stops the mail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from relayd.mail.reply import Reply

_MAX_SIZE_DIGITS = 20  # RFC 1870 section 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The extensions that matter to us.  All off is a server that speaks HELO only.

    `size` is the largest message in octets, None where the server names no limit (`SIZE`, `SIZE 0`, nonsense).
    """

    pipelining: bool = False  # RFC 2920
    size_declared: bool = False  # RFC 1870: SIZE= may be sent
    size: int | None = None
    eight_bit_mime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    dsn: bool = False  # RFC 3461
    starttls: bool = False  # RFC 3207
    auth: frozenset[str] = frozenset()  # RFC 4954: mechanisms, upper case

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
            size_declared="SIZE" in offered,
            size=_size(offered.get("SIZE", [])),
            eight_bit_mime="8BITMIME" in offered,
            smtputf8="SMTPUTF8" in offered,
            dsn="DSN" in offered,
            starttls="STARTTLS" in offered,
            auth=frozenset(offered.get("AUTH", [])),
        )


def _size(words: list[str]) -> int | None:
    for word in words:
        if word.isascii() and word.isdigit() and len(word) <= _MAX_SIZE_DIGITS:
            return int(word) or None
    return None
