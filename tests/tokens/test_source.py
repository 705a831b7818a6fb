"""Getting tokens from a real server, as many relayers ask."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from relayd.https import Https
from relayd.mail.events import Degraded, Event, Restored
from relayd.mail.outcome import Deferred, Scope
from relayd.password import read_password
from relayd.tokens.settings import TokenRule
from relayd.tokens.tokens import Tokens
from tests.support.oauth import PATH, TokenServer

SITE = "route:r"
SECRET = "client-secret-of-ours"


class Literal:
    """Names that are addresses."""

    async def addresses(self, name: str, *, configured: bool) -> list[str]:
        return [name]


class Bench:
    """Tokens of one route, a server for them, and a clock that a test sets."""

    def __init__(self, server: TokenServer, directory: Path, **fields: Any) -> None:
        self.server = server
        self.now = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
        self.events: list[Event] = []
        self.file = directory / "refresh"
        url = f"http://127.0.0.1:{server.port}{PATH}"
        self.rule = TokenRule(route="r", url=url, client_id="us", **{"client_secret": SECRET, **fields})
        self.https = Https(Literal())
        self.tokens = Tokens(
            [self.rule],
            https=self.https,
            read_secret=lambda path: read_password(path, directory),
            clock=lambda: self.now,
            events=self.events.append,
        )

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    async def token(self, rejected: str = "") -> str | Deferred:
        return await self.tokens.token(SITE, rejected=rejected)

    async def settled(self) -> None:
        """Until no request is under way."""
        while self.tokens._sources[SITE]._request is not None:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_bench(directory: Path, *, refresh: str = "", **fields: Any) -> AsyncIterator[Bench]:
    async with TokenServer(None) as server:
        if refresh:
            write(directory / "refresh", refresh)
            fields |= {"refresh_token": refresh, "refresh_token_file": directory / "refresh"}
        bench = Bench(server, directory, **fields)
        try:
            yield bench
        finally:
            await bench.tokens.close()
            await bench.https.close()


def write(path: Path, text: str) -> None:
    path.write_text(text + "\n")
    path.chmod(0o600)


async def test_however_many_ask_there_is_one_request(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        got = await asyncio.gather(*(bench.token() for _ in range(50)))
        got.append(await bench.token())

        assert set(got) == {"token-1-of-the-server"}
        assert [form["grant_type"] for form in bench.server.requested] == ["client_credentials"]


async def test_who_asks_and_is_cancelled_does_not_end_the_request_of_the_others(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        one, other = asyncio.create_task(bench.token()), asyncio.create_task(bench.token())
        await asyncio.sleep(0)
        one.cancel()

        assert await other == "token-1-of-the-server"
        assert len(bench.server.requests) == 1


async def test_a_token_that_is_due_is_given_out_while_another_is_got(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        assert await bench.token() == "token-1-of-the-server"
        bench.later(minutes=47)
        assert await bench.token() == "token-1-of-the-server"
        assert len(bench.server.requests) == 1

        bench.later(minutes=2)
        assert await bench.token() == "token-1-of-the-server"
        await bench.settled()
        assert await bench.token() == "token-2-of-the-server"


async def test_a_server_that_is_down_stops_nothing_while_the_token_serves(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        await bench.token()
        bench.server.script = [(503, {})]
        bench.later(minutes=50)
        await bench.token()
        await bench.settled()

        assert await bench.token() == "token-1-of-the-server"
        assert [type(event) for event in bench.events] == [Degraded]
        bench.later(seconds=5)
        await bench.token()
        await bench.settled()
        assert await bench.token() == "token-2-of-the-server"
        assert [type(event) for event in bench.events] == [Degraded, Restored]


async def test_one_that_was_rejected_is_not_given_out_again_and_costs_one_request(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        first = await bench.token()
        assert isinstance(first, str)
        got = await asyncio.gather(*(bench.token(rejected=first) for _ in range(20)))

        assert set(got) == {"token-2-of-the-server"}
        assert await bench.token(rejected=first) == "token-2-of-the-server"
        assert len(bench.server.requests) == 2


@pytest.mark.parametrize(
    ("answer", "first", "longest"),
    [
        ((503, {}), timedelta(seconds=5), timedelta(minutes=10)),
        ((400, {"error": "invalid_client"}), timedelta(minutes=1), timedelta(hours=1)),
    ],
)
async def test_a_failure_leaves_the_server_alone_longer_each_time(
    tmp_path: Path, answer: tuple[int, dict[str, Any]], first: timedelta, longest: timedelta
) -> None:
    async with a_bench(tmp_path) as bench:
        bench.server.script = [answer] * 30
        wait = first
        for count in range(1, 15):
            assert isinstance(await bench.token(), Deferred)
            assert isinstance(await bench.token(), Deferred)
            assert len(bench.server.requests) == count
            bench.now += wait - timedelta(seconds=1)
            assert isinstance(await bench.token(), Deferred)
            assert len(bench.server.requests) == count
            bench.later(seconds=1)
            wait = min(wait * 2, longest)

        assert len([event for event in bench.events if isinstance(event, Degraded)]) == 1


async def test_a_refusal_names_the_route_and_what_to_do_and_no_secret(tmp_path: Path) -> None:
    async with a_bench(tmp_path, refresh="refresh-1") as bench:
        detail = f"{SECRET} is not for refresh-1 " + "x" * 163 + f" {SECRET} " + "y" * 500  # the last one at the cut
        bench.server.script = [(400, {"error": "invalid_grant", "error_description": detail})]
        deferred = await bench.token()

        assert isinstance(deferred, Deferred)
        assert (deferred.scope, str(deferred.dsn)) == (Scope.HOST, "4.7.0")
        assert "route r: the token server says invalid_grant" in str(deferred)
        assert f"put the new refresh token into {bench.file}, and reload relayd" in str(deferred)
        for text in (str(deferred), repr(bench.events)):
            assert "([secret] is not for [secret] xxx" in text
            assert "clien" not in text
            assert "refresh-1" not in text


async def test_a_reload_with_another_refresh_token_mends_it_at_once(tmp_path: Path) -> None:
    async with a_bench(tmp_path, refresh="revoked") as bench:
        bench.server.refresh_token = "good"
        assert isinstance(await bench.token(), Deferred)
        write(bench.file, "good")
        assert isinstance(await bench.token(), Deferred)

        bench.tokens.reload([replace(bench.rule, refresh_token="good")])
        assert await bench.token() == "token-1-of-the-server"
        assert isinstance(bench.events[-1], Restored)


async def test_what_was_put_into_the_file_is_used_without_a_reload_once_the_server_is_asked_again(
    tmp_path: Path,
) -> None:
    async with a_bench(tmp_path, refresh="revoked") as bench:
        bench.server.refresh_token = "good"
        assert isinstance(await bench.token(), Deferred)
        write(bench.file, "good")
        bench.later(minutes=1)

        assert await bench.token() == "token-1-of-the-server"


async def test_a_refresh_token_that_the_server_replaces_is_used_and_kept(tmp_path: Path) -> None:
    async with a_bench(tmp_path, refresh="refresh-1-of-the-server") as bench:
        bench.server.rotating = True
        bench.server.refresh_token = "refresh-1-of-the-server"
        for count in (1, 2, 3):
            assert await bench.token() == f"token-{count}-of-the-server"
            assert bench.file.read_text() == f"refresh-{count + 1}-of-the-server\n"
            bench.later(hours=2)

        bench.tokens.reload([replace(bench.rule, refresh_token="refresh-4-of-the-server")])
        assert await bench.token() == "token-4-of-the-server"
        assert bench.events == []


async def test_one_that_cannot_be_written_is_told_loudly_and_goes_on_over_a_reload(tmp_path: Path) -> None:
    async with a_bench(tmp_path, refresh="refresh-1-of-the-server") as bench:
        bench.server.rotating = True
        bench.server.refresh_token = "refresh-1-of-the-server"
        bench.tokens.reload([replace(bench.rule, refresh_token_file=Path("/proc/sys/kernel/osrelease"))])

        assert await bench.token() == "token-1-of-the-server"
        [told] = bench.events
        assert isinstance(told, Degraded)
        assert "cannot be written to /proc/sys/kernel/osrelease" in told.reason
        assert "refresh-2" not in told.reason
        bench.tokens.reload([replace(bench.rule, refresh_token_file=Path("/proc/sys/kernel/osrelease"))])
        bench.later(hours=2)
        assert await bench.token() == "token-2-of-the-server"


async def test_a_configuration_that_changes_during_a_request_is_the_one_that_counts(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        asked, go = asyncio.Event(), asyncio.Event()

        async def slow(request: web.Request) -> web.StreamResponse:
            asked.set()
            await go.wait()
            return web.json_response({"error": "invalid_client"}, status=401)

        bench.server.answers["/slow"] = slow
        bench.tokens.reload([replace(bench.rule, url=bench.rule.url.replace(PATH, "/slow"))])
        waiting = asyncio.create_task(bench.token())
        await asked.wait()
        bench.tokens.reload([bench.rule])
        go.set()

        assert await waiting == "token-1-of-the-server"
        assert bench.events == []


async def test_a_route_that_is_gone_has_no_tokens_and_is_not_degraded(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        bench.server.script = [(401, {"error": "invalid_client"})]
        await bench.token()
        bench.tokens.reload([])
        await asyncio.sleep(0)

        assert isinstance(await bench.token(), Deferred)
        assert [type(event) for event in bench.events] == [Degraded, Restored]


async def test_a_server_that_is_not_there_is_told_with_its_url(tmp_path: Path) -> None:
    async with a_bench(tmp_path) as bench:
        bench.tokens.reload([replace(bench.rule, url="http://127.0.0.1:1/token")])

        assert "no answer from http://127.0.0.1:1/token" in str(await bench.token())
