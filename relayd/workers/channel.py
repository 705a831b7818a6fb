"""Messages between the daemon and a worker: tuples of plain values over a socket pair.

What is sent within one turn of the loop goes out as one frame in one write: four octets of length, then the `marshal`
of a list.  What the reader must not break:

    `send` never waits.  What may be under way is bounded by those who use it: runs by `max_connections`, reports by
    each relayer's `max_unreported`, questions by the relayers that ask.
    While the other side does not read, messages gather here and go in larger frames.
    What arrived before the end of the other side is told before `lost` is.
"""

from __future__ import annotations

import asyncio
import marshal
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

Message: TypeAlias = tuple[Any, ...]  # its first value says which, see messages.py
Told: TypeAlias = dict[str, Callable[..., None]]  # what to do with the other values of each

MAX_FRAME = 1024 * 1024 * 1024  # octets: a run of the largest batch, many times over
_LENGTH = struct.Struct(">I")


class Channel(asyncio.Protocol):
    """One end.  `received` is called with the messages of a frame, `lost` once."""

    def __init__(self, received: Callable[[Sequence[Message]], None], lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._transport: asyncio.WriteTransport | None = None
        self._paused = False
        self._waiting: list[Message] = []
        self._flushing = False
        self._read = bytearray()

    async def open(self, end: socket.socket) -> None:
        """Take over one end of a socket pair; the first messages may be told before this returns."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    @property
    def behind(self) -> bool:
        """Whether the other side does not read as fast as we write."""
        return self._paused

    def send(self, message: Message) -> None:
        """Send with all else that is sent in this turn; nothing happens once the channel is lost."""
        if self._transport is None:
            return
        self._waiting.append(message)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """Send what gathered and close; the other side sees the end."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    # what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The end is ours."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        """Octets arrived."""
        read = self._read
        read += data
        start = 0
        while len(read) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(read, start)
            if length > MAX_FRAME:
                raise ValueError(f"a frame of {length} octets")
            end = start + _LENGTH.size + length
            if len(read) < end:
                break
            self._received(marshal.loads(read[start + _LENGTH.size : end]))
            start = end
        del read[:start]

    def pause_writing(self) -> None:
        """The other side is slow."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has read on."""
        self._paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has ended, or we have."""
        self._transport = None
        self._waiting.clear()
        self._lost()

    def _flush(self) -> None:
        self._flushing = False
        if self._paused or self._transport is None or not self._waiting:
            return
        try:
            octets = marshal.dumps(self._waiting)
            self._transport.write(_LENGTH.pack(len(octets)) + octets)
        except (ValueError, struct.error):  # a message that cannot cross: nobody must wait for its answer
            self._transport.abort()
            raise
        finally:
            self._waiting.clear()
