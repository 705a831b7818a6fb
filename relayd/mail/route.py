"""Where mail goes: a site, its hosts, their addresses, and what a connection to them demands."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from relayd.mail.tls import Demand, Sts, TlsPolicy, TlsSetup


class AddressFamily(Enum):
    """Which addresses of a host are used, and which first."""

    ANY = "any"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    PREFER_IPV4 = "prefer-ipv4"
    PREFER_IPV6 = "prefer-ipv6"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """For SMTP AUTH (RFC 4954): a password, which is never shown, or `oauth`: a token (RFC 6749), asked for when it is
    needed.  `mechanisms`, in upper case, are those that may be used, best first; empty: all that go with what there
    is."""

    username: str
    password: str = field(default="", repr=False)
    oauth: bool = False
    mechanisms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One mail exchanger or smart host: a name (lower-case A-label) or an IP address, and a port."""

    name: str
    port: int = 25
    implicit_tls: bool = False  # TLS from the first byte (RFC 8314 section 3.3)

    def __str__(self) -> str:
        return f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What destinations resolve to: the unit of connections, limits and back-off.

    `key` names it in the queue, the log and the command line, and is equal for equal sites across restarts: the
    hosts in order for mail exchangers, `route:NAME` for a smart-host route.  `hosts` are groups of equal preference,
    best first; within a group the order is chosen anew for each connection (RFC 5321 section 5.1).  Where what is
    demanded of TLS is not what is configured for all, the key says so.
    """

    key: str
    hosts: tuple[tuple[Host, ...], ...]
    tls: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    credentials: Credentials | None = None
    source_addresses: tuple[str, ...] = ()
    address_family: AddressFamily = AddressFamily.ANY
    sts: Sts | None = None
    dane: bool = True  # whether DANE is asked; False: the level above, and `sts`, are all
    setup: TlsSetup = field(default=TlsSetup())
    configured: bool = False  # by a [[route]]: exempt from the rules on loopback and private targets

    @property
    def strict(self) -> Site:
        """The same for a message with REQUIRETLS: every host has to prove its name (RFC 8689 section 4.2.1)."""
        return replace(self, tls=max(self.tls, TlsPolicy.VERIFY))

    @property
    def relaxed(self) -> Site:
        """The same for a message with `TLS-Required: No`: what its hosts publish counts for nothing (RFC 8689 section
        4.2.2); what we are configured to demand stays."""
        return replace(self, sts=None, dane=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One address of one host: what a connection is opened to."""

    host: Host
    address: str  # an IP address, as text
    demand: Demand = field(default=Demand(), compare=False)

    def __str__(self) -> str:
        return f"{self.host.name}[{self.address}]:{self.host.port}"
