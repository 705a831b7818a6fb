"""The daemon's end of a simulated connection: what asyncio and wire.py want of a transport."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.simulation.connections import Connection


class MemoryTransport(asyncio.Transport):
    """The daemon's end of a connection."""

    def __init__(self, connection: Connection, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": (connection.address, 25)})
        self._connection = connection
        self._protocol: Any = protocol
        self._loop = asyncio.get_running_loop()
        self._waiting = bytearray()  # written, and has not left
        self._high = 64 * 1024
        self._paused = False
        self._closing = False
        connection.transport = self
        if connection.inbox:
            self._loop.call_soon(self.receive, bytes(connection.inbox))
            connection.inbox.clear()
        if connection.ended:
            self._loop.call_soon(self.end, connection.ended)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        found: asyncio.BaseProtocol = self._protocol
        return found

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return not self._closing

    def pause_reading(self) -> None:
        """Nobody here does."""

    def resume_reading(self) -> None:
        """Nobody here does."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        return len(self._waiting)

    def can_write_eof(self) -> bool:
        return False

    def write(self, data: Any) -> None:
        if self._closing or not data:
            return
        connection = self._connection
        octets = bytes(data)
        if octets.endswith(b"QUIT\r\n"):
            connection.network.closed(connection)  # to all intents and purposes
        room = 0 if self._waiting else connection.room
        if room >= len(octets):
            connection.send(octets)
            return
        if room:
            connection.send(octets[:room])
        self._waiting += octets[room:]
        if not self._paused and len(self._waiting) > self._high:
            self._paused = True
            connection.network.facts.injected["cut full"] += 1
            self._protocol.pause_writing()

    def close(self) -> None:
        self._close(reset=False)

    def abort(self) -> None:
        self._waiting.clear()
        self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        if self._closing:
            return
        self._closing = True
        self._connection.close(reset=reset)
        self._loop.call_soon(self._protocol.connection_lost, None)

    def receive(self, octets: bytes) -> None:
        """Octets came."""
        if not self._closing:
            self._protocol.data_received(octets)

    def end(self, how: str) -> None:
        """The other side is gone."""
        if self._closing:
            return
        if how == "fin":
            self._protocol.eof_received()  # which never wants to stay
            self._close(reset=False)
            return
        self._closing = True
        self._connection.close(reset=True)
        self._loop.call_soon(self._protocol.connection_lost, ConnectionResetError("Connection reset by peer"))
