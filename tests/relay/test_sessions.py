"""TLS sessions are resumed where that is safe, with real handshakes on both event loops; the server is the witness."""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from typing import cast

import pytest

from relayd.mail.route import Host, Site
from relayd.mail.tls import Proof, TlsPolicy, TlsSetup
from relayd.relay import tls
from tests.relay.kit import Bench, a_delivery, on, trusting
from tests.relay.test_tls import EHLO
from tests.support.smtp import Authority, ScriptedServer

LOOPS = ["asyncio", "uvloop"]
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def a_context(authority: Authority, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = authority.server("mx1.test", "mx2.test")
    context.maximum_version = version
    return context


def site_of(server: ScriptedServer, policy: TlsPolicy, name: str = "mx1.test", *, implicit: bool = False) -> Site:
    host = Host(name=name, port=server.port, implicit_tls=implicit)
    return Site(key="test", hosts=((host,),), tls=policy)


async def deliver(bench: Bench, *sites: Site) -> None:
    for number, site in enumerate(sites):
        assert (await bench.run(site, [a_delivery(name=f"M{len(bench.reports.attempts)}-{number}")])).delivered == 1


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", VERSIONS, ids=["1.2", "1.3"])
@pytest.mark.parametrize("policy", [TlsPolicy.OPPORTUNISTIC, TlsPolicy.VERIFY])
@pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])
def test_the_next_connection_to_a_host_resumes_the_session(
    loop: str, version: ssl.TLSVersion, policy: TlsPolicy, implicit: bool, authority: Authority, tmp_path: Path
) -> None:
    async def story() -> None:
        bench = Bench(contexts=trusting(authority.pem, tmp_path))
        context = a_context(authority, version)
        async with ScriptedServer({"EHLO": EHLO}, tls=context, implicit_tls=implicit) as server:
            await deliver(bench, *[site_of(server, policy, implicit=implicit)] * 3)
            assert [each.resumed for each in server.connections] == [False, True, True]
            assert len({attempt.tls for attempt in bench.reports.attempts}) == 1

    on(loop, story())


async def test_a_session_of_one_host_is_never_offered_to_another(authority: Authority, tmp_path: Path) -> None:
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        await deliver(bench, site_of(server, TlsPolicy.VERIFY), site_of(server, TlsPolicy.VERIFY, "mx2.test"))

        assert [each.resumed for each in server.connections] == [False, False]


async def test_what_nobody_authenticated_is_not_resumed_where_a_proof_is_demanded(
    authority: Authority, tmp_path: Path
) -> None:
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        await deliver(bench, site_of(server, TlsPolicy.REQUIRE), site_of(server, TlsPolicy.VERIFY))

        assert [each.resumed for each in server.connections] == [False, False]


async def test_a_host_that_lost_its_sessions_gets_a_full_handshake(authority: Authority, tmp_path: Path) -> None:
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        await deliver(bench, site_of(server, TlsPolicy.VERIFY))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as again:
        await deliver(bench, site_of(again, TlsPolicy.VERIFY))
        assert [each.resumed for each in again.connections] == [False]


async def test_an_impostor_cannot_use_the_session_of_the_host_it_stands_in_for(
    authority: Authority, tmp_path: Path
) -> None:
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        await deliver(bench, site_of(server, TlsPolicy.VERIFY))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(Authority())) as impostor:
        ended = await bench.run(site_of(impostor, TlsPolicy.VERIFY), [a_delivery(name="M9")])

        assert ended.failure is not None
        assert "certificate" in str(ended.failure)
        assert impostor.taken == []
        assert bench.contexts.of(TlsSetup(), Proof.PKIX)._find("mx1.test") is None


async def test_a_session_is_forgotten_in_the_end(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        await deliver(bench, site_of(server, TlsPolicy.VERIFY))
        now = time.monotonic()
        monkeypatch.setattr("relayd.relay.tls.time.monotonic", lambda: now + tls.SESSION_AGE.total_seconds() + 1)
        await deliver(bench, site_of(server, TlsPolicy.VERIFY))

        assert [each.resumed for each in server.connections] == [False, False]


async def test_sessions_are_bounded(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.relay.tls.MAX_SESSIONS", 1)
    bench = Bench(contexts=trusting(authority.pem, tmp_path))
    async with ScriptedServer({"EHLO": EHLO}, tls=a_context(authority)) as server:
        sites = [site_of(server, TlsPolicy.VERIFY, name) for name in ("mx1.test", "mx2.test", "mx1.test")]
        await deliver(bench, *sites)

        assert [each.resumed for each in server.connections] == [False, False, False]


class Spoken:
    """A connection that was spoken on, as far as a context looks at it: counts how often its session is asked for."""

    def __init__(self, name: str) -> None:
        self.server_hostname = name
        self.asked = 0

    @property
    def session(self) -> None:
        self.asked += 1


def asked(context: tls.ResumingContext, names: list[str]) -> int:
    """Return how often connections to these hosts, one after the other, were asked."""
    connections = [Spoken(name) for name in names]
    for connection in connections:
        context.keep(cast("ssl.SSLObject", connection))
    return sum(connection.asked for connection in connections)


def test_where_asking_for_a_session_leaks_it_is_done_once_in_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.relay.tls.ASKING_LEAKS", True)
    context, now = tls.ResumingContext(), time.monotonic()

    assert asked(context, ["mx1.test"] * 50 + ["mx2.test"] * 50) == 2

    monkeypatch.setattr("relayd.relay.tls.time.monotonic", lambda: now + tls.SESSION_AGE.total_seconds() + 1)
    assert asked(context, ["mx1.test"] * 50) == 1


def test_where_asking_for_a_session_leaks_it_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.relay.tls.ASKING_LEAKS", True)
    context = tls.ResumingContext()

    assert asked(context, [f"mx{number}.test" for number in range(tls.MOST_ASKED + 100)]) == tls.MOST_ASKED


def test_where_asking_for_a_session_does_not_leak_every_connection_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relayd.relay.tls.ASKING_LEAKS", False)

    assert asked(tls.ResumingContext(), ["mx1.test"] * 50) == 50
