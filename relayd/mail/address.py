"""An address of an envelope: `local-part@domain`, parsed once, at the border.

Pure.  The grammar is RFC 5321 section 4.1.2 with RFC 6531's UTF-8; obsolete source routes are stripped (RFC 5321
section 3.6.1); lists, comments and display names are refused, never guessed at.  The domain is kept as a
lower-case A-label (RFC 5890) without a trailing dot, so that equal domains are equal strings; the local part is
kept as it was written, because only its own host may interpret it (RFC 5321 section 2.3.11).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import idna

from relayd.mail.errors import InvalidAddress

MAX_LOCAL_PART = 64  # octets, RFC 5321 section 4.5.3.1.1
MAX_DOMAIN = 255  # octets, RFC 5321 section 4.5.3.1.2
MAX_PATH = 254  # octets of local-part@domain: 256 less the angle brackets, RFC 5321 section 4.5.3.1.3

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\x80-\U0010ffff"
_DOT_STRING = re.compile(rf"[{_ATEXT}]+(?:\.[{_ATEXT}]+)*")
_QUOTED_STRING = re.compile(r'"(?:[ !#-\[\]-~\x80-\U0010ffff]|\\[ -~])*"')
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_SOURCE_ROUTE = re.compile(r"@[^@\s,:<>]+(?:,@[^@\s,:<>]+)*:")
KEPT = 4096  # domains, and local parts, whose reading is remembered: most mail is between a few
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@lru_cache(KEPT)
def parse_domain(text: str) -> str:
    """Return `text` as a lower-case A-label without a trailing dot, or as a canonical address literal.

    Raises:
        InvalidAddress: for what is neither a domain name nor `[192.0.2.1]` nor `[IPv6:2001:db8::1]`; a name of
            digits and dots alone is refused, since it is an address without its brackets.
    """
    if text.startswith("["):
        return _parse_literal(text)
    name = text.removesuffix(".").lower()
    if len(name) > MAX_DOMAIN:  # before it is mapped, which takes time, and remembered, which takes memory
        raise InvalidAddress(f"a domain name longer than {MAX_DOMAIN} octets: {text!r}")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise InvalidAddress(f"not a domain name: {text!r} ({error})") from None
    if not name or len(name) > MAX_DOMAIN or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise InvalidAddress(f"not a domain name: {text!r}")
    if name.rpartition(".")[2].isdigit():
        raise InvalidAddress(f"an IP address needs brackets: {text!r}")
    return name


def _parse_literal(text: str) -> str:
    inner = text[1:-1]
    try:
        if not text.endswith("]"):
            raise ValueError
        if inner[:5].lower() == "ipv6:":
            return f"[IPv6:{ipaddress.IPv6Address(inner[5:]).compressed}]"
        return f"[{ipaddress.IPv4Address(inner)}]"
    except ValueError:
        raise InvalidAddress(f"not an address literal: {text!r}") from None


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox.  `domain` is a lower-case A-label or an address literal; `str()` gives `local-part@domain`."""

    local_part: str
    domain: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `local-part@domain`, with or without angle brackets around it and a source route before it.

        Raises:
            InvalidAddress: with a sentence that says what is wrong.
        """
        if _UNSAFE.search(text):
            raise InvalidAddress(f"control character in {text!r}")
        path = text[1:-1] if text.startswith("<") and text.endswith(">") else text
        if path.startswith("@") and (route := _SOURCE_ROUTE.match(path)):
            path = path[route.end() :]
        local_part, at, domain = path.rpartition("@")
        if not (at and local_part and domain):
            raise InvalidAddress(f"not local-part@domain: {text!r}")
        check_local_part(local_part)
        address = cls(local_part, parse_domain(domain))
        if len(str(address).encode()) > MAX_PATH:
            raise InvalidAddress(f"longer than {MAX_PATH} octets: {text!r}")
        return address

    def is_like(self, other: Address) -> bool:
        """Whether it is the other one but for the case of ASCII letters: what people mean who look for a mailbox.  No
        two mailboxes that differ by it alone are known in the field, though a host may have such (RFC 5321 section
        2.4), so mail never goes by this."""
        return self.domain == other.domain and folded(self.local_part) == folded(other.local_part)

    @property
    def smtputf8(self) -> bool:
        """Whether it can only be sent to a server that offers SMTPUTF8 (RFC 6531 section 3.2)."""
        return not self.local_part.isascii()

    @property
    def literal(self) -> str | None:
        """The IP address of an address literal (RFC 5321 section 4.1.3), else None."""
        if not self.domain.startswith("["):
            return None
        return self.domain[1:-1].removeprefix("IPv6:")

    def __str__(self) -> str:
        return f"{self.local_part}@{self.domain}"


def folded(text: str) -> str:
    """Return `text` with its ASCII letters in lower case, as SQLite's `lower` has them."""
    return text.encode("utf-8", "surrogatepass").lower().decode("utf-8", "surrogatepass")


@lru_cache(KEPT)
def check_local_part(text: str) -> None:
    """Raise InvalidAddress unless `text` is a Dot-string or a Quoted-string of at most 64 octets."""
    if len(text.encode()) > MAX_LOCAL_PART:
        raise InvalidAddress(f"local part longer than {MAX_LOCAL_PART} octets: {text!r}")
    if not (_DOT_STRING.fullmatch(text) or _QUOTED_STRING.fullmatch(text)):
        raise InvalidAddress(f"not a local part: {text!r}")
