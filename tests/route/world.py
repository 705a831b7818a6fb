"""What the tests of the router share: a DNS server, a router that asks it, and a clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.route import Site
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteSettings
from tests.support.dns import FaultyDns

SETTINGS = RouteSettings(hostname="relay.example.net")
OWN = frozenset({"198.51.100.7", "2001:db8::7"})


class World:
    """A DNS server, a router that asks it, and a clock that stands still unless it is set."""

    def __init__(self, dns: FaultyDns) -> None:
        self.dns = dns
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.router = self.routed()

    def routed(self, settings: RouteSettings = SETTINGS) -> Router:
        resolver = DnsResolver(DnsSettings(nameservers=(self.dns.address,), timeout=timedelta(seconds=1)))
        return Router(settings, resolver, clock=lambda: self.now, own_addresses=lambda: OWN)


def failed(outcome: Site | Deferred | Failed, status: str) -> bool:
    return isinstance(outcome, Failed) and str(outcome.dsn) == status and outcome.scope is Scope.MESSAGE


def deferred(outcome: Site | Deferred | Failed, status: str) -> bool:
    return isinstance(outcome, Deferred) and str(outcome.dsn) == status and outcome.scope is Scope.MESSAGE


def key_of(outcome: Site | Deferred | Failed) -> str:
    assert isinstance(outcome, Site), outcome
    return outcome.key
