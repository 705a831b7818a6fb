"""What the server shows, and who shows it: the daemon fills these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from aiohttp import web


class Machine(Protocol):
    """What programs ask for.  Each answers within seconds, whatever the disk does."""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their content type, as an Accept header wants them."""

    async def ailments(self) -> list[str]:
        """Return why mail does not flow, in sentences; none if it does."""

    def unready(self) -> list[str]:
        """Return why relayd is not ready."""


Handler: TypeAlias = Callable[[web.Request, bool], Awaitable[web.StreamResponse]]  # the bool: who asks is known


@dataclass(frozen=True, slots=True)
class Route:
    """What answers a GET, or else `method`, of `path`.

    `guarded`: only where there is a token, and to whom has shown it.  `open`: without the token, too; the handler is
    told whether it was shown.  `streams`: it takes as long as it likes, and sees itself that a client that does not
    read ends.
    """

    path: str
    handler: Handler
    open: bool = False
    streams: bool = False
    method: str = "GET"
    guarded: bool = False
