"""Simulated mail exchangers: they take mail, or not, as their temper says, and know what they took.

A conversation is a plain state machine on the octets that arrive; what it says leaves in order, after the time that it
needs.  It keeps to RFC 5321 where no fault is drawn: replies in order, DATA only with a recipient, chunks are exact.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

from tests.simulation.connections import Connection, Cut, Peer
from tests.simulation.facts import Facts, Take
from tests.simulation.limits import Limits
from tests.simulation.loop import Agenda
from tests.simulation.temper import REPLIES, Temper

IDLE = 300.0  # seconds after which a server that hears nothing hangs up (RFC 5321 section 4.5.3.2.7)
LONGEST_CUT = 3000  # octets


class Exchanger:
    """One host; see the module."""

    def __init__(
        self, name: str, temper: Temper, *, calm_at: float, agenda: Agenda, facts: Facts, limits: Limits, seed: str
    ) -> None:
        self.name = name
        self.temper = temper
        self.chance = random.Random(f"{seed}/{name}")
        self.agenda = agenda
        self.facts = facts
        self.limits = limits
        self.latency = temper.latency
        self.open = 0
        self.most_open = 0
        self.most_messages = 0  # begun on one connection
        self.begun: deque[float] = deque()  # when messages were, of the last minute
        self.seen: dict[tuple[str, str], float] = {}  # when a sender first wrote to a recipient
        self._calm_at = calm_at

    @property
    def calm(self) -> bool:
        """Whether faults have stopped."""
        return self.agenda.now >= self._calm_at

    def answer(self, connection: Connection) -> Peer | float | None:
        """See network.Host."""
        temper, now = self.temper, self.agenda.now
        if any(start <= now < end for start, end in temper.down):
            self.facts.injected["down"] += 1
            return None if temper.refuses else 60.0
        if not self.calm and self.chance.random() < temper.cuts:
            connection.cut = self._cut()
        talk = Conversation(self, connection)
        talk.greet()
        return talk

    def _cut(self) -> Cut:
        up = self.chance.random() < 0.5
        how = self.chance.choice(("fin", "rst", "hush", "full") if up else ("fin", "rst", "hush"))
        octets = int(self.chance.random() ** 2 * LONGEST_CUT)
        return Cut(up=up, octets=octets, how=how)

    def fault(self, stage: str) -> str | None:
        """Return what goes wrong at this stage, None if nothing does."""
        temper = self.temper
        if not temper.trouble or self.calm or self.chance.random() >= temper.trouble:
            return None
        possible = REPLIES[stage]
        names = [name for name in temper.faults if name in possible]
        if not names:
            return None
        name = self.chance.choice(names)
        self.facts.injected[f"{stage} {name}"] += 1
        return self.chance.choice(possible[name])

    def throttles(self) -> bool:
        """Whether another message would be more than this server takes in a minute; if not, it counts."""
        now, begun = self.agenda.now, self.begun
        while begun and begun[0] <= now - 60:
            begun.popleft()
        if self.temper.rate and len(begun) >= self.temper.rate:
            self.facts.injected["throttled"] += 1
            return True
        begun.append(now)
        return False

    def greylists(self, sender: str, address: str) -> bool:
        """Whether these two have not waited long enough."""
        if not self.temper.greylist:
            return False
        first = self.seen.setdefault((sender, address), self.agenda.now)
        grey = self.agenda.now - first < self.temper.greylist
        if grey:
            self.facts.injected["greylisted"] += 1
        return grey


class Conversation:
    """One connection, as the server sees it."""

    def __init__(self, exchanger: Exchanger, connection: Connection) -> None:
        self._exchanger = exchanger
        self._connection = connection
        self._buffer = bytearray()
        self._over = False
        self._stalled = False
        self._counted = False
        self._sender: str | None = None
        self._recipients: list[str] = []
        self._content: bytearray | None = None  # of DATA, while it comes
        self._chunks = bytearray()
        self._chunk: tuple[int, bool] | None = None  # octets that are awaited, and whether they are the last
        self._broken = False  # a chunk was refused, and no RSET has come since
        self._begun = 0  # messages
        self._told: dict[str, int] = {}  # LIMITS, by name
        self._mails = self._rcpts = 0  # commands, on the connection and in the transaction
        self._dsn = False  # offered
        self._mailed_at = 0.0  # when the transaction began
        self._heard_at = exchanger.agenda.now

    # its life

    def greet(self) -> None:
        """Say who we are; too many connections are turned away."""
        exchanger = self._exchanger
        exchanger.open += 1
        self._counted = True
        exchanger.most_open = max(exchanger.most_open, exchanger.open)
        if exchanger.temper.connections and exchanger.open > exchanger.temper.connections:
            exchanger.facts.injected["crowded"] += 1
            self._say("421 4.7.0 too many concurrent connections|close")
            return
        self._say(exchanger.fault("greeting") or f"220 {exchanger.name} ESMTP")
        exchanger.agenda.after(IDLE, self._look_at_clock)

    def receive(self, octets: bytes) -> None:
        """See network.Peer."""
        exchanger = self._exchanger
        exchanger.facts.note(exchanger.agenda.now, f"c{self._connection.number} >", octets)
        self._heard_at = exchanger.agenda.now
        if self._over or self._stalled:
            return
        self._buffer += octets
        while not (self._over or self._stalled) and self._step():
            pass

    def closed(self) -> None:
        """See network.Peer."""
        self._end()

    def _look_at_clock(self) -> None:
        if self._over:
            return
        agenda = self._exchanger.agenda
        over_at = max(self._heard_at, self._connection.said_at) + IDLE
        if agenda.now >= over_at:
            self._say("|close" if self._stalled else "421 4.4.2 timeout|close")
        else:
            agenda.at(over_at, self._look_at_clock)

    def _end(self) -> None:
        self._over = True
        if self._counted:
            self._counted = False
            self._exchanger.open -= 1

    # what comes

    def _step(self) -> bool:
        """Take the next line, chunk or content from the buffer; whether there was one."""
        buffer = self._buffer
        if self._chunk is not None:
            size, last = self._chunk
            if len(buffer) < size:
                return False
            octets = bytes(buffer[:size])
            del buffer[:size]
            self._chunk = None
            self._take_chunk(octets, last=last)
            return True
        if self._content is not None:
            return self._take_content()
        end = buffer.find(b"\r\n")
        if end < 0:
            return False
        line = buffer[:end].decode("utf-8", "replace")
        del buffer[: end + 2]
        self._obey(line)
        return True

    def _take_content(self) -> bool:
        buffer = self._buffer
        if buffer.startswith(b".\r\n"):
            end, size = 0, 3
        else:
            end, size = buffer.find(b"\r\n.\r\n") + 2, 3
            if end < 2:
                return False
        content = bytes(buffer[:end])
        del buffer[: end + size]
        self._content = None
        stuffed = content[1:] if content.startswith(b".") else content
        self._finish(stuffed.replace(b"\r\n..", b"\r\n."))
        return True

    def _obey(self, line: str) -> None:
        verb = line[:4].upper()
        if verb == "BDAT":
            words = line.split()
            self._chunk = int(words[1]), words[2:] == ["LAST"]
        elif verb == "MAIL":
            self._mail(line)
        elif verb == "RCPT":
            self._rcpt(line)
        elif verb == "DATA":
            self._data()
        elif verb in ("EHLO", "HELO", "RSET", "QUIT"):
            self._plain(verb)
        elif line.upper() == "STARTTLS":
            self._say(self._exchanger.fault("STARTTLS") or "220 go ahead")
        else:
            self._exchanger.facts.breach(f"{self._exchanger.name} was told rubbish: {line[:80]!r}")
            self._say("500 5.5.2 what")

    def _plain(self, verb: str) -> None:
        exchanger = self._exchanger
        stage = "EHLO" if verb == "HELO" else verb
        fault = exchanger.fault(stage)
        if verb == "QUIT":
            self._count_out()
            self._say(fault or "221 2.0.0 bye|close")
            return
        self._forget()
        if verb == "RSET":
            self._broken = False
        if fault is not None and not (verb == "HELO" and fault.startswith("5")):
            self._say(fault)
        elif verb == "EHLO":
            self._dsn = "DSN" in exchanger.temper.offers
            self._told = _limits(exchanger.temper.offers)
            lines = (exchanger.name, *exchanger.temper.offers)
            self._say("\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{each}" for n, each in enumerate(lines)))
        else:
            self._say("250 2.0.0 ok")

    def _count_out(self) -> None:
        """A client that said QUIT is as good as gone."""
        if self._counted:
            self._counted = False
            self._exchanger.open -= 1

    def _mail(self, line: str) -> None:
        exchanger = self._exchanger
        self._mails, self._rcpts = self._mails + 1, 0
        self._count("MAILMAX", self._mails)
        exchanger.limits.begun(self._connection, _address(line))
        if self._broken or self._sender is not None:
            self._say("503 5.5.1 bad sequence of commands")
            return
        if exchanger.temper.transactions and self._begun >= exchanger.temper.transactions:
            exchanger.facts.injected["enough"] += 1
            self._say("421 4.7.0 enough of this connection|close")
            return
        self._begun += 1
        exchanger.most_messages = max(exchanger.most_messages, self._begun)
        if exchanger.throttles():
            self._say("451 4.7.28 rate limited, try again in 60 seconds")
            return
        if self._say(exchanger.fault("MAIL") or "250 2.1.0 ok"):
            self._forget()
            self._sender = _address(line)
            self._mailed_at = exchanger.agenda.now

    def _count(self, name: str, number: int) -> None:
        """See whether the client keeps to what it was told (RFC 9422)."""
        if number == self._told.get(name, number) + 1:
            self._exchanger.facts.breach(
                f"c{self._connection.number}: {number} where {self._exchanger.name} told of {name}={number - 1}"
            )

    def _rcpt(self, line: str) -> None:
        self._rcpts += 1
        self._count("RCPTMAX", self._rcpts)
        if self._sender is None:
            self._say("503 5.5.1 bad sequence of commands")
            return
        address = _address(line)
        local = address.partition("@")[0]
        if local.startswith("no"):
            reply = "550 5.1.1 no such user"
        elif local.startswith("full"):
            reply = "452 4.2.2 mailbox full"
        elif self._exchanger.greylists(self._sender, address):
            reply = "451 4.7.1 greylisted, please try again later"
        else:
            reply = self._exchanger.fault("RCPT") or "250 2.1.5 ok"
        if self._say(reply):
            self._recipients.append(address)

    def _data(self) -> None:
        if self._sender is None or not self._recipients:
            self._say("503 5.5.1 no valid recipients")
            return
        reply = self._exchanger.fault("DATA") or "354 go ahead"
        self._say(reply)
        if reply.startswith("354"):
            self._content = bytearray()

    def _take_chunk(self, octets: bytes, *, last: bool) -> None:
        if self._broken or not self._recipients:
            self._broken = self._broken or self._sender is not None
            self._say("503 5.5.1 bad sequence of commands")
            return
        self._chunks += octets
        if last:
            self._finish(bytes(self._chunks))
        elif not self._say(self._exchanger.fault("BDAT") or "250 2.0.0 ok"):
            self._broken = True

    def _finish(self, content: bytes) -> None:
        exchanger = self._exchanger
        chunked = bool(self._chunks)
        reply = exchanger.fault("final") or "250 2.0.0 queued|taken"
        if "taken" in reply.partition("|")[2]:
            self._accept(content)
        if not self._say(reply, exchanger.temper.final) and chunked:
            self._broken = True
        self._forget()

    def _accept(self, content: bytes) -> None:
        exchanger = self._exchanger
        now = exchanger.agenda.now
        identity = _field(content, b"Message-ID: <", b">")
        ours = not content.startswith(b"Received: by ")  # a notification
        queue_id = identity.partition("@")[0] if ours else _field(content, b" id ", b";")
        for address in self._recipients:
            exchanger.facts.taken(
                Take(
                    at=now,
                    identity=identity,
                    queue_id=queue_id,
                    address=address,
                    server=exchanger.name,
                    connection=self._connection.number,
                    dsn=self._dsn,
                    begun=self._mailed_at - 3 * (exchanger.temper.service + 2 * exchanger.temper.latency) - 1,
                ),
                content,
            )

    def _forget(self) -> None:
        self._sender, self._recipients = None, []
        self._content = None
        self._chunks.clear()

    # what is said

    def _say(self, reply: str, extra: float = 0.0) -> bool:
        """Say something, and do what follows; whether it was a 2yz."""
        text, _, then = reply.partition("|")
        exchanger, connection = self._exchanger, self._connection
        exchanger.facts.note(exchanger.agenda.now, f"c{connection.number} < {reply}")
        if text:
            connection.reply(text.encode() + b"\r\n", exchanger.temper.service + extra)
        if "stall" in then:
            self._stalled = True
        elif "close" in then or "reset" in then:
            connection.hang_up("fin" if "close" in then else "rst")
            self._end()
        return text.startswith("2") or text.endswith("\r\n250 2.0.0 ok")


def _limits(offers: Iterable[str]) -> dict[str, int]:
    words = (word for offer in offers if offer.startswith("LIMITS ") for word in offer.split()[1:])
    return {name: int(value) for name, _, value in (word.partition("=") for word in words)}


def _address(line: str) -> str:
    return line[line.index("<") + 1 : line.index(">")]


def _field(content: bytes, start: bytes, end: bytes) -> str:
    at = content.find(start)
    if at < 0:
        return ""
    at += len(start)
    return content[at : content.index(end, at)].decode()
