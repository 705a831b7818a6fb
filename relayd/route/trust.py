"""Whether the name servers' word on DNSSEC counts, and whether they have one.

Pure.  A resolver that validates sets the AD bit on what is secure, in clear text: on the way anybody could.  So it is
believed only if all name servers in use are on this machine, or if somebody who knows the way says that it is safe:
`dns.trust_ad`, or `options trust-ad` in the resolv.conf in use (resolv.conf(5)).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

FORWARDER = ipaddress.ip_address("127.0.0.11")  # Docker's: it hands on what came to it over some network
_TRUST_AD = re.compile(r"^options\s(?:.*\s)?trust-ad(?:\s|$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Validates:
    """What they say is secure is secure."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """They do not validate, or are not to be believed; `why` in words."""

    why: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """They do not answer now; `why` in words."""

    why: str


Validation: TypeAlias = Validates | Unfit | Unknown


def doubt(addresses: Sequence[str], *, trust_ad: bool, resolv_conf: str = "") -> str:
    """Return why name servers are not to be believed, empty if they are; `resolv_conf` is what they were found in."""
    if trust_ad or _TRUST_AD.search(resolv_conf):
        return ""
    elsewhere = [address for address in addresses if not _is_here(address)]
    if not elsewhere:
        return ""
    return f"{elsewhere[0]} is not on this machine, so that on the way anybody could say that an answer is secure"


def _is_here(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_loopback and parsed != FORWARDER
