"""What the status page shows, as JSON: a snapshot, the past, and a stream of snapshots to all who look.

One snapshot is made for all of them, and none while nobody looks.  Who does not read fast enough misses some: what is
kept for a client is the newest, and never more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from relayd.web.ports import Route

PATIENCE = 20.0  # seconds for a client to take what is in its buffer
QUIET = 15.0  # seconds after which a comment shows that we are there


class Stream:
    """`look` has ready what `snapshot` returns of now; `past` returns what was before.  `shown` is to be called when it
    has changed."""

    def __init__(
        self,
        look: Callable[[], Awaitable[None]],
        snapshot: Callable[[], Mapping[str, Any]],
        past: Callable[[], Mapping[str, Any]],
    ) -> None:
        self._look = look
        self._snapshot = snapshot
        self._past = past
        self._latest = b""
        self._changed = asyncio.Event()
        self.clients = 0

    def shown(self) -> None:
        """Have a new snapshot sent to who looks, if anybody does."""
        if self.clients:
            self._latest = _message("now", self._snapshot())
            self._changed.set()
            self._changed = asyncio.Event()

    async def events(self, request: web.Request, known: bool) -> web.StreamResponse:
        """Send the past, then every snapshot, as server-sent events."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        self.clients += 1
        try:
            await self._look()
            first = _message("past", self._past()) + _message("now", self._snapshot())
            await self._send(response, first)
            while True:
                await self._send(response, await self._next())
        except (ConnectionError, TimeoutError):
            return response
        finally:
            self.clients -= 1
            if request.transport is not None:
                request.transport.abort()  # what it did not take is not kept for it

    async def state(self, request: web.Request, known: bool) -> web.Response:
        """Send one snapshot."""
        await self._look()
        return web.json_response(self._snapshot())

    def routes(self) -> tuple[Route, ...]:
        """Return where they are."""
        return (Route("/api/events", self.events, streams=True), Route("/api/state", self.state))

    async def _next(self) -> bytes:
        try:
            async with asyncio.timeout(QUIET):
                await self._changed.wait()
        except TimeoutError:
            return b": still there\n\n"
        return self._latest

    async def _send(self, response: web.StreamResponse, octets: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            await response.write(octets)  # returns when the client has taken enough


def _message(name: str, value: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
