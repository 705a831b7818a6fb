"""relayd.web.server: an HTTP server that costs mail nothing, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from relayd.mail.events import Degraded, Event, Restored, Trouble
from relayd.web import connections
from relayd.web import server as http_server
from relayd.web.ports import Route
from relayd.web.server import HttpServer, machine_routes
from relayd.web.settings import HttpSettings, Place

TOKEN = {"Authorization": "Bearer secret"}


class Machine:
    """A Machine that a test steers."""

    def __init__(self) -> None:
        self.why: list[str] = []
        self.delay = 0.0

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        await asyncio.sleep(self.delay)
        return b"up 1\n", "text/plain"

    async def ailments(self) -> list[str]:
        return self.why

    def unready(self) -> list[str]:
        return self.why


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class World:
    """A server at a port of its own, and a client."""

    def __init__(self, **settings: Any) -> None:
        self.port = free_port()
        self.settings = HttpSettings(place=Place(address="127.0.0.1", port=self.port), **settings)
        self.machine = Machine()
        self.events: list[Event] = []

    @asynccontextmanager
    async def serving(self, *routes: Route) -> AsyncIterator[HttpServer]:
        server = HttpServer(self.settings, (*machine_routes(self.machine), *routes), self.events.append)
        await server.follow()
        running = asyncio.create_task(server.run())
        try:
            yield server
        finally:
            running.cancel()
            await server.close()

    async def get(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{self.port}{path}"
            async with session.request(method, url, headers=headers) as response:
                return response.status, await response.text(), dict(response.headers)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.01)


async def ended(reader: asyncio.StreamReader) -> bytes:
    """Return what comes until the connection ends, in order or by a reset."""
    try:
        return await reader.read()
    except OSError:
        return b""


async def test_health_is_a_status_and_the_reasons() -> None:
    world = World()
    async with world.serving():
        status, text, _ = await world.get("/healthz")
        assert (status, json.loads(text)) == (200, {"healthy": True, "why": []})

        world.machine.why = ["the disk is full"]
        status, text, _ = await world.get("/healthz")
        assert (status, json.loads(text)) == (503, {"healthy": False, "why": ["the disk is full"]})
        status, text, _ = await world.get("/readyz")
        assert (status, json.loads(text)) == (503, {"ready": False, "why": ["the disk is full"]})


async def test_without_the_token_nothing_is_learned_but_whether_it_is_well() -> None:
    world = World(token="secret")
    world.machine.why = ["the disk is full"]
    async with world.serving():
        assert (await world.get("/metrics"))[0] == 401
        assert (await world.get("/nothing"))[0] == 401
        assert (await world.get("/metrics", Authorization="Bearer secreT"))[0] == 401
        assert (await world.get("/metrics", **TOKEN))[:2] == (200, "up 1\n")
        status, text, _ = await world.get("/healthz")
        assert (status, json.loads(text)) == (503, {"healthy": False})
        assert "the disk is full" in (await world.get("/healthz", **TOKEN))[1]


async def test_a_host_of_a_stranger_gets_nothing() -> None:
    world = World()
    async with world.serving():
        for path in ("/metrics", "/healthz", "/nothing"):
            assert (await world.get(path, Host="evil.example"))[0] == 421


async def test_only_get_and_head_are_answered_with_our_headers_whatever_the_status() -> None:
    world = World()
    async with world.serving():
        for path, method, status in [
            ("/metrics", "GET", 200),
            ("/metrics", "HEAD", 200),
            ("/metrics", "POST", 405),
            ("/metrics", "OPTIONS", 405),
            ("/nothing", "GET", 404),
            ("/../etc/passwd", "GET", 404),
        ]:
            found, _, headers = await world.get(path, method=method)
            assert found == status
            assert headers["Server"] == "relayd"
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "Access-Control-Allow-Origin" not in headers


async def test_a_port_in_use_is_told_of_and_had_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "AGAIN", 0.05)
    world = World()
    with socket.socket() as other:
        other.bind(("127.0.0.1", world.port))
        other.listen()
        async with world.serving():
            (degraded,) = world.events
            assert isinstance(degraded, Degraded)
            assert (degraded.part, degraded.reason) == ("http", f"127.0.0.1:{world.port}: Address already in use")
            await asyncio.sleep(0.2)
            other.close()
            await until(lambda: len(world.events) > 1)

            assert world.events[1] == Restored(part="http")
            assert (await world.get("/metrics"))[0] == 200


async def test_a_reload_moves_it_and_a_place_that_stays_is_kept() -> None:
    world = World()
    async with world.serving() as server:
        reader, writer = await world.open()
        server.reload(HttpSettings(place=world.settings.place, hostname="other.example"))
        await asyncio.sleep(0.05)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: other.example\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()

        old, world.port = world.port, free_port()
        server.reload(HttpSettings(place=Place(address="127.0.0.1", port=world.port), token="secret"))
        await asyncio.sleep(0.1)
        assert (await world.get("/metrics", **TOKEN))[0] == 200
        with pytest.raises(OSError, match="111"):
            await asyncio.open_connection("127.0.0.1", old)

        server.reload(HttpSettings())
        await asyncio.sleep(0.1)
        with pytest.raises(OSError, match="111"):
            await world.open()
    assert world.events == []


@pytest.mark.parametrize(("token", "mode"), [("", 0o600), ("secret", 0o666)], ids=["ours", "guarded"])
async def test_a_unix_socket_is_ours_alone_unless_a_token_guards_it(tmp_path: Path, token: str, mode: int) -> None:
    world = World(token=token)
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as left:  # by a process that was killed
        left.bind(str(path))
    world.settings = HttpSettings(place=Place(path=str(path)), token=token)

    async with world.serving():
        assert stat.S_IMODE(path.stat().st_mode) == mode
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
            session.get("http://whatever.example/metrics", headers=TOKEN) as response,
        ):
            assert response.status == 200

    assert not path.exists()
    assert world.events == []


async def test_a_unix_socket_in_use_and_a_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    world = World()
    world.settings = HttpSettings(place=Place(path=str(path)))
    async with world.serving():
        second = World()
        second.settings = world.settings
        async with second.serving():
            assert [each.part for each in second.events if isinstance(each, Degraded)] == ["http"]
        assert path.exists()
    path.write_text("mine")

    async with world.serving():
        assert len(world.events) == 1
    assert path.read_text() == "mine"


async def test_clients_that_drip_or_say_nothing_are_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    world = World()
    async with world.serving():
        silent, _ = await world.open()
        dripping, writer = await world.open()

        async def drip() -> None:
            with suppress(OSError):
                while True:
                    writer.write(b"G")
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(drip())
        async with asyncio.timeout(10):
            assert [await ended(reader) for reader in (silent, dripping)] == [b"", b""]
        task.cancel()


async def test_a_client_that_does_not_read_its_answer_is_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.3)
    world = World()

    async def much(request: web.Request, known: bool) -> web.Response:
        return web.Response(body=bytes(50_000_000))

    async with world.serving(Route("/much", much)) as server:
        _, writer = await world.open()
        writer.write(b"GET /much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await until(lambda: server._connections.open)
        await until(lambda: not server._connections.open)


async def test_a_stream_may_take_as_long_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PATIENCE", 0.1)
    monkeypatch.setattr(http_server, "PATIENCE", 0.1)
    world = World()

    async def stream(request: web.Request, known: bool) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(5):
            await response.write(b"tick\n")
            await asyncio.sleep(0.1)
        return response

    async with world.serving(Route("/stream", stream, streams=True)):
        status, text, headers = await world.get("/stream")

    assert (status, text) == (200, "tick\n" * 5)
    assert headers["Server"] == "relayd"


async def test_an_answer_that_takes_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "PATIENCE", 0.1)
    world = World()
    world.machine.delay = 10.0
    async with world.serving():
        assert (await world.get("/metrics"))[0] == 503


async def test_a_mistake_of_ours_is_told_and_shows_nothing_of_itself() -> None:
    world = World()

    async def wrong(request: web.Request, known: bool) -> web.Response:
        raise ValueError("of ours")

    async with world.serving(Route("/wrong", wrong)):
        assert (await world.get("/wrong"))[:2] == (500, "internal error\n")

    assert world.events == [Trouble(part="http", detail="/wrong: ValueError('of ours')")]


async def test_there_are_only_so_many_connections_and_then_room_again() -> None:
    world = World()
    async with world.serving():
        held = [await world.open() for _ in range(connections.MOST)]
        reader, _ = await world.open()
        assert await ended(reader) == b""
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        assert (await world.get("/metrics"))[0] == 200


@pytest.mark.parametrize(
    "octets",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100, b"GET /" + b"x" * 20_000],
    ids=["tls", "no-version", "odd-version", "nul", "long"],
)
async def test_what_is_no_request_gets_a_400_or_nothing_and_no_line_of_the_log(
    octets: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.serving():
        reader, writer = await world.open()
        writer.write(octets)
        writer.write_eof()
        answer = await reader.read(12)
        assert answer in (b"", b"HTTP/1.0 400", b"HTTP/1.1 400")
        writer.close()
        assert (await world.get("/metrics"))[0] == 200

    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
