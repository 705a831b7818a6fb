"""A real HTTPS server: aiohttp's, with certificates of the test, and whatever flaws a test wants of it."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def policy_host_address(number: int = 0) -> str:
    """Return a loopback address for a server on port 443: of this process alone, since there is but one such port."""
    return f"127.{44 + number}.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"


@dataclass(frozen=True, slots=True)
class Requested:
    """What a client sent."""

    method: str
    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class HttpsServer:
    """See the module.  `async with HttpsServer(context) as server:`, then `server.port`.

    `answers` has a handler, or a body for status 200 and text/plain, for each path; others are 404.  `context` None:
    it speaks HTTP in clear text.
    """

    def __init__(self, context: ssl.SSLContext | None, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.answers: dict[str, Handler | bytes] = {}
        self.requests: list[Requested] = []
        self.host = host
        self.port = port
        self._context = context
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, ssl_context=self._context)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Requested(request.method, request.host, request.path, dict(request.headers), body))
        answer = self.answers.get(request.path)
        if answer is None:
            return web.Response(status=404, text="not here")
        if isinstance(answer, bytes):
            return web.Response(body=answer, content_type="text/plain")
        return await answer(request)


def answering(status: int, body: bytes = b"", **headers: str) -> Handler:
    """Return a handler; a header's name has `_` for `-`."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handle


async def stalling(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def dripping(request: web.Request) -> web.StreamResponse:
    """Answer with an octet in ten milliseconds, for ever."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"x")
        await asyncio.sleep(0.01)


async def endless(request: web.Request) -> web.StreamResponse:
    """Answer with octets without end, as fast as they are taken."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(65536))


async def cut_off(request: web.Request) -> web.StreamResponse:
    """Promise a thousand octets, send five, and close."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"12345")
    assert request.transport is not None
    request.transport.abort()
    return response


async def hanging_up(request: web.Request) -> web.StreamResponse:
    """Close without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()
