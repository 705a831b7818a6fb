"""Where policies come from: a real name server, a real HTTPS server, a real disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relayd.https import Https
from relayd.mail.events import Event, Trouble, Warned
from relayd.mail.https import Response
from relayd.mail.tls import Source, TlsResult, TlsSession
from relayd.plugs import NamesPort
from relayd.route.cache import CachingResolver
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteSettings
from relayd.route.sts import Mode, StsPolicy
from relayd.route.sts_cache import StsCache
from relayd.route.sts_source import IN_USE, PAUSE, REFRESH_PAUSE, StsPolicies
from tests.support.dns import FaultyDns
from tests.support.https import Handler, HttpsServer, answering, cut_off, endless, hanging_up, stalling
from tests.support.smtp import Authority

NOW = datetime(2026, 11, 1, tzinfo=UTC)
SECOND, DAY = timedelta(seconds=1), timedelta(days=1)
D = "example.org"
PATH = "/.well-known/mta-sts.txt"


def text(mode: str = "enforce", mx: str = "mx1.example.org", max_age: int = 604800) -> bytes:
    return f"version: STSv1\r\nmode: {mode}\r\nmx: {mx}\r\nmax_age: {max_age}\r\n".encode()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class AtPort:
    """HTTPS, of which port 443 is another one: what the tests have no right to listen on."""

    def __init__(self, https: Https, port: int, ca_file: Path) -> None:
        self.https, self.port, self.ca_file = https, port, ca_file
        self.timeout: timedelta | None = None  # shorter than a minute
        self.most = self.now = 0  # at the same time

    async def get(self, url: str, *, timeout: timedelta, limit: int) -> Response:
        scheme, _, host, path = url.split("/", 3)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            return await self.https.get(
                f"{scheme}//{host}:{self.port}/{path}",
                timeout=self.timeout or timeout,
                limit=limit,
                ca_file=self.ca_file,
            )
        finally:
            self.now -= 1


class World:
    """A domain with a record and a policy, and starts of the daemon that ask for it; time stands still unless set."""

    def __init__(self, dns: FaultyDns, directory: Path, authority: Authority) -> None:
        self.dns = dns
        self.directory = directory
        self.authority = authority
        self.now = NOW
        self.events: list[Event] = []
        self.sessions: list[TlsSession] = []
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(authority.pem)
        self.asker = DnsResolver(DnsSettings(nameservers=(dns.address,), timeout=SECOND * 3))
        self.resolver = CachingResolver(self.asker, lambda: self.now)
        rules = RouteSettings(hostname="relay.test", allow_loopback=True)
        router = Router(rules, self.asker, clock=lambda: self.now, own_addresses=frozenset)
        self.https = Https(NamesPort(lambda: router))
        self.server = HttpsServer(authority.server("mta-sts.example.org"))
        self.fetcher = AtPort(self.https, 0, self.ca_file)
        self.policies: StsPolicies | None = None

    async def start(self, patience: timedelta = SECOND * 10) -> StsPolicies:
        """Start anew: what is in core is forgotten."""
        await self.stop()
        cache = StsCache(self.directory / "mta-sts", jitter=lambda: 1.0, events=self.events.append)
        await cache.load(self.now)
        self.resolver = CachingResolver(self.asker, lambda: self.now)
        self.policies = StsPolicies(
            cache,
            self.resolver,
            self.fetcher,
            clock=lambda: self.now,
            events=self.events.append,
            sessions=self.sessions.append,
            patience=patience,
        )
        return self.policies

    async def stop(self) -> None:
        if self.policies is not None:
            await self.policies.close()

    def publish(self, version: str, policy: bytes | Handler | None = None, domain: str = D) -> None:
        self.dns.txt(f"_mta-sts.{domain}", f"v=STSv1; id={version};")
        self.dns.a(f"mta-sts.{domain}", "127.0.0.1")
        self.resolver.clear()
        if policy is not None:
            self.server.answers[PATH] = policy

    def unpublish(self) -> None:
        self.dns.remove(f"_mta-sts.{D}")
        self.dns.remove(f"mta-sts.{D}")
        self.resolver.clear()

    @property
    def fetches(self) -> int:
        return len(self.server.requests)

    @asynccontextmanager
    async def another_server(self, *names: str, **flaws: Any) -> AsyncIterator[None]:
        """Serve the policy with another certificate."""
        async with HttpsServer((flaws.pop("by", None) or self.authority).server(*names, **flaws)) as server:
            server.answers = self.server.answers
            before, self.fetcher.port = self.fetcher.port, server.port
            yield
            self.fetcher.port = before


@pytest.fixture
async def world(authority: Authority, tmp_path: Path) -> AsyncIterator[World]:
    async with FaultyDns() as dns:
        world = World(dns, tmp_path, authority)
        async with world.server as server:
            world.fetcher.port = server.port
            world.publish("1", text())
            try:
                yield world
            finally:
                await world.stop()
                await world.https.close()


def mode_of(policy: StsPolicy | None) -> Mode | None:
    return policy.mode if policy else None


def reported(world: World) -> list[TlsResult]:
    for session in world.sessions:
        assert (session.domains, session.source, session.host) == ((D,), Source.MTA_STS, "")
        assert session.detail
    return [session.result for session in world.sessions]


def warnings(world: World) -> list[str]:
    assert not [event for event in world.events if isinstance(event, Trouble)]
    return [event.detail for event in world.events if isinstance(event, Warned)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


class TestAPolicy:
    async def test_is_fetched_once_and_then_known(self, world: World) -> None:
        policies = await world.start()
        policy = await policies.policy(D)

        assert policy is not None
        assert (policy.domain, policy.id, policy.mode, policy.mx) == (D, "1", Mode.ENFORCE, ("mx1.example.org",))
        assert policy == await policies.policy(D) == policies.known(D)
        (request,) = world.server.requests
        assert (request.method, request.path) == ("GET", PATH)
        assert request.host.partition(":")[0] == "mta-sts.example.org"
        assert (world.sessions, world.events) == ([], [])

    async def test_of_testing_is_one_and_none_is_none(self, world: World) -> None:
        policies = await world.start()
        world.publish("2", text("testing"))
        assert mode_of(await policies.policy(D)) is Mode.TESTING
        world.publish("3", text("none"))
        assert await policies.policy(D) is None
        assert mode_of(policies.known(D)) is Mode.NONE

    async def test_is_not_looked_for_without_a_record(self, world: World) -> None:
        world.unpublish()
        policies = await world.start()
        assert await policies.policy(D) is None
        assert await policies.policy("nowhere.example") is None
        assert (world.fetches, world.sessions) == (0, [])

    @pytest.mark.parametrize(
        "records", [["v=STSv1; id=1", "v=STSv1; id=2"], ["v=STSv1; id=1-2"], ["v=STSv1;"], ["v=spf1 -all"]]
    )
    async def test_is_not_looked_for_by_a_record_that_is_none(self, world: World, records: list[str]) -> None:
        world.dns.txt(f"_mta-sts.{D}", *records)
        policies = await world.start()
        assert await policies.policy(D) is None
        assert (world.fetches, world.sessions) == (0, [])

    async def test_of_the_parent_domain_counts_for_nothing(self, world: World) -> None:
        policies = await world.start()
        assert await policies.policy(f"mail.{D}") is None
        assert world.fetches == 0

    async def test_may_be_delegated_by_aliases(self, world: World) -> None:
        world.unpublish()
        world.dns.cname(f"_mta-sts.{D}", "_mta-sts.provider.example")
        world.dns.cname(f"mta-sts.{D}", "sts.provider.example")
        world.dns.txt("_mta-sts.provider.example", "v=STSv1; id=7")
        world.dns.a("sts.provider.example", "127.0.0.1")
        policy = await (await world.start()).policy(D)
        assert policy is not None
        assert policy.id == "7"

    async def test_is_fetched_again_when_its_id_changes(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        world.publish("2", text("testing"))
        policy = await policies.policy(D)
        assert policy is not None
        assert (policy.id, policy.mode, world.fetches) == ("2", Mode.TESTING, 2)

    async def test_survives_a_restart(self, world: World) -> None:
        policy = await (await world.start()).policy(D)
        assert await (await world.start()).policy(D) == policy is not None
        assert world.fetches == 1


class TestAFetchThatFails:
    """As if there were no policy, and reported (RFC 8461 section 3.3, RFC 8460 section 4.3)."""

    @pytest.mark.parametrize(
        ("answer", "result"),
        [
            (answering(404), TlsResult.STS_POLICY_FETCH_ERROR),
            (answering(500), TlsResult.STS_POLICY_FETCH_ERROR),
            (answering(204), TlsResult.STS_POLICY_FETCH_ERROR),
            (answering(206, text(), Content_Type="text/plain"), TlsResult.STS_POLICY_FETCH_ERROR),
            (answering(301, Location="/other"), TlsResult.STS_POLICY_FETCH_ERROR),
            (answering(200, text(), Content_Type="text/html"), TlsResult.STS_POLICY_INVALID),
            (answering(200, b"<html>", Content_Type="text/plain"), TlsResult.STS_POLICY_INVALID),
            (answering(200, b"", Content_Type="text/plain"), TlsResult.STS_POLICY_INVALID),
            (answering(200, text("what"), Content_Type="text/plain"), TlsResult.STS_POLICY_INVALID),
            (answering(200, text(max_age=31557601), Content_Type="text/plain"), TlsResult.STS_POLICY_INVALID),
            (endless, TlsResult.STS_POLICY_FETCH_ERROR),
            (cut_off, TlsResult.STS_POLICY_FETCH_ERROR),
            (hanging_up, TlsResult.STS_POLICY_FETCH_ERROR),
        ],
        ids=range(13),
    )
    async def test_by_its_answer(self, world: World, answer: Handler, result: TlsResult) -> None:
        world.publish("1", answer)
        world.server.answers["/other"] = text()
        assert await (await world.start()).policy(D) is None
        assert reported(world) == [result]
        assert warnings(world) == []
        assert world.fetches == (2 if answer is hanging_up else 1)  # see relayd/https.py

    @pytest.mark.parametrize(
        ("names", "flaws"),
        [
            (("example.org",), {}),
            (("provider.example",), {}),
            (("mta-sts.example.org",), {"expired": True}),
            (("mta-sts.example.org",), {"by": Authority()}),
        ],
        ids=["domain", "another name", "expired", "another authority"],
    )
    async def test_by_its_certificate(self, world: World, names: tuple[str, ...], flaws: dict[str, Any]) -> None:
        async with world.another_server(*names, **flaws):
            assert await (await world.start()).policy(D) is None
        assert reported(world) == [TlsResult.STS_WEBPKI_INVALID]

    async def test_by_a_wildcard_certificate_it_does_not(self, world: World) -> None:
        async with world.another_server("*.example.org"):
            assert mode_of(await (await world.start()).policy(D)) is Mode.ENFORCE

    async def test_by_its_name(self, world: World) -> None:
        world.dns.remove(f"mta-sts.{D}")
        assert await (await world.start()).policy(D) is None
        assert reported(world) == [TlsResult.STS_POLICY_FETCH_ERROR]

    async def test_is_not_repeated_for_the_same_id_within_five_minutes(self, world: World) -> None:
        world.publish("1", answering(503))
        policies = await world.start()
        for seconds, fetches in ((0, 1), (1, 1), (299, 1), (300, 2), (301, 2)):
            world.now = NOW + SECOND * seconds
            assert await policies.policy(D) is None
            assert world.fetches == fetches
        world.publish("2", text())
        assert await policies.policy(D)
        assert len(world.sessions) == 2


class TestAPolicyInForce:
    """A policy that is in force stays so, whatever is said or not said (RFC 8461 sections 3.3, 5.1 and 10.2)."""

    @pytest.mark.parametrize("trouble", ["removed", "SERVFAIL", "silent", "two", "broken"])
    async def test_outlives_its_record(self, world: World, trouble: str) -> None:
        policies = await world.start()
        policy = await policies.policy(D)
        name = f"_mta-sts.{D}"
        match trouble:
            case "removed":
                world.unpublish()
            case "SERVFAIL":
                world.dns.servfail(name)
            case "silent":
                world.dns.silent(name)
            case "two":
                world.dns.txt(name, "v=STSv1; id=1", "v=STSv1; id=2")
            case _:
                world.dns.txt(name, "v=STSv1; id=")
        world.resolver.clear()
        assert await policies.policy(D) == policy is not None
        assert await (await world.start()).policy(D) == policy

    @pytest.mark.parametrize("answer", [answering(404), answering(200, b"version: STSv1", Content_Type="text/plain")])
    async def test_outlives_a_fetch_that_fails_and_somebody_is_told(self, world: World, answer: Handler) -> None:
        policies = await world.start()
        policy = await policies.policy(D)
        world.publish("2", answer)
        for minutes in (0, 5, 10):
            world.now = NOW + timedelta(minutes=minutes)
            assert await policies.policy(D) == policy is not None
        assert (world.fetches, len(reported(world))) == (4, 3)
        (warning,) = warnings(world)
        assert D in warning
        world.publish("3", text("testing"))
        assert mode_of(await policies.policy(D)) is Mode.TESTING

    async def test_ends_when_it_has_aged(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        world.unpublish()
        world.now = NOW + DAY * 7 - SECOND
        assert await policies.policy(D)
        world.now = NOW + DAY * 7
        assert await policies.policy(D) is None

    async def test_of_mode_none_hides_the_trouble_that_follows(self, world: World) -> None:
        policies = await world.start()
        world.publish("2", text("none"))
        await policies.policy(D)
        world.publish("3", answering(404))
        assert await policies.policy(D) is None
        assert (world.sessions, world.events) == ([], [])

    async def test_that_ages_at_once_is_not_fetched_for_every_message(self, world: World) -> None:
        world.publish("1", text(max_age=0))
        policies = await world.start()
        for _ in range(5):
            world.now += SECOND * 10
            assert await policies.policy(D)
        assert world.fetches == 1


class TestMail:
    async def test_that_asks_together_waits_for_one_fetch(self, world: World) -> None:
        policies = await world.start()
        found = await asyncio.gather(*(policies.policy(D) for _ in range(50)))
        assert (len(set(found)), world.fetches) == (1, 1)
        assert world.dns.asked(f"_mta-sts.{D}", "TXT") == 1

    async def test_does_not_wait_for_long_and_the_fetch_goes_on(self, world: World) -> None:
        release = asyncio.Event()

        async def late(request: web.Request) -> web.StreamResponse:
            await release.wait()
            return web.Response(body=text(), content_type="text/plain")

        world.publish("1", late)
        policies = await world.start(patience=SECOND * 0.1)
        async with asyncio.timeout(5):
            assert await policies.policy(D) is None
        release.set()
        await until(lambda: policies.known(D) is not None)
        assert await policies.policy(D)
        assert (world.fetches, world.sessions) == (1, [])

    async def test_goes_by_the_old_policy_while_the_new_one_is_late(self, world: World) -> None:
        policies = await world.start(patience=SECOND * 0.1)
        assert await policies.policy(D) or await _soon(policies)
        world.publish("2", stalling)
        async with asyncio.timeout(5):
            assert mode_of(await policies.policy(D)) is Mode.ENFORCE

    async def test_that_gives_up_leaves_the_fetch_to_others(self, world: World) -> None:
        policies = await world.start()
        first = asyncio.create_task(policies.policy(D))
        await until(lambda: bool(world.dns.asked(f"_mta-sts.{D}")))
        first.cancel()
        assert await policies.policy(D)

    async def test_of_very_many_domains_opens_a_few_connections_at_once(self, world: World) -> None:
        names = [f"d{number}.example" for number in range(60)]
        for name in names:
            world.publish("1", domain=name)
        world.server.answers[PATH] = stalling
        world.fetcher.timeout = SECOND * 0.3
        policies = await world.start()
        async with asyncio.timeout(30):
            assert set(await asyncio.gather(*(policies.policy(name) for name in names))) == {None}
        assert 1 < world.fetcher.most <= 20

    async def test_is_let_go_when_relayd_stops(self, world: World) -> None:
        world.publish("1", stalling)
        policies = await world.start()
        asking = asyncio.create_task(policies.policy(D))
        await until(lambda: world.fetches == 1)
        await policies.close()
        assert await asking is None


async def _soon(policies: StsPolicies) -> bool:
    await until(lambda: policies.known(D) is not None)
    return True


class TestRefreshing:
    async def test_is_daily_though_the_id_is_the_same(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        await policies.refresh()
        assert world.fetches == 1
        world.now = NOW + DAY
        await policies.refresh()
        assert world.fetches == 2
        known = policies.known(D)
        assert known is not None
        assert known.expires == NOW + DAY * 8

    async def test_is_begun_by_mail_that_does_not_wait_for_it(self, world: World) -> None:
        policies = await world.start()
        first = await policies.policy(D)
        world.now = NOW + DAY
        assert await policies.policy(D) == first
        await until(lambda: policies.known(D) != first)
        assert world.fetches == 2

    async def test_that_fails_is_told_of_and_repeated_hourly(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        world.publish("1", answering(404))
        for after, fetches in ((DAY, 2), (DAY + PAUSE, 2), (DAY + REFRESH_PAUSE, 3)):
            world.now = NOW + after
            await policies.refresh()
            assert await policies.policy(D)
            assert world.fetches == fetches
        assert reported(world) == [TlsResult.STS_POLICY_FETCH_ERROR] * 2
        assert len(warnings(world)) == 1

    async def test_that_fails_after_it_succeeded_is_told_of_again(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        answers: list[bytes | Handler] = [answering(404), text(), answering(404)]
        for days, answer in enumerate(answers, 1):
            world.now = NOW + DAY * days
            world.publish("1", answer)
            await policies.refresh()
        assert len(warnings(world)) == 2

    async def test_without_a_record_is_told_of(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        world.unpublish()
        for after in (DAY, DAY + PAUSE, DAY + REFRESH_PAUSE):
            world.now = NOW + after
            await policies.refresh()
        assert reported(world) == [TlsResult.STS_POLICY_FETCH_ERROR] * 2
        (warning,) = warnings(world)
        assert "no TXT record" in warning

    async def test_is_for_what_is_in_use(self, world: World) -> None:
        world.publish("1", text(max_age=31557600))
        policies = await world.start()
        await policies.policy(D)
        world.now = NOW + IN_USE
        await policies.refresh()
        assert world.fetches == 1
        assert policies.known(D)
        assert await policies.policy(D)
        await until(lambda: world.fetches == 2)

    async def test_takes_what_the_new_id_says(self, world: World) -> None:
        policies = await world.start()
        await policies.policy(D)
        world.publish("2", text("none"))
        world.now = NOW + DAY
        await policies.refresh()
        assert mode_of(policies.known(D)) is Mode.NONE

    async def test_of_many_policies_goes_on_by_the_few(self, world: World) -> None:
        names = [f"d{number}.example" for number in range(30)]
        async with world.another_server(*(f"mta-sts.{name}" for name in names)):
            for name in names:
                world.publish("1", domain=name)
            policies = await world.start()
            await asyncio.gather(*(policies.policy(name) for name in names))
            world.now, world.fetcher.most = NOW + DAY, 0
            await policies.refresh()
            assert {policies.known(name).fetched for name in names} == {NOW + DAY}  # type: ignore[union-attr]
            assert 1 < world.fetcher.most <= 5
