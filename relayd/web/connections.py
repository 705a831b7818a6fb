"""The connections to the server, which cost little, whatever is at their other ends.

Invariants, checked by tests/web/test_server.py:

    At most MOST are open; who comes beyond is reset.
    Whoever does not send a whole request, or does not read the answer, within PATIENCE is reset: octets that drip in
    do not extend it.
"""

from __future__ import annotations

import asyncio
from typing import cast

from aiohttp.web_protocol import RequestHandler

MOST = 32
PATIENCE = 10.0  # seconds


class Connections:
    """Those that are open."""

    def __init__(self) -> None:
        self.open: dict[asyncio.BaseProtocol, Connection] = {}

    def began(self, protocol: asyncio.BaseProtocol) -> None:
        """A whole request has come, and is being answered: that takes its time."""
        if connection := self.open.get(protocol):
            connection.rest(None)

    def answered(self, protocol: asyncio.BaseProtocol) -> None:
        """The answer is made: it is to be read, and the next request to be sent."""
        if connection := self.open.get(protocol):
            connection.rest(PATIENCE)


class Connection(asyncio.Protocol):
    """One of them, around aiohttp's."""

    def __init__(self, inner: RequestHandler, connections: Connections) -> None:
        self._inner = inner
        self._connections = connections
        self._transport: asyncio.Transport | None = None  # None: turned away
        self._timer: asyncio.TimerHandle | None = None

    def rest(self, seconds: float | None) -> None:
        """Give the other side so much time from now on; None: it owes nothing."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None and self._transport is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        if len(self._connections.open) >= MOST:
            cast(asyncio.Transport, transport).abort()
            return
        self._transport = cast(asyncio.Transport, transport)
        self._connections.open[self._inner] = self
        self.rest(PATIENCE)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self.rest(None)
        if self._transport is not None:
            self._transport = None
            del self._connections.open[self._inner]
            self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._transport is not None:
            self._inner.data_received(data)

    def eof_received(self) -> None:
        """See asyncio."""
        if self._transport is not None:
            self._inner.eof_received()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._inner.resume_writing()
