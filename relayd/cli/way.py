"""The way that mail to a destination would take, asked step by step without a daemon: for `route` and `probe`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from relayd.https import Https
from relayd.identity import hostname_of_machine, identity
from relayd.mail.address import Address, parse_domain
from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import Host, Site, Target
from relayd.mail.tls import Demand
from relayd.plugs import NamesPort
from relayd.route.own import own_addresses
from relayd.route.policy import DaneVerdict
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.sts import StsPolicy
from relayd.route.sts_cache import StsCache
from relayd.route.sts_source import StsPolicies
from relayd.route.validation import DaneAvailability
from relayd.sections import Config
from relayd.settings import route_settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One host: what DANE says of it, what is demanded of a connection to it, and where it is connected to."""

    host: Host
    preference: int  # 1 is the best; equal ones are tried in an order of chance
    dane: DaneVerdict
    demand: Demand | Deferred
    targets: tuple[Target, ...] | Deferred | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """All of it; `policy` is MTA-STS's, `steps` is empty where there is no site."""

    subject: str
    destination: str
    where: Site | Deferred | Failed
    policy: StsPolicy | None = None
    steps: tuple[Step, ...] = ()


def destination_of(subject: str) -> str:
    """Return the destination of an address or a domain.

    Raises:
        InvalidAddress: it is neither.
    """
    return Address.parse(subject).domain if "@" in subject else parse_domain(subject)


@asynccontextmanager
async def router_of(config: Config) -> AsyncIterator[Router]:
    """A router as the daemon has it."""
    us = identity(config.relay.hostname, hostname_of_machine(), own_addresses())
    resolver = DnsResolver(config.dns)
    dane = DaneAvailability(resolver, lambda event: None, lambda: None, wanted=config.tls.dane)
    await dane.look()
    https = Https(NamesPort(lambda: router))
    policies = await _policies(config.spool / "mta-sts", resolver, https)
    router = Router(
        route_settings(config, us),
        resolver,
        clock=_now,
        own_addresses=own_addresses,
        policies=policies,
        has_dane=dane.works,
    )
    try:
        yield router
    finally:
        await policies.close()
        await https.close()


async def _policies(directory: Path, resolver: DnsResolver, https: Https) -> StsPolicies:
    """Return a source of MTA-STS policies that begins with what the daemon knows, and leaves that as it is."""
    cache = StsCache(directory, jitter=lambda: 1.0, events=lambda event: None, read_only=True)
    await cache.load(_now())
    return StsPolicies(cache, resolver, https, clock=_now, events=lambda event: None, sessions=lambda session: None)


def _now() -> datetime:
    return datetime.now(UTC)


async def find(router: Router, subject: str) -> Way:
    """Ask the way."""
    destination = destination_of(subject)
    where = await router.route(destination)
    policy, steps = None, []
    if isinstance(where, Site):
        policy = await router.policy(destination)
        for preference, group in enumerate(where.hosts, 1):
            steps += [await _step(router, destination, where, host, preference) for host in group]
    return Way(subject=subject, destination=destination, where=where, policy=policy, steps=tuple(steps))


async def _step(router: Router, destination: str, site: Site, host: Host, preference: int) -> Step:
    dane, demand = await router.demand(host, site, (destination,))
    found = await router.addresses(host, site, (destination,))
    targets = found if isinstance(found, Deferred | Failed) else tuple(found)
    return Step(host=host, preference=preference, dane=dane, demand=demand, targets=targets)
