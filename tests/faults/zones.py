"""Zones for one domain each: how a mail exchanger that is well is led to, or is not."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from tests.support.dns import FaultyDns

Zone = Callable[[FaultyDns, str, str], None]  # the server, the domain, the address of a mail exchanger that is well


def chain(dns: FaultyDns, name: str, length: int) -> str:
    """Make `name` an alias of an alias, and so on; return the last name."""
    names = [name, *(f"a{number}.{name}" for number in range(length))]
    for alias, target in pairwise(names):
        dns.cname(alias, target)
    return names[-1]


def exchanged(dns: FaultyDns, name: str, address: str) -> None:
    dns.mx(name, (10, f"mx.{name}"))
    dns.a(f"mx.{name}", address)


def nodata(dns: FaultyDns, name: str, address: str) -> None:
    dns.exists(name)


def implicit(dns: FaultyDns, name: str, address: str) -> None:
    dns.a(name, address)


def troubled(trick: Callable[[FaultyDns, str], None]) -> Zone:
    """The domain has an address, which must not be used while nobody can tell its mail exchangers."""

    def zone(dns: FaultyDns, name: str, address: str) -> None:
        dns.a(name, address)
        trick(dns, name)

    return zone


def hosts_trouble(dns: FaultyDns, name: str, address: str) -> None:
    dns.a(name, address)
    dns.mx(name, (10, f"mx1.{name}"), (20, f"mx2.{name}"))
    dns.servfail(f"mx1.{name}")
    dns.servfail(f"mx2.{name}")


def hosts_missing(dns: FaultyDns, name: str, address: str) -> None:
    dns.a(name, address)
    dns.mx(name, (10, f"mx1.{name}"), (20, f"mx2.{name}"))


def one_host_left(dns: FaultyDns, name: str, address: str) -> None:
    dns.mx(name, (10, f"mx1.{name}"), (20, f"mx2.{name}"), (30, f"mx3.{name}"))
    dns.servfail(f"mx1.{name}")
    dns.a(f"mx3.{name}", address)


def null_mx(dns: FaultyDns, name: str, address: str) -> None:
    dns.a(name, address)
    dns.null_mx(name)


def null_mx_beside_another(dns: FaultyDns, name: str, address: str) -> None:
    dns.mx(name, (0, "."), (10, f"mx.{name}"))
    dns.a(f"mx.{name}", address)


def host_is_an_alias(dns: FaultyDns, name: str, address: str) -> None:
    dns.mx(name, (10, f"alias.{name}"))
    dns.cname(f"alias.{name}", f"mx.{name}")
    dns.a(f"mx.{name}", address)


def domain_is_an_alias(dns: FaultyDns, name: str, address: str) -> None:
    exchanged(dns, f"real.{name}", address)
    dns.cname(name, f"real.{name}")


def loop(dns: FaultyDns, name: str, address: str) -> None:
    dns.cname(name, f"other.{name}")
    dns.cname(f"other.{name}", name)


def host_in_a_loop(dns: FaultyDns, name: str, address: str) -> None:
    dns.mx(name, (10, f"mx.{name}"))
    loop(dns, f"mx.{name}", address)


def chain_of_twenty(dns: FaultyDns, name: str, address: str) -> None:
    exchanged(dns, chain(dns, name, 20), address)


def chain_of_ten(dns: FaultyDns, name: str, address: str) -> None:
    exchanged(dns, chain(dns, name, 10), address)


def address_as_a_host(dns: FaultyDns, name: str, address: str) -> None:
    dns.a(name, address)
    dns.mx(name, (10, address))
    dns.a(address, address)


def with_trick(trick: Callable[[FaultyDns, str], None]) -> Zone:
    """A domain that is well, but for how its server answers."""

    def zone(dns: FaultyDns, name: str, address: str) -> None:
        exchanged(dns, name, address)
        for each in (name, f"mx.{name}"):
            trick(dns, each)

    return zone
