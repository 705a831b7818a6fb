"""One client of a mail exchanger that gives trouble, and that notes what it took.

Commands are answered in order, all that came in one read at once.  What the seed has for a connection: an end (FIN or
RST) after so many octets in or out, a 421 after so many messages, a stage at which it says nothing more.  For a
transaction: a refusal, 4yz or 5yz, at one of its stages.  A message is noted as taken when its 250 is decided, whether
or not that reply arrives.  TLS, where it is offered, begins with STARTTLS.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from typing import TYPE_CHECKING, cast

from benchmarks.soaking.moods import Mood

if TYPE_CHECKING:
    from benchmarks.soaking.server import Exchanger

END = b"\r\n.\r\n"
NO_LINGER = struct.pack("ii", 1, 0)
CROWD = 2  # connections
SLOW = (0.2, 2.0)  # seconds for a message
HANDSHAKE = 10.0  # seconds


class Session(asyncio.Protocol):
    """See the module."""

    def __init__(self, exchanger: Exchanger) -> None:
        self._exchanger = exchanger
        self._trouble = exchanger.trouble()
        self._mood = exchanger.mood
        self._buffer = bytearray()
        self._out: list[bytes] = []
        self._came, self._said, self._messages = 0, 0, 0
        self._waiting = self._over = False  # for a delay; for nothing
        self._encrypted = False
        # of a transaction
        self._sender = b""
        self._recipients: list[bytes] = []
        self._content = bytearray()
        self._refusal = ("", b"")  # the stage, and the reply
        self._missing = -1  # octets of a chunk; below 0: there is none
        self._last = self._in_body = self._broken = False
        self._searched = 0

    # the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not asyncio's
        if self._encrypted:
            return
        self._exchanger.open += 1
        if self._mood is Mood.DEAD:
            self._reset()
        elif self._mood is Mood.SILENT:
            self._over = True
        elif self._mood is Mood.CROWDED and self._exchanger.open > CROWD:
            self._last_word(b"421 4.7.0 too many connections from you\r\n")
        else:
            self._greet()

    def connection_lost(self, exc: Exception | None) -> None:
        self._exchanger.open -= 1
        self._over = True

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        self._buffer += data
        self._came += len(data)
        if 0 <= self._trouble.cut_in <= self._came:
            self._cut()
        elif not self._waiting:
            self._go()

    def _greet(self) -> None:
        if reply := self._trouble.at("greeting"):
            self._last_word(reply)
        else:
            self._out.append(b"220 mx.test ESMTP\r\n")
            self._flush()

    # what came

    def _go(self) -> None:
        while not (self._waiting or self._over) and self._step():
            pass
        if not self._waiting:
            self._flush()

    def _step(self) -> bool:
        """Take one command, chunk or message off the buffer; False if none is there in full."""
        if self._missing >= 0:
            return self._chunk()
        if self._in_body:
            return self._until_dot()
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        self._obey(line)
        return True

    def _obey(self, line: bytes) -> None:
        verb = line[:4].upper()
        if verb == b"MAIL":
            self._mail(line)
        elif verb == b"RCPT":
            self._rcpt(line)
        elif verb == b"DATA":
            self._data()
        elif verb == b"BDAT":
            words = line.split()
            self._missing, self._last = int(words[1]), len(words) > 2
        elif verb in (b"EHLO", b"HELO", b"RSET"):
            self._forget()
            offer = self._exchanger.offer(encrypted=self._encrypted)
            self._say("EHLO", offer) if verb == b"EHLO" else self._out.append(b"250 2.0.0 ok\r\n")
        elif verb == b"QUIT":
            self._last_word(b"221 2.0.0 bye\r\n")
        elif verb == b"STAR" and (context := self._exchanger.context) and not self._encrypted:
            self._start_tls(context)
        else:
            self._out.append(b"500 5.5.2 what?\r\n")

    def _mail(self, line: bytes) -> None:
        if self._broken or self._sender:
            self._out.append(b"503 5.5.1 not now\r\n")
            return
        if 0 <= self._trouble.limit <= self._messages:
            self._last_word(b"421 4.3.2 no more on this connection\r\n")
            return
        self._refusal = self._trouble.transaction()
        if self._say("MAIL", b"250 2.1.0 ok\r\n"):
            self._sender = line

    def _rcpt(self, line: bytes) -> None:
        if not self._sender:
            self._out.append(b"503 5.5.1 no MAIL\r\n")
        elif refusal := self._exchanger.refusal(self._mood, line):
            self._out.append(refusal)
        elif self._say("RCPT", b"250 2.1.5 ok\r\n"):
            self._recipients.append(line)

    def _data(self) -> None:
        if not self._recipients:
            self._out.append(b"503 5.5.1 nobody to send to\r\n")
        elif self._say("DATA", b"354 go on\r\n"):
            self._in_body = True

    def _until_dot(self) -> bool:
        end = self._buffer.find(END, max(self._searched - len(END), 0))
        if end < 0:
            self._searched = len(self._buffer)
            return False
        content = bytes(self._buffer[: end + 2])
        del self._buffer[: end + len(END)]
        self._in_body, self._searched = False, 0
        self._final(content.replace(b"\r\n..", b"\r\n."))
        return True

    def _chunk(self) -> bool:
        missing = self._missing
        if len(self._buffer) < missing:
            return False
        self._content += self._buffer[:missing]
        del self._buffer[:missing]
        self._missing = -1
        if self._broken or not self._recipients:
            self._out.append(b"503 5.5.1 not now\r\n")
            self._broken = True
        elif self._last:
            self._final(bytes(self._content))
        elif not self._say("DATA", b"250 2.0.0 chunk taken\r\n"):
            self._broken = True
        return True

    def _final(self, content: bytes) -> None:
        if self._mood is Mood.SLOW:
            self._wait(self._trouble.seconds(*SLOW))
        self._messages += 1
        if self._say("final", b"250 2.0.0 queued as %X\r\n" % self._messages):
            self._exchanger.took(self._recipients, content)
        was_chunked = bool(self._content)
        refused = not self._out or not self._out[-1].startswith(b"2")
        self._forget()
        self._broken = was_chunked and refused

    def _forget(self) -> None:
        self._sender, self._recipients, self._refusal = b"", [], ("", b"")
        self._content, self._missing = bytearray(), -1
        self._last = self._in_body = self._broken = False
        self._searched = 0

    # what is said

    def _say(self, stage: str, reply: bytes) -> bool:
        """Say this, or what the trouble has for the stage; whether it was this."""
        if self._trouble.stall == stage:
            self._over = True
            return False
        refused = self._trouble.at(stage) if stage == "EHLO" else b""
        if self._refusal[0] == stage:
            refused = self._refusal[1]
        self._out.append(refused or reply)
        if refused.startswith(b"421"):
            self._last_word(b"")
        return not refused

    def _last_word(self, reply: bytes) -> None:
        self._out.append(reply)
        self._flush()
        self._over = True
        if not self._transport.is_closing():
            self._transport.close()

    def _flush(self) -> None:
        octets = b"".join(self._out)
        self._out.clear()
        if not octets or self._transport.is_closing():
            return
        self._said += len(octets)
        if 0 <= self._trouble.cut_out < self._said:
            self._transport.write(octets[: len(octets) - (self._said - self._trouble.cut_out)])
            self._cut()
        else:
            self._transport.write(octets)

    def _cut(self) -> None:
        if self._trouble.resets:
            self._reset()
        else:
            self._over = True
            self._transport.close()

    def _reset(self) -> None:
        self._over = True
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self._transport.abort()

    def _wait(self, seconds: float) -> None:
        self._waiting = True
        asyncio.get_running_loop().call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._waiting = False
        if not self._over:
            self._go()

    # TLS

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._out.append(b"220 2.0.0 go ahead\r\n")
        self._flush()
        if self._transport.is_closing():
            return
        self._waiting = True
        self._buffer.clear()
        self._exchanger.keep(asyncio.ensure_future(self._handshake(context)))

    async def _handshake(self, context: ssl.SSLContext) -> None:
        self._encrypted = True
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE
            )
        except (OSError, asyncio.CancelledError):
            self._over = True
            self._transport.abort()
            return
        self._transport = cast("asyncio.Transport", transport)
        self._forget()
        self._resume()
