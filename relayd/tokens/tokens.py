"""The tokens of all routes: a `Tokens` of relayd/relay/ports.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime

from relayd.mail.events import Events
from relayd.mail.outcome import Deferred, Scope
from relayd.tokens.ports import Poster, ReadSecret
from relayd.tokens.settings import TokenRule
from relayd.tokens.source import NO_TOKEN, Source


class Tokens:
    """See the module."""

    def __init__(
        self,
        rules: Iterable[TokenRule],
        *,
        https: Poster,
        read_secret: ReadSecret,
        clock: Callable[[], datetime],
        events: Events,
    ) -> None:
        self._new: Callable[[TokenRule], Source] = lambda rule: Source(
            rule, https=https, read_secret=read_secret, clock=clock, events=events
        )
        self._sources = {rule.site: self._new(rule) for rule in rules}
        self._closing: set[asyncio.Task[None]] = set()

    async def token(self, site: str, *, rejected: str = "") -> str | Deferred:
        """See relayd/relay/ports.py."""
        source = self._sources.get(site)
        if source is None:  # a relayer that began before the configuration changed
            reason = f"{site} is not configured for OAuth any more"
            return Deferred(scope=Scope.HOST, reason=reason, status=NO_TOKEN)
        return await source.token(rejected)

    def reload(self, rules: Iterable[TokenRule]) -> None:
        """Use other rules from the next call on; failures are forgotten."""
        before, self._sources = self._sources, {}
        for rule in rules:
            source = before.pop(rule.site, None)
            if source is None:
                source = self._new(rule)
            else:
                source.reload(rule)
            self._sources[rule.site] = source
        for gone in before.values():
            task = asyncio.create_task(gone.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End what is under way."""
        await asyncio.gather(*self._closing, *(source.close() for source in self._sources.values()))
