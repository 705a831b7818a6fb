"""A bounded memory of answers that honours their TTL, and a resolver that asks through it.

`Cache` is pure: time is an argument.  Invariants:

    An answer is kept at least MIN_TTL, so that a name is asked for at most once a second whatever its TTL says,
    and at most MAX_TTL, so that a TTL of 68 years cannot outlive the address that it was for.
    What does not exist is kept at most MAX_NEGATIVE_TTL (RFC 2308 section 5), what failed FAILURE_TTL (section 7).
    At most `size` answers are kept; the one that was not asked for the longest goes first.  Each call is O(1).

`CachingResolver` lets askers of one name at one time share one query.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeAlias, cast

from relayd.mail.tls import Tlsa
from relayd.route.answers import Exchanger, Found, Kind, LookUp, NoData, NoName, Resolver, Unavailable

MIN_TTL = timedelta(seconds=5)
MAX_TTL = timedelta(days=1)
MAX_NEGATIVE_TTL = timedelta(hours=1)
FAILURE_TTL = timedelta(seconds=5)  # RFC 2308 section 7 allows 5 minutes; a resolver that came back is to be used
SIZE = 10_000  # answers: some 10 MB at most

Key: TypeAlias = tuple[str, Kind]
Answer: TypeAlias = LookUp[Any]


def lifetime(answer: Answer) -> timedelta:
    """Return for how long an answer is kept."""
    match answer:
        case Found(ttl=ttl):
            return min(max(ttl, MIN_TTL), MAX_TTL)
        case NoName(ttl=ttl) | NoData(ttl=ttl):
            return min(max(ttl, MIN_TTL), MAX_NEGATIVE_TTL)
        case Unavailable():
            return FAILURE_TTL


class Cache:
    """See the module."""

    def __init__(self, size: int = SIZE) -> None:
        self._size = size
        self._kept: OrderedDict[Key, tuple[datetime, datetime, Answer]] = OrderedDict()

    def get(self, key: Key, now: datetime) -> Answer | None:
        """Return the answer for `key` if there is one that is still good at `now`."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        since, until, answer = kept
        if not since <= now < until:  # a clock that was set back must not keep an answer for years
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return answer

    def put(self, key: Key, answer: Answer, now: datetime) -> None:
        """Keep an answer that came at `now`."""
        self._kept[key] = (now, now + lifetime(answer), answer)
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)


class CachingResolver:
    """A Resolver that remembers what another one said."""

    def __init__(self, resolver: Resolver, clock: Callable[[], datetime], *, size: int = SIZE) -> None:
        self._resolver = resolver
        self._clock = clock
        self._cache = Cache(size)
        self._asking: dict[Key, asyncio.Task[Answer]] = {}

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        """See Resolver."""
        return cast(LookUp[Exchanger], await self._answer((name, Kind.MX)))

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        """See Resolver."""
        return cast(LookUp[str], await self._answer((name, kind)))

    async def alias(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return cast(LookUp[str], await self._answer((name, Kind.CNAME)))

    async def associations(self, name: str) -> LookUp[Tlsa]:
        """See Resolver."""
        return cast(LookUp[Tlsa], await self._answer((name, Kind.TLSA)))

    async def texts(self, name: str) -> LookUp[str]:
        """See Resolver."""
        return cast(LookUp[str], await self._answer((name, Kind.TXT)))

    async def all_addresses(self, names: Iterable[str]) -> dict[str, tuple[LookUp[str], LookUp[str]]]:
        """Return the A and the AAAA answer for every name, looked up concurrently; at once if all are kept."""
        now = self._clock()
        answers = {(name, kind): self._cache.get((name, kind), now) for name in names for kind in (Kind.A, Kind.AAAA)}
        missing = [key for key, answer in answers.items() if answer is None]
        if missing:
            async with asyncio.TaskGroup() as group:
                tasks = {key: group.create_task(self._answer(key)) for key in missing}
            answers |= {key: task.result() for key, task in tasks.items()}
        found = cast(dict[Key, LookUp[str]], answers)
        return {name: (found[name, Kind.A], found[name, Kind.AAAA]) for name, _ in found}

    def clear(self) -> None:
        """Forget all answers; those to queries under way go to who asked, and to nobody else."""
        self._cache.clear()
        self._asking = {}

    async def _answer(self, key: Key) -> Answer:
        kept = self._cache.get(key, self._clock())
        if kept is not None:
            return kept
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, self._asking))
        # An asker that is cancelled must not take the answer away from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Key, asking: dict[Key, asyncio.Task[Answer]]) -> Answer:
        try:
            answer = await self._query(*key)
            if asking is self._asking:
                self._cache.put(key, answer, self._clock())
            return answer
        finally:
            del asking[key]

    def _query(self, name: str, kind: Kind) -> Coroutine[Any, Any, Answer]:
        match kind:
            case Kind.MX:
                return self._resolver.exchangers(name)
            case Kind.TXT:
                return self._resolver.texts(name)
            case Kind.A | Kind.AAAA:
                return self._resolver.addresses(name, kind)
            case Kind.CNAME:
                return self._resolver.alias(name)
            case Kind.TLSA:
                return self._resolver.associations(name)
