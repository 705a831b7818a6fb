"""One connection's octets: our side of the transport, after aiosmtplib has had the greeting.

A thin shell.  It writes what it is given, hands on what comes, knows what has not left yet, and keeps one timer.  It
knows nothing of SMTP but that a reply has an end (`ask`).

Invariants:

    `reset` leaves nothing that could go out later: the socket's linger time is 0, so that neither the transport's
    buffer nor the kernel's is sent (RFC.md, FAULTS.md A3).
    Octets that arrive while nobody asked are not dropped: the next `ask`, or the listener, learns of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import ssl
import struct
import termios
from datetime import timedelta
from typing import Protocol

from relayd.mail.errors import SessionError
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.tls import UNTRUSTED, TlsResult
from relayd.relay.replies import ProtocolError, ReplyParser
from relayd.relay.stirring import Stirring
from relayd.relay.timeouts import Timeouts
from relayd.relay.tls import result_of

LOST = EnhancedStatus(4, 4, 2)  # RFC 3463 section 3.5: bad connection
PROTOCOL = EnhancedStatus(4, 5, 0)
_HEAVY = 16 * 1024  # octets; what is less leaves at once, or never
_NO_LINGER = struct.pack("ii", 1, 0)


class ConnectionFailed(SessionError):
    """A connection came to nothing; `outcome` has scope HOST."""

    def __init__(self, reason: str, *, reply: Reply | None = None, status: EnhancedStatus | None = None) -> None:
        super().__init__(reason)
        self.outcome = Deferred(reply, Scope.HOST, reason=reason, status=status)


class TlsHandshakeFailed(ConnectionFailed):
    """The handshake failed or stalled, or the peer did not prove what was demanded; `result` for reports."""

    def __init__(
        self, reason: str, *, status: EnhancedStatus, result: TlsResult = TlsResult.VALIDATION_FAILURE
    ) -> None:
        super().__init__(reason, status=status)
        self.result = result


class Listener(Protocol):
    """Whom a wire tells what happens, once the conversation is open."""

    def received(self, octets: bytes) -> None:
        """Octets arrived."""

    def left(self) -> None:
        """All that was written has left, after some of it had to wait."""

    def lost(self, reason: str) -> None:
        """The connection is gone.  Told once."""

    def expired(self) -> None:
        """The time given to `expect` is over."""


class Wire(asyncio.Protocol):
    """See the module.  `expect` is never given less than the shortest of `timeouts`."""

    def __init__(
        self,
        transport: asyncio.Transport,
        sock: socket.socket,
        timeouts: Timeouts,
        stirring: Stirring,
        greeting: Reply,
    ) -> None:
        self.greeting = greeting
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._socket = sock
        self._stirring = stirring
        self._shortest = timeouts.shortest.total_seconds()
        self._listener: Listener | None = None
        self._parser = ReplyParser()
        self._answer: asyncio.Future[Reply] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._trouble: str | None = None  # why there is nothing more to be had
        self._paused = False
        self._parting = False
        self._heavy = False  # the server's kernel may need a while to take what was written
        self._deadline: float | None = None
        self._patience = 0.0  # what `expect` was given last
        self._outstanding: int | None = None  # octets of ours, at the last `expect`, that the server has to take
        self._encrypted = transport.get_extra_info("ssl_object") is not None
        self._rate = timeouts.min_data_rate
        self._timer: asyncio.TimerHandle | None = None
        transport.set_write_buffer_limits(high=1, low=0)  # so that "paused" means "not all has left"

    @property
    def unsent(self) -> int:
        """The octets that were written and have not left this process."""
        return self._transport.get_write_buffer_size() if self._paused else 0

    @property
    def unacknowledged(self) -> int:
        """The octets that were written and that the server's kernel has not acknowledged.

        What a server has read, its kernel has acknowledged, at the latest in the segment of its reply.  Under TLS the
        kernel counts other octets than we do; then it is those that have not left this process.
        """
        return self.unsent if self._encrypted else self._on_the_way()

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The connection's TLS, None for clear text."""
        found: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        return found

    @property
    def local(self) -> str:
        """Our address on this connection."""
        name = self._transport.get_extra_info("sockname")
        return str(name[0]) if name else ""

    # Before the first MAIL: one command at a time

    async def ask(self, octets: bytes, name: str, patience: timedelta) -> Reply:
        """Write a command, which is told as `name`, and return its reply.

        Raises:
            ConnectionFailed: no such reply came; the connection is to be reset.
        """
        if self._trouble is not None or self._parser.pending:
            raise self._failure()
        self._answer = self._loop.create_future()
        self._transport.write(octets)
        try:
            async with asyncio.timeout(patience.total_seconds()):
                return await self._answer
        except TimeoutError:
            reason = f"no reply to {name} in {patience.total_seconds():g} s"
            raise ConnectionFailed(reason, status=LOST) from None
        finally:
            self._answer = None

    async def start_tls(self, context: ssl.SSLContext, name: str, patience: timedelta) -> None:
        """Do the handshake with the server that is called `name`.

        Raises:
            TlsHandshakeFailed: the connection is gone.
        """
        if self._trouble is not None:
            raise TlsHandshakeFailed(self._trouble, status=LOST)
        try:
            transport = await self._loop.start_tls(
                self._transport, self, context, server_hostname=name, ssl_handshake_timeout=patience.total_seconds()
            )
        except (OSError, ValueError) as error:
            reason = f"TLS handshake: {error or type(error).__name__}"
            raise TlsHandshakeFailed(reason, status=UNTRUSTED, result=result_of(error)) from None
        if transport is None:  # uvloop, when the connection is lost at the last moment
            raise TlsHandshakeFailed("TLS handshake: connection lost", status=LOST)
        self._transport = transport
        self._encrypted = True
        self._paused = False
        transport.set_write_buffer_limits(high=1, low=0)

    # From then on

    def listen(self, listener: Listener) -> None:
        """Tell `listener` from now on; what happened before it came is told at once."""
        self._listener = listener
        if self._trouble is not None or self._parser.pending:
            listener.lost(str(self._failure()))

    def write(self, octets: bytes) -> None:
        """Write; at most this waits in our own buffer, if what was written before was waited for."""
        if self._trouble is None:
            self._heavy = self._heavy or len(octets) > _HEAVY
            self._transport.write(octets)

    async def drained(self) -> None:
        """Wait until all has left this process, or the connection is gone."""
        if self._paused and self._trouble is None:
            self._drained = self._loop.create_future()
            await self._drained

    def expect(self, seconds: float | None) -> None:
        """Give the server so much time from now on, in place of what it was given before; None: as much as it likes.

        Costs one timer in the time of the shortest timeout, not one for each call.
        """
        self._outstanding = self._on_the_way() if self._paused or self._heavy else None
        self._heavy = self._outstanding is not None and self._outstanding > _HEAVY
        if seconds is None:
            self._deadline = None
            return
        self._patience = seconds
        self._deadline = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_later(self._shortest, self._look)

    def reset(self) -> None:
        """Drop the connection so that nothing more leaves."""
        if not self._closed.done():
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()
        self._give_up("connection reset by us")

    async def part(self, octets: bytes, patience: timedelta) -> None:
        """Write a last command and wait until the server has closed, but not longer than `patience`."""
        self._listener, self._parting = None, True
        self.write(octets)
        try:
            async with asyncio.timeout(patience.total_seconds()):
                await asyncio.shield(self._closed)
        except TimeoutError:
            pass
        finally:
            if not self._closed.done():
                self._transport.abort()
            self._give_up("connection closed by us")

    # What the loop calls

    def data_received(self, data: bytes) -> None:
        """Octets arrived."""
        self._stirring.stir()
        if self._listener is not None:
            self._listener.received(data)
        elif self._trouble is None and not self._parting:
            self._parser.feed(data)
            self._read_answer()

    def eof_received(self) -> bool:
        """The server sends no more, so nothing of ours is of any use to it: the transport closes."""
        self._give_up("connection closed by the server")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is closed."""
        if not self._closed.done():
            self._closed.set_result(None)
        self._give_up(f"connection lost ({exc})" if exc and str(exc) else "connection closed by the server")

    def pause_writing(self) -> None:
        """Not all has left."""
        self._paused = True

    def resume_writing(self) -> None:
        """All has left."""
        self._stirring.stir()
        self._paused = False
        self._wake()
        if self._listener is not None:
            self._listener.left()

    def _read_answer(self) -> None:
        if self._answer is None or self._answer.done():
            return  # `ask` looks into the parser
        try:
            reply = self._parser.next()
            if reply is not None and self._parser.pending:
                raise ProtocolError(f"more than one reply: {reply}")
        except ProtocolError as error:
            self._answer.set_exception(ConnectionFailed(f"protocol error: {error}", status=PROTOCOL))
            return
        if reply is not None:
            self._answer.set_result(reply)

    def _failure(self) -> ConnectionFailed:
        if self._trouble is not None:
            return ConnectionFailed(self._trouble, status=LOST)
        return ConnectionFailed("protocol error: a reply that nobody asked for", status=PROTOCOL)

    def _give_up(self, reason: str) -> None:
        if self._trouble is not None:
            return
        self._trouble = reason
        self._deadline = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(self._failure())
        self._wake()
        if self._listener is not None:
            self._listener.lost(reason)

    def _wake(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _look(self) -> None:
        """See whether time is up.  Runs at least once in the shortest timeout while a deadline stands, so that a later
        `expect` is never looked at too late."""
        self._timer = None
        if self._deadline is None:
            return
        now = self._loop.time()
        if now >= self._deadline:
            if not self._moving():
                self._deadline = None
                if self._listener is not None:
                    self._listener.expired()
                return
            self._stirring.stir()
            self._deadline = now + self._patience  # the server can answer only what it has
        self._timer = self._loop.call_later(min(self._deadline - now, self._shortest), self._look)

    def _moving(self) -> bool:
        """Whether the server has taken enough of what waited for it, or all, in the time it was given."""
        before, self._outstanding = self._outstanding, self._on_the_way()
        if not before:
            return False
        return before - self._outstanding >= min(self._rate * self._patience, before)

    def _on_the_way(self) -> int:
        """The octets that the server's kernel has not acknowledged."""
        try:
            in_kernel = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return 0
        return int(struct.unpack("i", in_kernel)[0]) + self.unsent
