"""Which addresses of a host may be connected to, and in which order.

Pure.  Whoever controls a domain's DNS chooses where we connect, so addresses that lead to ourselves, to this machine's
services or to the cloud's metadata service are refused, each time a name was resolved and by address, whatever the
name.  An IPv6 address that carries an IPv4 address (mapped, NAT64, 6to4, Teredo) is judged by both.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import TypeAlias

from relayd.mail.route import AddressFamily
from relayd.route.answers import Found, LookUp, Unavailable

MAX_ADDRESSES = 5  # tried of one host: Postfix's smtp_mx_address_limit

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",  # RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",  # carriers' NAT, RFC 6598
        "fc00::/7",  # RFC 4193
        "fec0::/10",  # RFC 3879
        "64:ff9b:1::/48",  # NAT64 of local use, RFC 8215: what it leads to is not in the address
    )
)
_UNSPECIFIED = tuple(ipaddress.ip_network(network) for network in ("0.0.0.0/8", "::/128"))
_RESERVED = ipaddress.ip_network("240.0.0.0/4")  # with 255.255.255.255, broadcast
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ipaddress.ip_network("::/96")  # RFC 4291 section 2.5.5.1; :: and ::1 are not of them


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetRules:
    """What is permitted.  `own` are this machine's addresses other than loopback, in canonical form."""

    allow_loopback: bool = False
    allow_private: bool = True
    own: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sifted:
    """The addresses of one host, judged.

    `permitted` may be connected to, in this order.  `found` has all, of whatever family.  `refusals` says why some
    are not permitted; `trouble` why some may not have been found, empty if the DNS told all.
    """

    permitted: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    trouble: str = ""


def sift(a: LookUp[str], aaaa: LookUp[str], family: AddressFamily, rules: TargetRules | None) -> Sifted:
    """Judge what was found of one host; `rules` None permits everything (a configured route)."""
    v4, v6 = (answer.records if isinstance(answer, Found) else () for answer in (a, aaaa))
    refused = {address: refusal(address, rules) for address in v4 + v6} if rules else {}
    wanted = arranged(v4, v6, family)
    return Sifted(
        permitted=tuple(address for address in wanted if not refused.get(address))[:MAX_ADDRESSES],
        found=v4 + v6,
        refusals=tuple(f"{address} is {reason}" for address in wanted if (reason := refused.get(address, ""))),
        trouble=next((answer.reason for answer in (a, aaaa) if isinstance(answer, Unavailable)), ""),
    )


def arranged(v4: Sequence[str], v6: Sequence[str], family: AddressFamily) -> tuple[str, ...]:
    """Return the addresses that a policy wants, best first; those of one family stay in the resolver's order.

    ANY takes turns, so that neither family can use up the tries, and begins with IPv4, the one that a mail host is
    most often known by.  PREFER takes one of the other family among the tries, since the preferred one may be broken
    as a whole.
    """
    match family:
        case AddressFamily.IPV4:
            return tuple(v4)
        case AddressFamily.IPV6:
            return tuple(v6)
        case AddressFamily.PREFER_IPV4:
            return _preferring(v4, v6)
        case AddressFamily.PREFER_IPV6:
            return _preferring(v6, v4)
        case AddressFamily.ANY:
            turns = chain.from_iterable(zip_longest(v4, v6))
            return tuple(address for address in turns if address is not None)


def _preferring(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    early = MAX_ADDRESSES - 1
    return (*first[:early], *second[:1], *first[early:], *second[1:])


def refusal(text: str, rules: TargetRules) -> str:
    """Return why an address may not be connected to, in words that follow "it is"; empty if it may."""
    address = ipaddress.ip_address(text)
    for carried in embedded(address):
        if reason := _refusal(carried, rules):
            return f"a way to {carried}, {reason}"
    return _refusal(address, rules)


def _refusal(address: IPAddress, rules: TargetRules) -> str:
    if str(address) in rules.own:
        return "an address of this machine"
    if address.is_multicast or address in _RESERVED:
        return "no address of a single host"
    if not rules.allow_loopback:
        for kind, holds in (
            ("a loopback address", address.is_loopback),
            ("a link-local address", address.is_link_local),
            ("an unspecified address", _within(address, _UNSPECIFIED)),
        ):
            if holds:
                return f"{kind}, refused unless relay.allow_loopback is true"
    if not rules.allow_private and _within(address, _PRIVATE):
        return "a private address, refused unless relay.allow_private is true"
    return ""


def embedded(address: IPAddress) -> tuple[ipaddress.IPv4Address, ...]:
    """Return the IPv4 addresses that packets to an IPv6 address may end at."""
    if isinstance(address, ipaddress.IPv4Address):
        return ()
    last = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return (last,)
    if address.teredo:
        return address.teredo
    carried = address.ipv4_mapped or address.sixtofour
    return (carried,) if carried else ()


def is_own(addresses: Iterable[str], own: frozenset[str]) -> bool:
    """Whether one of the addresses, or an IPv4 address inside it, is this machine's."""
    for text in addresses:
        address = ipaddress.ip_address(text)
        if any(str(judged) in own for judged in (address, *embedded(address))):
            return True
    return False


def _within(address: IPAddress, networks: Iterable[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    return any(address in network for network in networks)
