from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.tls import Tlsa
from relayd.route.answers import Exchanger, Found, Kind, LookUp, NoData, NoName, Unavailable
from relayd.route.cache import FAILURE_TTL, MAX_NEGATIVE_TTL, MAX_TTL, MIN_TTL, Answer, Cache, CachingResolver, lifetime

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEY = ("example.org", Kind.A)
ADDRESS: Answer = Found(("192.0.2.1",), timedelta(minutes=5))


class SlowResolver:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: asyncio.Queue[LookUp[str]] = asyncio.Queue()

    async def exchangers(self, name: str) -> LookUp[Exchanger]:
        self.asked += 1
        await self.answers.get()
        return Found((Exchanger(0, name),), timedelta(minutes=5))

    async def addresses(self, name: str, kind: Kind) -> LookUp[str]:
        self.asked += 1
        return await self.answers.get()

    async def alias(self, name: str) -> LookUp[str]:
        self.asked += 1
        return await self.answers.get()

    async def associations(self, name: str) -> LookUp[Tlsa]:
        self.asked += 1
        await self.answers.get()
        return Found((Tlsa(usage=3, selector=1, matching=1, content=bytes(32)),), timedelta(minutes=5))

    async def texts(self, name: str) -> LookUp[str]:
        self.asked += 1
        return await self.answers.get()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (Found(("192.0.2.1",), timedelta(0)), MIN_TTL),
        (Found(("192.0.2.1",), timedelta(minutes=5)), timedelta(minutes=5)),
        (Found(("192.0.2.1",), timedelta(seconds=2**31)), MAX_TTL),
        (NoName(timedelta(0)), MIN_TTL),
        (NoName(timedelta(minutes=5)), timedelta(minutes=5)),
        (NoData(timedelta(days=7)), MAX_NEGATIVE_TTL),
        (Unavailable("SERVFAIL"), FAILURE_TTL),
    ],
)
def test_an_answer_is_kept_as_long_as_it_says_within_bounds(answer: Answer, kept: timedelta) -> None:
    cache = Cache()
    cache.put(KEY, answer, NOW)

    assert lifetime(answer) == kept
    assert cache.get(KEY, NOW + kept - timedelta(microseconds=1)) == answer
    assert cache.get(KEY, NOW + kept) is None


def test_a_clock_that_was_set_back_does_not_keep_an_answer() -> None:
    cache = Cache()
    cache.put(KEY, ADDRESS, NOW)

    assert cache.get(KEY, NOW - timedelta(days=365)) is None


def test_what_was_not_asked_for_the_longest_goes_first() -> None:
    cache = Cache(size=2)
    cache.put(("a.example", Kind.A), ADDRESS, NOW)
    cache.put(("b.example", Kind.A), ADDRESS, NOW)
    cache.get(("a.example", Kind.A), NOW)

    cache.put(("c.example", Kind.A), ADDRESS, NOW)

    assert cache.get(("a.example", Kind.A), NOW) == ADDRESS
    assert cache.get(("b.example", Kind.A), NOW) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3600)), max_size=100), st.integers(1, 10))
def test_the_cache_never_outgrows_its_size(puts: list[tuple[int, int]], size: int) -> None:
    cache = Cache(size=size)

    for number, seconds in puts:
        cache.put((f"{number}.example", Kind.A), ADDRESS, NOW + timedelta(seconds=seconds))

        assert len(cache) <= size


async def test_the_kinds_of_one_name_are_kept_apart() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)
    slow.answers.put_nowait(NoData())
    slow.answers.put_nowait(Found(("2001:db8::1",)))
    slow.answers.put_nowait(NoData())

    answers = [
        await resolver.addresses("example.org", Kind.A),
        await resolver.addresses("example.org", Kind.AAAA),
        await resolver.exchangers("example.org"),
    ]

    assert answers == [
        NoData(),
        Found(("2001:db8::1",)),
        Found((Exchanger(0, "example.org"),), timedelta(minutes=5)),
    ]


async def test_a_hundred_who_ask_at_once_share_one_query() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)

    asking = [asyncio.create_task(resolver.addresses("example.org", Kind.A)) for _ in range(100)]
    await until(lambda: slow.asked == 1)
    slow.answers.put_nowait(ADDRESS)

    assert await asyncio.gather(*asking) == [ADDRESS] * 100
    assert slow.asked == 1


async def test_an_asker_that_gives_up_leaves_the_answer_to_the_others() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)
    first = asyncio.create_task(resolver.addresses("example.org", Kind.A))
    await until(lambda: slow.asked == 1)
    second = asyncio.create_task(resolver.addresses("example.org", Kind.A))

    first.cancel()
    await asyncio.wait([first])
    slow.answers.put_nowait(ADDRESS)

    assert await second == ADDRESS
    assert slow.asked == 1


async def test_a_name_with_no_ttl_is_asked_for_at_most_once_a_second() -> None:
    slow = SlowResolver()
    now = NOW
    resolver = CachingResolver(slow, lambda: now)
    answers: list[LookUp[str]] = [Found(("192.0.2.1",)), NoName(), NoData(), Unavailable("SERVFAIL")]

    for number in range(200):
        slow.answers.put_nowait(answers[number % 4])
        await resolver.addresses("example.org", Kind.A)
        now += timedelta(milliseconds=100)

    assert slow.asked <= 20


async def test_what_was_forgotten_is_asked_for_again() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)
    slow.answers.put_nowait(ADDRESS)
    slow.answers.put_nowait(NoName())
    await resolver.addresses("example.org", Kind.A)

    resolver.clear()

    assert await resolver.addresses("example.org", Kind.A) == NoName()


async def test_what_was_asked_before_all_was_forgotten_is_told_to_who_asked_and_not_kept() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)
    before = asyncio.create_task(resolver.addresses("example.org", Kind.A))
    await until(lambda: slow.asked == 1)

    resolver.clear()
    after = asyncio.create_task(resolver.addresses("example.org", Kind.A))
    await until(lambda: slow.asked == 2)
    slow.answers.put_nowait(ADDRESS)
    slow.answers.put_nowait(NoName())

    assert (await before, await after) == (ADDRESS, NoName())
    assert await resolver.addresses("example.org", Kind.A) == NoName()
    assert slow.asked == 2


async def test_an_answer_that_comes_late_does_not_take_the_place_of_a_newer_one() -> None:
    slow = SlowResolver()
    resolver = CachingResolver(slow, lambda: NOW)
    before = asyncio.create_task(resolver.addresses("example.org", Kind.A))
    await until(lambda: slow.asked == 1)
    resolver.clear()
    slow.answers.put_nowait(ADDRESS)
    await before

    after = asyncio.create_task(resolver.addresses("example.org", Kind.A))
    await until(lambda: slow.asked == 2)
    slow.answers.put_nowait(NoName())

    assert await after == NoName()
