"""The HTTP server: an aiohttp application at the place of [http].

What the reader must not break:

    Mail never depends on it: a place that cannot be had is told of (part `http`), and tried again.
    Nothing is changed but by who has shown a token (`Route.guarded`); without one configured, by nobody.
    A request for a Host that is not ours, or without the token where there is one, learns nothing (admission.py).
    Clients cost little (connections.py), and no answer is kept by anybody on the way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

from aiohttp import web

from relayd.mail.events import Degraded, Events, Restored, Trouble
from relayd.web.admission import is_known, is_ours
from relayd.web.connections import PATIENCE, Connection, Connections
from relayd.web.listening import leave, listen
from relayd.web.ports import Handler, Machine, Route
from relayd.web.settings import HttpSettings, Place

Answer: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

PART = "http"  # in events
AGAIN = 10.0  # seconds until a place that could not be had is tried again
KEPT_ALIVE = 5.0  # seconds that a connection waits for another request, less than PATIENCE: it ends in order
PARTING = 1.0  # seconds for answers under way, at the end

HEADERS = {  # a page may have another one
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class HttpServer:
    """See the module.  `follow` once, then `run`; `close` at the end."""

    def __init__(self, settings: HttpSettings, routes: Sequence[Route], events: Events) -> None:
        self._settings = settings
        self._routes = {route.path: route for route in routes}
        self._events = events
        self._connections = Connections()
        self._runner: web.AppRunner | None = None
        self._listening: tuple[Place, bool, socket.socket, asyncio.Server] | None = None
        self._changed = asyncio.Event()
        self._degraded = ""

    def reload(self, settings: HttpSettings) -> None:
        """Listen and ask as these say; a place that stays the same is kept."""
        self._settings = settings
        self._changed.set()

    async def run(self) -> None:
        """Keep to the settings, until cancelled."""
        while True:
            self._changed.clear()
            await self.follow()
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN if self._degraded else None):
                    await self._changed.wait()

    async def follow(self) -> None:
        """Listen where the settings say, if that can be had."""
        place, guarded = self._settings.place, bool(self._settings.token)
        if self._listening is not None and self._listening[:2] == (place, guarded):
            return
        await self._leave()
        try:
            if place is not None:
                await self._listen(place, guarded)
        except OSError as error:
            self._tell(f"{place}: {error.strerror or error}")
        else:
            self._tell("")

    async def close(self) -> None:
        """End all connections."""
        await self._leave()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _listen(self, place: Place, guarded: bool) -> None:
        runner = self._runner = self._runner or await self._made()
        listening = listen(place, guarded=guarded)

        def connection() -> asyncio.Protocol:
            assert runner.server is not None
            return Connection(runner.server(), self._connections)

        try:
            loop = asyncio.get_running_loop()
            make = loop.create_unix_server if place.path else loop.create_server
            server = await make(connection, sock=listening)
        except BaseException:
            leave(place, listening)
            raise
        self._listening = place, guarded, listening, server

    async def _leave(self) -> None:
        if self._listening is None:
            return
        place, _, listening, server = self._listening
        self._listening = None
        server.close()
        leave(place, listening)

    async def _made(self) -> web.AppRunner:
        application = web.Application(middlewares=[self._answered])
        application.on_response_prepare.append(_dress)
        for route in self._routes.values():
            answer = partial(self._hand_over, route.handler)
            if route.method == "GET":
                application.router.add_get(route.path, answer)
            else:
                application.router.add_route(route.method, route.path, answer)
        runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            logger=_silent(),
            keepalive_timeout=KEPT_ALIVE,
            shutdown_timeout=PARTING,
        )
        await runner.setup()
        return runner

    def _tell(self, trouble: str) -> None:
        if trouble and trouble != self._degraded:
            self._events(Degraded(part=PART, reason=trouble))
        elif self._degraded and not trouble:
            self._events(Restored(part=PART))
        self._degraded = trouble

    @web.middleware
    async def _answered(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        """Answer a request."""
        self._connections.began(request.protocol)
        try:
            return await self._response(request, handler)
        finally:
            self._connections.answered(request.protocol)

    async def _response(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        if not is_ours(request.headers.get("Host"), self._settings):
            return web.Response(status=421, text="not for this Host\n")
        route = self._routes.get(request.path)
        if not (self._is_known(request) or (route and route.open)):
            return web.Response(status=401, text="a token is needed\n", headers={"WWW-Authenticate": "Bearer"})
        if route and route.guarded and not self._settings.token:
            return web.Response(status=403, text="nothing can be changed here without http.token_file\n")
        try:
            async with asyncio.timeout(None if route and route.streams else PATIENCE):
                return await handler(request)
        except web.HTTPException as answer:
            return web.Response(status=answer.status, text=f"{answer.reason}\n", headers=_allowed(answer))
        except TimeoutError:
            return web.Response(status=503, text="no answer in time\n")
        except Exception as error:
            self._events(Trouble(part=PART, detail=f"{request.path}: {error!r}"))
            return web.Response(status=500, text="internal error\n")

    async def _hand_over(self, handler: Handler, request: web.Request) -> web.StreamResponse:
        return await handler(request, self._is_known(request))

    def _is_known(self, request: web.Request) -> bool:
        return is_known(request.headers.get("Authorization"), self._settings)


def _silent() -> logging.Logger:
    """Return a logger for aiohttp that writes nothing: what strangers send is no line of the log."""
    logger = logging.Logger("aiohttp.server")
    logger.disabled = True
    return logger


async def _dress(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "relayd"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _allowed(answer: web.HTTPException) -> dict[str, str]:
    return {"Allow": answer.headers["Allow"]} if "Allow" in answer.headers else {}


def machine_routes(machine: Machine) -> tuple[Route, ...]:
    """Return what programs ask for."""

    async def metrics(request: web.Request, known: bool) -> web.Response:
        body, content_type = await machine.metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(request: web.Request, known: bool) -> web.Response:
        return _verdict("healthy", await machine.ailments(), known)

    async def readyz(request: web.Request, known: bool) -> web.Response:
        return _verdict("ready", machine.unready(), known)

    return (
        Route("/metrics", metrics),
        Route("/healthz", healthz, open=True),
        Route("/readyz", readyz, open=True),
    )


def _verdict(word: str, why: Sequence[str], known: bool) -> web.Response:
    """Return 200 or 503; the reasons only to whom is known."""
    said: dict[str, Any] = {word: not why}
    if known:
        said["why"] = list(why)
    return web.Response(status=503 if why else 200, text=json.dumps(said) + "\n", content_type="application/json")
