"""What is asked of the queue over HTTP, and what may be done to it.

What the reader must not break:

    A verb needs the token, in a header that no page of a stranger can send, and a body of JSON.
    At most `AT_ONCE` questions are put to the queue at a time, each of a bounded answer; the others wait as long as the
    server lets them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from aiohttp import web

from relayd.mail.errors import QueueError, RelaydError
from relayd.web.ports import Route

AT_ONCE = 2
MOST = 500  # messages in one answer, or ids in one command
LONGEST = 64 * 1024  # octets of a command
VERBS = ("hold", "release", "retry", "remove", "bounce", "redirect")


class Desk(Protocol):
    """Answers, in what JSON can say.  Each raises RelaydError for what there is not, or makes no sense."""

    async def explain(self, subject: str) -> Mapping[str, Any]: ...

    async def history(self, subject: str, limit: int) -> Sequence[Mapping[str, Any]]: ...

    async def listed(self, asked: Mapping[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        """Return messages of the queue, those that `asked` selects; its keys are the options of `relayd queue list`."""

    async def act(self, verb: str, message_ids: Sequence[str], route: str) -> int:
        """Do it; return to how many messages."""


class Api:
    """See the module."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asking = asyncio.Semaphore(AT_ONCE)

    def routes(self) -> tuple[Route, ...]:
        """Return what answers where."""
        verbs = (Route(f"/api/queue/{verb}", self._verb(verb), method="POST", guarded=True) for verb in VERBS)
        return (
            Route("/api/explain", self._explain),
            Route("/api/history", self._history),
            Route("/api/queue", self._queue),
            *verbs,
        )

    async def _explain(self, request: web.Request, known: bool) -> web.Response:
        return await self._answer(self._desk.explain, _subject(request))

    async def _history(self, request: web.Request, known: bool) -> web.Response:
        return await self._answer(self._desk.history, _subject(request), _limit(request, 10))

    async def _queue(self, request: web.Request, known: bool) -> web.Response:
        asked = {key: value for key, value in request.query.items() if key != "limit"}
        return await self._answer(self._desk.listed, asked, _limit(request, 100))

    def _verb(self, verb: str) -> Callable[[web.Request, bool], Awaitable[web.Response]]:
        async def command(request: web.Request, known: bool) -> web.Response:
            said = await _command(request)
            ids, route = said.get("ids"), said.get("route", "")
            if not (isinstance(ids, list) and 0 < len(ids) <= MOST and all(isinstance(each, str) for each in ids)):
                return refused(400, f"ids: a list of 1 to {MOST} ids of messages")
            if not isinstance(route, str) or (verb == "redirect") is not ("route" in said):
                return refused(400, "route: its name, for redirect alone; an empty one means where it goes of itself")
            return await self._answer(self._acted, verb, ids, route)

        return command

    async def _acted(self, verb: str, ids: Sequence[str], route: str) -> Mapping[str, Any]:
        return {"messages": await self._desk.act(verb, ids, route)}

    async def _answer(self, ask: Callable[..., Awaitable[Any]], *arguments: Any) -> web.Response:
        try:
            async with self._asking:
                return web.json_response(await ask(*arguments))
        except QueueError as error:
            return refused(503, str(error))
        except ValueError as error:  # InvalidAddress among them
            return refused(400, str(error))
        except RelaydError as error:
            return refused(404, str(error))


def refused(status: int, why: str) -> web.Response:
    """Return an answer that says why there is none."""
    return web.json_response({"error": why}, status=status)


def _subject(request: web.Request) -> str:
    subject = request.query.get("subject", "").strip()
    if not 0 < len(subject) <= 400:
        raise web.HTTPBadRequest(reason="subject is missing: an id, an address or a domain")
    return subject


def _limit(request: web.Request, usual: int) -> int:
    text = request.query.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= MOST):
        raise web.HTTPBadRequest(reason=f"limit is a number from 1 to {MOST}")
    return int(text)


async def _command(request: web.Request) -> Mapping[str, Any]:
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="a command is of the type application/json")
    if request.content_length is None or request.content_length > LONGEST:
        raise web.HTTPRequestEntityTooLarge(max_size=LONGEST, actual_size=request.content_length or 0)
    try:
        said = json.loads(await request.read())
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise web.HTTPBadRequest(reason="a command is an object")
    return said
