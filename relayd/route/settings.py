"""What an operator decides about routes and name servers.

Plain values: the configuration is read elsewhere, which parses patterns and hosts with `smart_host`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from datetime import timedelta

from relayd.mail.route import AddressFamily, Credentials, Host
from relayd.mail.tls import TlsPolicy, TlsSetup

DNS_PORT = 53
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_NAMESERVER = re.compile(r"\[(?P<v6>[^\]]*)\](?::(?P<v6port>\d{1,5}))?|(?P<v4>[0-9.]+)(?::(?P<v4port>\d{1,5}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRule:
    """One [[route]]: where the mail of some destinations goes instead of to their mail exchangers.

    `match` has patterns of mail/pattern.py; without any, it is only for mail that is redirected to it.  `hosts` are
    tried in order.  What is None is taken from the settings for all.  Raises ValueError for a name that cannot be part
    of a site's key, and without hosts.
    """

    name: str
    match: tuple[str, ...]
    hosts: tuple[Host, ...]
    credentials: Credentials | None = None
    tls: TlsPolicy | None = None
    setup: TlsSetup = field(default=TlsSetup())
    source_addresses: tuple[str, ...] | None = None
    address_family: AddressFamily | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"a route's name is of letters, digits, '.', '_' and '-', at most 64: {self.name!r}")
        if not self.hosts:
            raise ValueError("a route needs at least one host")


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRule:
    """One [[tls.domain]]: what is demanded of the mail exchangers of some destinations.  `match` has patterns of
    mail/pattern.py.  Raises ValueError for an empty list."""

    match: tuple[str, ...]
    level: TlsPolicy
    setup: TlsSetup
    dane: bool = True
    mta_sts: bool = True

    def __post_init__(self) -> None:
        if not self.match:
            raise ValueError("needs at least one pattern to match")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """Where mail goes.  The first of `rules` that matches wins, in their order; without one, the mail exchangers, of
    which the first of `tls_rules` that matches says what is demanded, else `tls`, `tls_setup` and `mta_sts`."""

    hostname: str  # ours, a lower-case A-label: an exchanger of this name is a loop
    port: int = 25  # of mail exchangers
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    tls_setup: TlsSetup = field(default=TlsSetup())
    tls_rules: tuple[TlsRule, ...] = ()
    mta_sts: bool = True  # whether their owners' policies are heeded (RFC 8461)
    allow_loopback: bool = False  # exchangers on loopback, link-local and unspecified addresses
    allow_private: bool = True  # exchangers on private addresses (RFC 1918, RFC 4193, RFC 6598)
    source_addresses: tuple[str, ...] = ()
    address_family: AddressFamily = AddressFamily.ANY
    rules: tuple[RouteRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSettings:
    """Whom to ask, and how long to wait.  Raises ValueError for a name server that is none."""

    nameservers: tuple[str, ...] = ()  # `192.0.2.1`, `127.0.0.1:5353`, `[::1]:53`; empty: those of resolv.conf
    timeout: timedelta = timedelta(seconds=5)  # for one look-up, all name servers and tries together
    trust_ad: bool = False  # whether the way to name servers that are not on this machine is safe

    def __post_init__(self) -> None:
        for nameserver in self.nameservers:
            parse_nameserver(nameserver)
        if self.timeout <= timedelta(0):
            raise ValueError("a look-up needs some time")


def parse_nameserver(text: str) -> tuple[str, int]:
    """Return the address and the port (53 if there is none) of a name server; ValueError if it is none.

    IPv6 addresses may come with brackets or, without a port, bare.
    """
    try:
        if text.count(":") > 1 and "[" not in text:
            return ipaddress.IPv6Address(text).compressed, DNS_PORT
        if match := _NAMESERVER.fullmatch(text):
            port = int(match["v6port"] or match["v4port"] or DNS_PORT)
            if 0 < port < 65536:
                if match["v6"] is not None:
                    return ipaddress.IPv6Address(match["v6"]).compressed, port
                return str(ipaddress.IPv4Address(match["v4"])), port
    except ValueError:
        pass  # told below, in our words
    raise ValueError(f"a name server is an IP address, with or without a port, not {text!r}")
