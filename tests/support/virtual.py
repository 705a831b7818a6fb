"""Time that passes by itself, and connections in memory: ten minutes of waiting in a millisecond.

`on_virtual_time` runs a story on a loop whose clock jumps to the next timer as soon as nothing is ready.  There are no
threads and no real sockets on it, so nothing can become ready meanwhile; a story that waits for nothing at all fails.

`connected` joins a `Wire` and a `ScriptedServer` by two transports that hand octets over at once, in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from relayd.mail.reply import Reply
from relayd.relay.stirring import Stirring
from relayd.relay.timeouts import Timeouts
from relayd.relay.wire import Wire
from tests.support.smtp import ScriptedServer

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never waits."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        """Seconds since the loop was made, on its own clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing will ever happen: the story waits without a timer")
        if not ready and timeout:
            self._loop.advance(timeout)
        return ready


def on_virtual_time(story: Coroutine[Any, Any, T]) -> T:
    """Run a story to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(story)


class MemoryTransport(asyncio.Transport):
    """One end of a connection in memory.

    Once `window` is False the other end's host takes nothing, so that what is written stays in our own buffer.
    """

    def __init__(self) -> None:
        super().__init__({"peername": ("memory", 0), "sockname": ("memory", 0)})
        self.peer: MemoryTransport | None = None  # set once both ends are there
        self.taken = bytearray()  # what has left
        self.window = True
        self._loop = asyncio.get_running_loop()
        self._protocol: asyncio.BaseProtocol | None = None
        self._waiting = bytearray()  # written, and has not left
        self._arrived: list[bytes] = []  # for us, while we do not read
        self._reading = True
        self._closing = False
        self._high = 64 * 1024
        self._paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand on what arrives to this one from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol."""
        assert self._protocol is not None
        return self._protocol

    def is_closing(self) -> bool:
        """Whether this end was closed, or the other."""
        return self._closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how much may wait before the protocol is told to pause."""
        self._high = 64 * 1024 if high is None else high

    def get_write_buffer_size(self) -> int:
        """The octets that have not left."""
        return len(self._waiting)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Hand octets to the other end."""
        if self._closing or not data:
            return
        if self.window:
            self.taken += data
            assert self.peer is not None
            self._loop.call_soon(self.peer._receive, bytes(data))
            return
        self._waiting += data
        if not self._paused and len(self._waiting) > self._high:
            self._paused = True
            assert isinstance(self._protocol, asyncio.Protocol)
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """No: close instead."""
        return False

    def pause_reading(self) -> None:
        """Keep what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Hand on what arrives."""
        self._reading = True
        for data in self._arrived:
            self._loop.call_soon(self._receive, data)
        self._arrived.clear()

    def is_reading(self) -> bool:
        """Whether what arrives is handed on."""
        return self._reading and not self._closing

    def close(self) -> None:
        """Close; the other end reads to the end first."""
        self._close(reset=False)

    def abort(self) -> None:
        """Reset: what has not left never will."""
        self._waiting.clear()
        self._close(reset=True)

    def _close(self, *, reset: bool) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.call_soon(self.get_protocol().connection_lost, None)
        assert self.peer is not None
        self._loop.call_soon(self.peer._end, reset)

    def _receive(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._reading:
            self._arrived.append(data)
            return
        assert isinstance(self._protocol, asyncio.Protocol)
        self._protocol.data_received(data)

    def _end(self, reset: bool) -> None:
        if self._closing:
            return
        assert isinstance(self._protocol, asyncio.Protocol)
        stays = not reset and self._protocol.eof_received()
        if not stays:
            self._closing = True
            error = ConnectionResetError("reset by peer") if reset else None
            self._loop.call_soon(self._protocol.connection_lost, error)


@contextlib.asynccontextmanager
async def connected(server: ScriptedServer, timeouts: Timeouts) -> AsyncIterator[tuple[Wire, MemoryTransport]]:
    """Yield a wire to `server` and its end of the connection.

    The server greets, if its script has a greeting, before the wire is there: give it an empty one.
    """
    ours, theirs = MemoryTransport(), MemoryTransport()
    ours.peer, theirs.peer = theirs, ours
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    theirs.set_protocol(protocol)
    protocol.connection_made(theirs)
    with socket.socket() as unconnected:  # whose kernel has nothing to send
        wire = Wire(ours, unconnected, timeouts, Stirring(asyncio.get_running_loop().time), Reply(220))
        ours.set_protocol(wire)
        server.accept(reader, asyncio.StreamWriter(theirs, protocol, reader, loop))
        try:
            yield wire, ours
        finally:
            wire.reset()
            await server.stop()
