"""An SMTP server that does as it is told, on a real socket on loopback, and keeps every octet.

`replies` says, by stage, what to answer: a text (a line or several, without the last CRLF), octets as they are, an
`Answer` with a delay or an end, a list of these to be used up in order over all connections (then the default), or a
function of the command's line.  Stages: greeting, EHLO, HELO, STARTTLS, AUTH, MAIL, RCPT, DATA, BDAT, final, RSET,
QUIT.  BDAT is a chunk that is not the last; the last one is answered as `final`.

As RFC 3030 section 2 has it, a chunk's octets are taken exactly, whatever it is answered with.  After one that was
refused the rest of them gets 503, until RSET.  Where the script does not say otherwise, so does what is out of
sequence: RCPT and DATA without MAIL, BDAT without a recipient, MAIL between a chunk that was refused and a RSET.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, TypeAlias

import trustme


@dataclass(frozen=True, slots=True)
class Answer:
    """Octets to write, after `delay` seconds, `drip` seconds after each; then go on, `close`, `reset` (RST), `stall`
    for ever, `flood` (the same again and again), or `hold`: read nothing until the server's `release` is set."""

    text: str | bytes = b""
    delay: float = 0.0
    then: str = ""
    drip: float = 0.0

    @property
    def octets(self) -> bytes:
        return self.text if isinstance(self.text, bytes) else self.text.replace("\n", "\r\n").encode() + b"\r\n"


CLOSE = Answer(then="close")
RESET = Answer(then="reset")
STALL = Answer(then="stall")

Plain: TypeAlias = str | bytes | Answer
Script: TypeAlias = Plain | Sequence[Plain] | Callable[[str], Plain]

# What a server says to EHLO: one for each plan.
LOCK_STEP = "250-mx.test\n250-SIZE 10240000\n250 8BITMIME"
PIPELINED = "250-mx.test\n250-PIPELINING\n250-SIZE 10240000\n250-8BITMIME\n250-SMTPUTF8\n250 DSN"
CHUNKED = PIPELINED.replace("250 DSN", "250-DSN\n250 CHUNKING")

DEFAULTS: dict[str, Plain] = {
    "greeting": "220 mx.test ESMTP",
    "EHLO": PIPELINED,
    "HELO": "250 mx.test",
    "STARTTLS": "220 go ahead",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 sender ok",
    "RCPT": "250 2.1.5 recipient ok",
    "DATA": "354 go ahead",
    "BDAT": "250 2.0.0 chunk taken",
    "final": "250 2.0.0 queued",
    "RSET": "250 2.0.0 reset",
    "QUIT": Answer("221 2.0.0 bye", then="close"),
    "other": "500 5.5.2 what",
}
_OUT_OF_SEQUENCE = Answer("503 5.5.1 bad sequence of commands")


@dataclass(slots=True)
class Received:
    """One message as it came: the content un-stuffed, the sizes of its chunks, and whether it was answered with 2yz."""

    mail: str
    recipients: list[str]
    content: bytes
    taken: bool = False
    chunks: list[int] = field(default_factory=list)  # in octets; none where it came by DATA


@dataclass(slots=True)
class Connection:
    """One client: what it sent (`octets`, in clear also where it was TLS) and its commands, in order."""

    octets: bytearray = field(default_factory=bytearray)
    commands: list[str] = field(default_factory=list)
    messages: list[Received] = field(default_factory=list)
    flights: list[bytes] = field(default_factory=list)  # what came in one read
    peer: str = ""  # the client's address
    local: str = ""  # the address that it connected to
    encrypted: bool = False
    resumed: bool = False  # its TLS session was one of an earlier connection
    open: bool = True  # until the client said QUIT or either side began to close it
    ended: str = ""  # "eof" or "reset" once it has gone

    @property
    def verbs(self) -> list[str]:
        return [command.split(" ")[0].split(":")[0].upper() for command in self.commands]


class _Done(Exception):
    """This conversation is over."""


class ScriptedServer:
    """See the module.  `async with ScriptedServer(replies) as server:` then `server.port`."""

    def __init__(
        self,
        replies: Mapping[str, Script] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        read_rate: int | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.connections: list[Connection] = []
        self.talks: list[_Talk] = []
        self.release = asyncio.Event()
        self.most_at_once = 0  # connections that were not told QUIT
        self.host = host
        self.port = port
        self._replies: dict[str, Script] = {**DEFAULTS, **(replies or {})}
        self._told = frozenset(replies or ())
        self._used: dict[str, int] = {}
        self._tls = tls
        self._implicit_tls = implicit_tls
        self._read_rate = read_rate  # octets in a second
        self._receive_buffer = receive_buffer
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def messages(self) -> list[Received]:
        """Every message that came to its end, over all connections."""
        return [message for connection in self.connections for message in connection.messages]

    @property
    def taken(self) -> list[Received]:
        """Those that were answered with 2yz."""
        return [message for message in self.messages if message.taken]

    async def __aenter__(self) -> Self:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, proto=socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where it is named
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        sock.bind((self.host, self.port))
        self.port = sock.getsockname()[1]
        self._server = await asyncio.start_server(
            self.accept, sock=sock, limit=1 << 16, ssl=self._tls if self._implicit_tls else None
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.stop()
        await self._server.wait_closed()

    async def stop(self) -> None:
        """End every conversation."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Begin a conversation, on whatever transport it is."""
        peer, local = (writer.get_extra_info(name)[0] for name in ("peername", "sockname"))
        connection = Connection(encrypted=self._implicit_tls, peer=peer, local=local)
        if self._implicit_tls:
            connection.resumed = writer.get_extra_info("ssl_object").session_reused
        self.connections.append(connection)
        talk = _Talk(self, connection, reader, writer)
        self.talks.append(talk)
        task = asyncio.create_task(self._serve(talk))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, talk: _Talk) -> None:
        try:
            await talk.run()
        except ConnectionError:
            talk.connection.ended = "reset"
        except (_Done, asyncio.IncompleteReadError, ssl.SSLError, OSError):
            talk.connection.ended = talk.connection.ended or "eof"
        finally:
            talk.connection.open = False
            talk.writer.transport.abort()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(0.5):  # a writer whose STARTTLS failed half-way never closes (CPython)
                    await talk.writer.wait_closed()

    def tells(self, stage: str) -> bool:
        """Whether the script says what to answer then."""
        return stage in self._told

    def answer(self, stage: str, line: str) -> Answer:
        """Return what the script has for this stage now."""
        script = self._replies.get(stage, DEFAULTS["other"])
        if callable(script):
            found = script(line)
        elif isinstance(script, str | bytes | Answer):
            found = script
        else:
            number = self._used.get(stage, 0)
            self._used[stage] = number + 1
            found = script[number] if number < len(script) else DEFAULTS[stage]
        return found if isinstance(found, Answer) else Answer(found)


class _Talk:
    """One conversation."""

    def __init__(
        self,
        server: ScriptedServer,
        connection: Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.server = server
        self.connection = connection
        self.writer = writer
        self._reader = reader
        self._buffer = bytearray()
        self._mail = ""
        self._recipients: list[str] = []
        self._chunks: list[bytes] = []
        self._broken = False  # a chunk was refused, and no RSET has come since

    async def run(self) -> None:
        await self._say("greeting", "")
        while True:
            line = (await self._line()).decode("utf-8", "replace")
            self.connection.commands.append(line)
            # Counted now, not when it was accepted: whatever another connection was told before has been read.
            self.server.most_at_once = max(self.server.most_at_once, sum(each.open for each in self.server.connections))
            await self._obey(line)

    async def _obey(self, line: str) -> None:
        verb = line.split(" ")[0].split(":")[0].upper()
        if verb == "QUIT":
            self.connection.open = False
        if verb == "BDAT":
            await self._chunk(line)
            return
        astray = self._broken if verb == "MAIL" else verb in ("RCPT", "DATA") and not self._mail
        if astray and not self.server.tells(verb):
            await self._write(_OUT_OF_SEQUENCE)
            return
        if verb in ("EHLO", "HELO", "RSET"):
            self._forget()
        answer = await self._say(verb if verb in DEFAULTS else "other", line)
        if answer[:1] == b"2" and verb == "MAIL":
            self._forget()
            self._mail = line
        elif answer[:1] == b"2" and verb == "RCPT":
            self._recipients.append(line)
        elif answer[:3] == b"220" and verb == "STARTTLS":
            await self._encrypt()
        elif answer[:3] == b"354" and verb == "DATA":
            await self._content()
        while answer[:3] == b"334" and verb == "AUTH":
            line = (await self._line()).decode()
            self.connection.commands.append(line)
            answer = await self._say("AUTH", line)

    async def _content(self) -> None:
        content = await self._until_dot()
        unstuffed = content[1:] if content.startswith(b".") else content
        message = Received(self._mail, self._recipients, unstuffed.replace(b"\r\n.", b"\r\n"))
        self._forget()
        self.connection.messages.append(message)
        await self._say("final", "", message)

    async def _chunk(self, line: str) -> None:
        words = line.split()
        last = words[2:] == ["LAST"]
        octets = await self._exactly(int(words[1]))
        if self._broken or not (self._recipients or self.server.tells("BDAT")):
            await self._write(_OUT_OF_SEQUENCE)
            return
        self._chunks.append(octets)
        if last:
            sizes = [len(chunk) for chunk in self._chunks]
            message = Received(self._mail, self._recipients, b"".join(self._chunks), chunks=sizes)
            self._forget()
            self.connection.messages.append(message)
            answer = await self._say("final", line, message)
        else:
            answer = await self._say("BDAT", line)
        self._broken = answer[:1] != b"2"

    def _forget(self) -> None:
        self._mail, self._recipients, self._chunks, self._broken = "", [], [], False

    async def _encrypt(self) -> None:
        assert self.server._tls is not None
        await self.writer.start_tls(self.server._tls, ssl_handshake_timeout=5)
        self.connection.encrypted = True
        self.connection.resumed = self.writer.get_extra_info("ssl_object").session_reused
        self._buffer.clear()

    async def _say(self, stage: str, line: str, message: Received | None = None) -> bytes:
        return await self._write(self.server.answer(stage, line), message)

    async def _write(self, answer: Answer, message: Received | None = None) -> bytes:
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if message is not None:
            message.taken = answer.octets.startswith(b"2")
        if answer.drip:
            for octet in answer.octets:
                self.writer.write(bytes((octet,)))
                await asyncio.sleep(answer.drip)
        elif answer.text:
            self.writer.write(answer.octets)
            await self.writer.drain()
        if answer.then in ("close", "reset"):
            self.connection.open = False
        if answer.then == "reset":
            sock = self.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raise _Done
        if answer.then == "close":
            await self._hang_up()
            raise _Done
        if answer.then == "stall":
            await asyncio.Event().wait()
        while answer.then == "flood":
            self.writer.write(answer.octets)
            await self.writer.drain()
        if answer.then == "hold":
            self.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await self.server.release.wait()
            self.writer.transport.resume_reading()  # type: ignore[attr-defined]
        return answer.octets if answer.text else b""

    async def _hang_up(self) -> None:
        """Close so that the client can read what was said before: its last octets are read first, or it gets a RST."""
        if not self.writer.can_write_eof():
            self.writer.close()
            return
        self.writer.write_eof()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                while octets := await self._reader.read(65536):
                    self.connection.octets += octets

    async def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            await self._more()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            await self._more()
        octets = bytes(self._buffer[:count])
        del self._buffer[:count]
        return octets

    async def _until_dot(self) -> bytes:
        searched = 0
        while True:
            if self._buffer.startswith(b".\r\n"):
                del self._buffer[:3]
                return b""
            if (end := self._buffer.find(b"\r\n.\r\n", searched)) >= 0:
                content = bytes(self._buffer[: end + 2])
                del self._buffer[: end + 5]
                return content
            searched = max(0, len(self._buffer) - 4)
            await self._more()

    async def _more(self) -> None:
        rate = self.server._read_rate
        octets = await self._reader.read(65536 if rate is None else max(1, rate // 20))
        if rate is not None:
            await asyncio.sleep(len(octets) / rate)
        if not octets:
            raise _Done
        self.connection.octets += octets
        self.connection.flights.append(octets)
        self._buffer += octets


@contextlib.contextmanager
def serving(run: Callable[[Awaitable[object]], object], server: ScriptedServer) -> Iterator[ScriptedServer]:
    """Serve while the context lasts, on a loop that `run` awaits things on."""
    run(server.__aenter__())
    try:
        yield server
    finally:
        run(server.__aexit__(None, None, None))


class PasswordCheck:
    """The server's side of AUTH PLAIN, LOGIN and CRAM-MD5, for one client at a time: an answer to each line.

    `verdicts` has, for each attempt, the mechanism and whether the password was right.
    """

    CHALLENGE = b"<1896.697170952@mx.test>"

    def __init__(self, username: str, password: str) -> None:
        self.verdicts: list[tuple[str, bool]] = []
        self._right = [username.encode(), password.encode()]
        self._mechanism = ""
        self._said: list[bytes] = []

    def __call__(self, line: str) -> str:
        words = line.split()
        if words[0] == "AUTH":
            self._mechanism, self._said = words[1], []
            words = words[2:]
        self._said += [base64.b64decode(word) for word in words]
        match self._mechanism:
            case "PLAIN" if self._said:
                return self._judge(self._said[0].split(b"\0")[1:] == self._right)
            case "LOGIN" if len(self._said) == 2:
                return self._judge(self._said == self._right)
            case "LOGIN":
                return "334 " + base64.b64encode((b"Username:", b"Password:")[len(self._said)]).decode()
            case "CRAM-MD5" if self._said:
                digest = hmac.new(self._right[1], self.CHALLENGE, "md5").hexdigest().encode()
                return self._judge(self._said[0] == self._right[0] + b" " + digest)
            case "CRAM-MD5":
                return "334 " + base64.b64encode(self.CHALLENGE).decode()
        return "504 5.5.4 what"

    def _judge(self, right: bool) -> str:
        self.verdicts.append((self._mechanism, right))
        return "235 2.7.0 welcome" if right else "535 5.7.8 go away"


class TokenCheck:
    """The server's side of AUTH XOAUTH2 and OAUTHBEARER, for one client at a time: an answer to each line.

    `good` has the tokens that are right, None: any is.  `verdicts` has, for each attempt, the mechanism, the token and
    whether it was.
    """

    ERROR = b'{"status":"401","schemes":"bearer","scope":"https://mail.test/"}'

    def __init__(self, username: str, good: set[str] | None = None, *, error: bytes = ERROR) -> None:
        self.verdicts: list[tuple[str, str, bool]] = []
        self.good = good
        self._username = username
        self._error = error
        self._mechanism = ""
        self._failing = False

    def __call__(self, line: str) -> str:
        words = line.split(" ")
        if words[0] == "AUTH":
            self._mechanism, self._failing = words[1], False
            words = words[2:]
            if not words:
                return "334 "
        if self._failing:
            last = "" if self._mechanism == "XOAUTH2" else "AQ=="
            return "535 5.7.8 bad token" if words == [last] else "501 5.5.2 what"
        return self._judge(base64.b64decode(words[0]).decode())

    def _judge(self, said: str) -> str:
        start = f"user={self._username}\1" if self._mechanism == "XOAUTH2" else f"n,a={self._username},\1"
        token = said.removeprefix(start).removeprefix("auth=Bearer ").removesuffix("\1\1")
        right = said == f"{start}auth=Bearer {token}\1\1" and (self.good is None or token in self.good)
        self.verdicts.append((self._mechanism, token, right))
        self._failing = not right
        return "235 2.7.0 welcome" if right else "334 " + base64.b64encode(self._error).decode()


class Authority:
    """A certificate authority of the test, and certificates of it."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(self, *names: str, expired: bool = False, common_name: str | None = None) -> ssl.SSLContext:
        """Return a context for a server that is called so; `common_name` is in the subject alone."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        self._ca.issue_cert(*names, common_name=common_name, not_after=until).configure_cert(context)
        return context

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        return self._ca.cert_pem.bytes()
