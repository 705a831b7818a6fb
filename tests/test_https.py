"""HTTPS as a client, at real servers with certificates of their own, names by a real name server."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from relayd import __version__
from relayd.https import Https
from relayd.mail.https import HttpsError, HttpsFault, Response
from relayd.plugs import NamesPort
from relayd.route.resolver import DnsResolver
from relayd.route.router import Router
from relayd.route.settings import DnsSettings, RouteSettings
from tests.support.dns import FaultyDns
from tests.support.https import (
    Handler,
    HttpsServer,
    answering,
    cut_off,
    dripping,
    endless,
    hanging_up,
    stalling,
)
from tests.support.smtp import Authority

NAME = "www.test"
PATIENCE = timedelta(seconds=5)
LIMIT = 65536


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


class World:
    """A name server, an HTTPS client that asks it, and the authority that it trusts."""

    def __init__(self, dns: FaultyDns, ca_file: Path) -> None:
        self.dns = dns
        self.ca_file = ca_file
        self.router = self.routed()
        self.https = Https(NamesPort(lambda: self.router))

    def routed(self, **settings: Any) -> Router:
        resolver = DnsResolver(DnsSettings(nameservers=(self.dns.address,), timeout=timedelta(seconds=1)))
        rules = RouteSettings(hostname="relay.test", **{"allow_loopback": True, **settings})
        return Router(rules, resolver, clock=lambda: datetime.now(UTC), own_addresses=frozenset)

    async def get(self, server: HttpsServer, path: str = "/", *, host: str = NAME, **given: Any) -> Response:
        given = {"timeout": PATIENCE, "limit": LIMIT, "ca_file": self.ca_file, **given}
        return await self.https.get(f"https://{host}:{server.port}{path}", **given)


@pytest.fixture
async def world(authority: Authority, tmp_path: Path) -> AsyncIterator[World]:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    async with FaultyDns() as dns:
        dns.a(NAME, "127.0.0.1")
        world = World(dns, ca_file)
        try:
            yield world
        finally:
            await world.https.close()


@asynccontextmanager
async def a_server(
    authority: Authority, answer: Handler | bytes = b"hello", *names: str, **flaws: Any
) -> AsyncIterator[HttpsServer]:
    async with HttpsServer(authority.server(*(names or (NAME,)), **flaws)) as server:
        server.answers["/"] = answer
        yield server


async def fault_of(asking: Any) -> HttpsFault:
    with pytest.raises(HttpsError) as caught:
        await asking
    assert caught.value.reason
    return caught.value.kind


class TestAnswers:
    async def test_what_a_server_answers_comes_as_it_is(self, world: World, authority: Authority) -> None:
        answer = answering(200, b"hello", Content_Type="Text/Plain; charset=utf-8")
        async with a_server(authority, answer) as server:
            assert await world.get(server) == Response(status=200, content_type="text/plain", body=b"hello")

            (request,) = server.requests
            assert request.method == "GET"
            assert request.host == f"{NAME}:{server.port}"
            assert request.headers["User-Agent"] == f"relayd/{__version__}"
            assert request.headers["Accept-Encoding"] == "identity"

    async def test_a_post_brings_its_body_and_its_type(self, world: World, authority: Authority) -> None:
        async with a_server(authority, answering(201)) as server:
            url = f"https://{NAME}:{server.port}/"
            answer = await world.https.post(
                url,
                b"{}",
                content_type="application/json",
                headers={"Accept": "text/plain"},
                timeout=PATIENCE,
                limit=0,
                ca_file=world.ca_file,
            )

            assert answer.status == 201
            (request,) = server.requests
            assert (request.method, request.body) == ("POST", b"{}")
            assert request.headers["Content-Type"] == "application/json"
            assert request.headers["Accept"] == "text/plain"

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_a_redirect_is_not_followed(self, world: World, authority: Authority, status: int) -> None:
        async with a_server(authority, answering(status, Location="/other")) as server:
            server.answers["/other"] = b"moved"
            assert (await world.get(server)).status == status
            assert [request.path for request in server.requests] == ["/"]

    async def test_a_cookie_is_not_kept(self, world: World, authority: Authority) -> None:
        async with a_server(authority, answering(200, Set_Cookie="a=b")) as server:
            await world.get(server)
            await world.get(server)
            assert [request for request in server.requests if "Cookie" in request.headers] == []

    async def test_a_proxy_of_the_environment_is_not_used(
        self, world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        async with a_server(authority) as server:
            assert (await world.get(server)).status == 200

    async def test_an_answer_of_just_the_limit_is_taken(self, world: World, authority: Authority) -> None:
        async with a_server(authority, b"x" * 100_000) as server:
            assert len((await world.get(server, limit=100_000)).body) == 100_000
            assert await fault_of(world.get(server, limit=99_999)) is HttpsFault.TOO_LARGE

    async def test_an_answer_without_a_type_has_none(self, world: World, authority: Authority) -> None:
        async def bare(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(bare, "127.0.0.1", ssl=authority.server(NAME)) as server:
            url = f"https://{NAME}:{server.sockets[0].getsockname()[1]}/"
            answer = await world.https.get(url, timeout=PATIENCE, limit=LIMIT, ca_file=world.ca_file)

        assert answer == Response(status=200, content_type="", body=b"ok")


class TestCertificates:
    async def test_of_another_name(self, world: World, authority: Authority) -> None:
        async with a_server(authority, b"", "other.test") as server:
            assert await fault_of(world.get(server)) is HttpsFault.CERTIFICATE
            assert server.requests == []

    async def test_of_a_name_that_is_only_its_common_name(self, world: World, authority: Authority) -> None:
        async with a_server(authority, b"", "127.0.0.9", common_name=NAME) as server:
            assert await fault_of(world.get(server)) is HttpsFault.CERTIFICATE

    async def test_a_wildcard_is_good_for_one_label(self, world: World, authority: Authority) -> None:
        for host in ("a.www.test", "b.a.www.test"):
            world.dns.a(host, "127.0.0.1")
        async with a_server(authority, b"", "*.www.test") as server:
            assert (await world.get(server, host="a.www.test")).status == 200
            assert await fault_of(world.get(server, host="b.a.www.test")) is HttpsFault.CERTIFICATE

    async def test_of_an_authority_that_nobody_trusts(self, world: World) -> None:
        async with a_server(Authority()) as server:
            assert await fault_of(world.get(server)) is HttpsFault.CERTIFICATE

    async def test_the_systems_authorities_are_trusted_where_no_file_is_named(
        self, world: World, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with a_server(authority) as server:
            assert await fault_of(world.get(server, ca_file=None)) is HttpsFault.CERTIFICATE
            monkeypatch.setenv("SSL_CERT_FILE", str(world.ca_file))
            world.https.reload()
            assert (await world.get(server, ca_file=None)).status == 200

    async def test_that_have_expired(self, world: World, authority: Authority) -> None:
        async with a_server(authority, expired=True) as server:
            with pytest.raises(HttpsError, match="expired") as caught:
                await world.get(server)
            assert caught.value.kind is HttpsFault.CERTIFICATE

    async def test_authorities_that_cannot_be_read(self, world: World, authority: Authority, tmp_path: Path) -> None:
        async with a_server(authority) as server:
            assert await fault_of(world.get(server, ca_file=tmp_path / "none")) is HttpsFault.CERTIFICATE

    async def test_an_old_version_of_tls_is_not_spoken(self, world: World, authority: Authority) -> None:
        context = authority.server(NAME)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        async with HttpsServer(context) as server:
            assert await fault_of(world.get(server)) is HttpsFault.CONNECT


class TestTrouble:
    @pytest.mark.parametrize("answer", [stalling, dripping])
    async def test_the_whole_exchange_ends_in_time(self, world: World, authority: Authority, answer: Handler) -> None:
        async with a_server(authority, answer) as server:
            began = time.monotonic()
            assert await fault_of(world.get(server, timeout=timedelta(seconds=0.5))) is HttpsFault.TIMEOUT
            assert time.monotonic() - began < 3

    async def test_names_that_nobody_answers_for_count_as_well(self, world: World, authority: Authority) -> None:
        world.dns.silent(NAME, "A")
        async with a_server(authority) as server:
            assert await fault_of(world.get(server, timeout=timedelta(seconds=0.1))) is HttpsFault.TIMEOUT

    async def test_an_endless_answer_ends_at_the_limit(self, world: World, authority: Authority) -> None:
        async with a_server(authority, endless) as server:
            assert await fault_of(world.get(server)) is HttpsFault.TOO_LARGE

    async def test_a_compressed_answer_is_never_unpacked(self, world: World, authority: Authority) -> None:
        bomb = gzip.compress(bytes(10_000_000))
        assert len(bomb) < LIMIT
        async with a_server(authority, answering(200, bomb, Content_Encoding="gzip")) as server:
            assert await fault_of(world.get(server)) is HttpsFault.PROTOCOL

    @pytest.mark.parametrize("answer", [cut_off, hanging_up])
    async def test_an_answer_that_is_cut_off_is_none(self, world: World, authority: Authority, answer: Handler) -> None:
        async with a_server(authority, answer) as server:
            assert await fault_of(world.get(server)) is HttpsFault.PROTOCOL

    async def test_what_is_no_http_is_no_answer(self, world: World, authority: Authority) -> None:
        async def smtp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mx.test ESMTP\r\n")
            await writer.drain()
            writer.close()

        async with await asyncio.start_server(smtp, "127.0.0.1", ssl=authority.server(NAME)) as server:
            url = f"https://{NAME}:{server.sockets[0].getsockname()[1]}/"
            asking = world.https.get(url, timeout=PATIENCE, limit=LIMIT, ca_file=world.ca_file)
            assert await fault_of(asking) is HttpsFault.PROTOCOL

    async def test_a_server_that_speaks_no_tls_is_no_server(self, world: World) -> None:
        async with HttpsServer(None) as server:
            assert await fault_of(world.get(server)) is HttpsFault.CONNECT
            assert server.requests == []

    async def test_nobody_listens(self, world: World, authority: Authority) -> None:
        async with a_server(authority) as server:
            pass
        assert await fault_of(world.get(server)) is HttpsFault.CONNECT

    async def test_an_address_that_works_is_found_behind_one_that_does_not(
        self, world: World, authority: Authority
    ) -> None:
        world.dns.a("two.test", "127.0.0.9", "127.0.0.1")
        async with a_server(authority, b"", "two.test") as server:
            assert (await world.get(server, host="two.test")).status == 200

    async def test_who_waits_is_told_when_relayd_stops(self, world: World, authority: Authority) -> None:
        async with a_server(authority, stalling) as server:
            asking = asyncio.create_task(fault_of(world.get(server)))
            while not server.requests:
                await asyncio.sleep(0.01)
            await world.https.close()
            assert await asking is HttpsFault.PROTOCOL
            assert await fault_of(world.get(server)) is HttpsFault.CONNECT


class TestNames:
    async def test_without_an_address(self, world: World, authority: Authority) -> None:
        world.dns.servfail("broken.test")
        async with a_server(authority) as server:
            for host in ("nowhere.test", "broken.test"):
                assert await fault_of(world.get(server, host=host)) is HttpsFault.RESOLVE

    @pytest.mark.parametrize("host", [NAME, "127.0.0.1", "[::ffff:127.0.0.1]", "localhost"])
    async def test_of_strangers_do_not_lead_to_our_own_services(
        self, world: World, authority: Authority, host: str
    ) -> None:
        world.router = world.routed(allow_loopback=False)
        async with a_server(authority, b"", NAME, "127.0.0.1", "localhost") as server:
            assert await fault_of(world.get(server, host=host)) is HttpsFault.RESOLVE
            assert server.requests == []

    @pytest.mark.parametrize("host", ["127.1", "2130706433", "0177.0.0.1"])
    async def test_addresses_of_other_notations_are_none(self, world: World, authority: Authority, host: str) -> None:
        async with a_server(authority) as server:
            assert await fault_of(world.get(server, host=host)) is HttpsFault.PROTOCOL

    @pytest.mark.parametrize("host", [NAME, "127.0.0.1", "localhost"])
    async def test_that_the_operator_configured_do(self, world: World, authority: Authority, host: str) -> None:
        world.router = world.routed(allow_loopback=False)
        async with a_server(authority, b"", NAME, "127.0.0.1", "localhost") as server:
            assert (await world.get(server, host=host, configured=True)).status == 200

    async def test_what_was_configured_opens_no_way_for_strangers(self, world: World, authority: Authority) -> None:
        world.router = world.routed(allow_loopback=False)
        async with a_server(authority) as server:
            await world.get(server, configured=True)
            assert await fault_of(world.get(server)) is HttpsFault.RESOLVE


class TestUrls:
    @pytest.mark.parametrize(
        "url",
        [
            "http://www.test/",
            "ftp://www.test/",
            "file:///etc/passwd",
            "https:///",
            "https://user:secret@www.test/",
            "https://www.test:99999/",
            "www.test",
            "",
            "https://[::1/",
        ],
    )
    @pytest.mark.parametrize("configured", [False, True])
    async def test_of_other_kinds_are_refused(self, world: World, url: str, configured: bool) -> None:
        asking = world.https.get(url, timeout=PATIENCE, limit=LIMIT, configured=configured)
        assert await fault_of(asking) is HttpsFault.PROTOCOL

    async def test_only_the_operator_may_speak_clear_text_and_only_to_a_loopback_address(self, world: World) -> None:
        async with HttpsServer(None) as server:
            for configured, host in ((False, "127.0.0.1"), (True, NAME), (True, "192.0.2.1")):
                url = f"http://{host}:{server.port}/"
                asking = world.https.get(url, timeout=PATIENCE, limit=LIMIT, configured=configured)
                assert await fault_of(asking) is HttpsFault.PROTOCOL
            assert server.requests == []
            url = f"http://127.0.0.1:{server.port}/"
            answer = await world.https.post(
                url, b"", content_type="text/plain", timeout=PATIENCE, limit=LIMIT, configured=True
            )
            assert answer.status == 404


@pytest.mark.parametrize("part", ["relayd.__main__", "relayd.daemon", "relayd.workers.__main__"])
def test_aiohttp_is_not_imported_before_it_is_needed(part: str) -> None:
    check = f"import sys, {part}; sys.exit(any(name.partition('.')[0] in ('aiohttp', 'yarl') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
