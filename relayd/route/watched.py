"""A Resolver that tells what another one was asked, how that went, and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

from relayd.mail.tls import Tlsa
from relayd.route.answers import Exchanger, Found, Kind, LookUp, NoData, NoName, Resolver

T = TypeVar("T", bound=LookUp[Any])
Asked: TypeAlias = Callable[[str, str, float], None]  # the kind of record, the result in a word, seconds


class WatchedResolver:
    """See the module.  `asked` does not block."""

    def __init__(self, resolver: Resolver, asked: Asked) -> None:
        self._resolver = resolver
        self._asked = asked

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """See Resolver."""
        return await self._told(Kind.MX, self._resolver.exchangers(name))

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """See Resolver."""
        return await self._told(kind, self._resolver.addresses(name, kind))

    async def alias(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return await self._told(Kind.CNAME, self._resolver.alias(name))

    async def associations(self, name: str) -> LookUp[Tlsa]:
        """See Resolver."""
        return await self._told(Kind.TLSA, self._resolver.associations(name))

    async def texts(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return await self._told(Kind.TXT, self._resolver.texts(name))

    async def _told(self, kind: Kind, asking: Awaitable[T]) -> T:
        clock = asyncio.get_running_loop().time
        began = clock()
        answer = await asking
        self._asked(kind.name, _word(answer), clock() - began)
        return answer


def _word(answer: LookUp[Any]) -> str:
    match answer:
        case Found():
            return "found"
        case NoName():
            return "no-name"
        case NoData():
            return "no-data"
        case _:
            return "unavailable"
