"""What finds where mail goes, and what is needed to get in there: resolver, DANE, MTA-STS, tokens, router.

Built by daemon.py before all that asks it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from relayd.clock import Clock
from relayd.https import Https
from relayd.identity import Identity
from relayd.mail.events import Events
from relayd.mail.tls import TlsSession
from relayd.password import read_password
from relayd.plugs import NamesPort
from relayd.route.cache import CachingResolver
from relayd.route.own import own_addresses
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.sts_cache import StsCache
from relayd.route.sts_source import StsPolicies
from relayd.route.validation import DaneAvailability
from relayd.route.watched import Asked, WatchedResolver
from relayd.sections import Config
from relayd.settings import route_settings
from relayd.tokens.tokens import Tokens


class Routing:
    """See the module.

    `asked` is told of each question to the DNS, `sessions` of policies that could not be had, for reports.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        *,
        clock: Clock,
        events: Events,
        asked: Asked,
        sessions: Callable[[TlsSession], None],
    ) -> None:
        self._config = config
        self._clock = clock
        self.resolver = DnsResolver(config.dns)
        watched = WatchedResolver(self.resolver, asked)
        self._texts = CachingResolver(watched, clock)
        self._dane = DaneAvailability(self.resolver, events, lambda: self.router.forget(), wanted=config.tls.dane)
        self.https = Https(NamesPort(lambda: self.router))
        self._cache = StsCache(config.spool / "mta-sts", jitter=random.random, events=events)
        self.policies = StsPolicies(self._cache, self._texts, self.https, clock=clock, events=events, sessions=sessions)
        self.tokens = Tokens(
            config.token_rules,
            https=self.https,
            read_secret=lambda path: read_password(path, config.spool),
            clock=clock,
            events=events,
        )
        self.router = Router(
            route_settings(config, identity),
            watched,
            clock=clock,
            own_addresses=own_addresses,
            policies=self.policies,
            has_dane=self._dane.works,
        )

    async def load(self) -> None:
        """Take up the policies that an earlier start left."""
        await self._cache.load(self._clock())

    async def run(self) -> None:
        """Keep policies fresh, and know whether the resolver validates, until cancelled."""
        await asyncio.gather(self.policies.run(lambda: self._config.tls.mta_sts), self._dane.watch())

    def reload(self, config: Config, identity: Identity) -> None:
        """Use another configuration for what is asked from now on."""
        self._config = config
        self.resolver.reload(config.dns)
        self._dane.reload(wanted=config.tls.dane)
        self._texts.clear()
        self.https.reload()
        self.tokens.reload(config.token_rules)
        self.router.reload(route_settings(config, identity))

    async def close(self) -> None:
        """End what is under way."""
        await self.tokens.close()
        await self.policies.close()
        await self.https.close()
