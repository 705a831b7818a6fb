"""What is asked of the daemon over HTTP about messages, and what it is told to do with them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from relayd.attempt.settings import RetrySettings
from relayd.mail.errors import RelaydError
from relayd.spool.queue import Queue
from relayd.view.explained import explained_summary
from relayd.view.explaining import Sources, explained
from relayd.view.selected import selection_of
from relayd.view.shown import summary
from relayd.view.timeline import timeline_summary, timelines

BOUNCED = "removed by an operator"


class QueueDesk:
    """A `Desk` (web/api.py).  `ask` is the daemon's own answers, `changed` is awaited after the queue was changed."""

    def __init__(
        self,
        queue: Queue,
        *,
        ask: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any] | None]],
        changed: Callable[[], Awaitable[None]],
        clock: Callable[[], datetime],
        retry: Callable[[], RetrySettings],
        routes: Callable[[], Collection[str]],
    ) -> None:
        self._queue = queue
        self._ask = ask
        self._changed = changed
        self._clock = clock
        self._retry = retry
        self._routes = routes

    async def explain(self, subject: str) -> Mapping[str, Any]:
        """See `relayd explain`."""
        sources = Sources(queue=self._queue, ask=self._ask, holder=lambda: str(os.getpid()), retry=self._retry())
        return explained_summary(await explained(sources, subject))

    async def history(self, subject: str, limit: int) -> Sequence[Mapping[str, Any]]:
        """See `relayd history`."""
        return [timeline_summary(timeline) for timeline in await timelines(self._queue, subject, limit)]

    async def listed(self, asked: Mapping[str, str], limit: int) -> Sequence[Mapping[str, Any]]:
        """See `relayd queue list`."""
        selection = selection_of(asked, self._clock())
        return [summary(each) async for each in self._queue.messages(selection=selection, limit=limit)]

    async def act(self, verb: str, message_ids: Sequence[str], route: str) -> int:
        """See `relayd queue`."""
        found = await self._done(verb, list(dict.fromkeys(message_ids)), route)
        await self._changed()
        if not found:
            raise RelaydError("no such message in the queue")
        return found

    async def _done(self, verb: str, ids: list[str], route: str) -> int:
        queue, now = self._queue, self._clock()
        match verb:
            case "hold":
                return await queue.hold(ids)
            case "release":
                return await queue.release(ids)
            case "retry":
                return await queue.retry(ids, now)
            case "remove":
                return await queue.remove(ids, now)
            case "bounce":
                return (await queue.bounce(ids, BOUNCED)).messages
            case _:
                if route and route not in self._routes():
                    raise RelaydError(f"no route {route} in the configuration")
                return await queue.redirect(ids, route, now)
