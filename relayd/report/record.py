"""The TXT record by which a domain asks for reports: `v=TLSRPTv1; rua=mailto:...,https:...` (RFC 8460 section 3).

Pure.  Of several records those count that begin with `v=TLSRPTv1;`, and exactly one has to be left; fields that nobody
knows are passed over, and so is a place that we cannot send to: its neighbours count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from relayd.mail.address import Address
from relayd.mail.errors import InvalidAddress

PREFIX = "_smtp._tls."  # of the record's name
MAX_PLACES = 4  # that a domain's reports go to
MAX_RECORD = 4096  # characters
MAX_URL = 2000

_VERSION = re.compile(r"v=TLSRPTv1[ \t]*;")  # the grammar has white space around a semicolon
_URL = re.compile(r"[!-~]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByMail:
    """To this address."""

    address: Address

    def __str__(self) -> str:
        return f"mailto:{self.address}"


@dataclass(frozen=True, slots=True)
class ByHttps:
    """By POST to this URL."""

    url: str

    def __str__(self) -> str:
        return self.url


Place: TypeAlias = ByMail | ByHttps


def places(records: Iterable[str]) -> tuple[Place, ...]:
    """Return where the domain with these TXT records, each joined to one text, wants its reports; none if it does
    not, or not in a way that we know."""
    meant = [record for record in records if _VERSION.match(record)]
    if len(meant) != 1 or len(meant[0]) > MAX_RECORD:
        return ()
    fields = (field.strip(" \t") for field in meant[0].split(";"))
    found = (_place(uri.strip(" \t")) for field in fields for uri in _uris(field))
    return tuple(dict.fromkeys(place for place in found if place is not None))[:MAX_PLACES]


def _uris(field: str) -> Iterator[str]:
    if field.startswith("rua="):
        yield from field.removeprefix("rua=").split(",")


def _place(uri: str) -> Place | None:
    scheme, _, rest = uri.partition(":")
    match scheme.lower():
        case "mailto":
            return _by_mail(rest)
        case "https":
            return _by_https(uri)
        case _:
            return None


def _by_mail(text: str) -> ByMail | None:
    """RFC 6068: percent-encoded, and with header fields behind a question mark, which are not for strangers to set."""
    try:
        address = Address.parse(unquote_to_bytes(text.partition("?")[0]).decode("ascii"))
    except (UnicodeDecodeError, InvalidAddress):
        return None
    return ByMail(address)


def _by_https(url: str) -> ByHttps | None:
    if len(url) > MAX_URL or not _URL.fullmatch(url):
        return None
    try:
        parts = urlsplit(url)
        usable = parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return ByHttps(url.partition("#")[0]) if usable else None
