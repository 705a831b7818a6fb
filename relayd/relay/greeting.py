"""The greeting, looked at before aiosmtplib reads it (RFC 5321 section 3.1).

aiosmtplib takes the last code of a reply whose codes differ, and hides what is glued to it.  So the octets are read
with MSG_PEEK first, by the parser that reads all other replies, and stay where they are.  SO_RCVLOWAT lets the kernel
wake us only when there are more of them.
"""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

from relayd.mail.reply import EnhancedStatus, Reply
from relayd.relay.commands import QUIT
from relayd.relay.replies import MAX_LINE, MAX_REPLY, ProtocolError, ReplyParser
from relayd.relay.wire import LOST, PROTOCOL, ConnectionFailed

_MOST = MAX_REPLY + MAX_LINE  # octets of a greeting


async def await_greeting(sock: socket.socket, patience: timedelta) -> None:
    """Wait until a server has greeted us on `sock`, and leave the greeting there.

    Raises:
        ConnectionFailed: it has not, or will not have us; in the second case it was told QUIT.
    """
    try:
        async with asyncio.timeout(patience.total_seconds()):
            reply = await _peeked(sock)
    except TimeoutError:
        raise ConnectionFailed(f"no greeting in {patience.total_seconds():g} s", status=LOST) from None
    except ProtocolError as error:
        raise ConnectionFailed(f"protocol error in the greeting: {error}", status=PROTOCOL) from None
    except OSError as error:
        raise ConnectionFailed(f"connection lost before the greeting: {error}", status=LOST) from None
    if reply.positive:
        return
    if reply.intermediate:
        raise _refused(reply, PROTOCOL)
    if reply.code != 421:
        _say_goodbye(sock)
    raise _refused(reply, None)


def _refused(reply: Reply, status: EnhancedStatus | None) -> ConnectionFailed:
    return ConnectionFailed(f"greeting: {reply}", reply=None if status else reply, status=status)


async def _peeked(sock: socket.socket) -> Reply:
    parser = ReplyParser()
    seen = 0
    try:
        while True:
            await _readable(sock)
            octets = sock.recv(_MOST, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if len(octets) == seen:
                raise ConnectionError("closed by the server")
            parser.feed(octets[seen:])
            seen = len(octets)
            if (reply := parser.next()) is not None:
                if parser.pending and reply.positive:
                    raise ProtocolError("more than a greeting")
                return reply
            if seen >= _MOST:
                raise ProtocolError(f"more than {_MOST} octets")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, seen + 1)
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(sock.fileno(), _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _say_goodbye(sock: socket.socket) -> None:
    try:
        sock.send(QUIT, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return  # it has gone already
