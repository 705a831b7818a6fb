"""All mail exchangers of a soak, in a process of their own: one port, an address for each.

What they take is compared octet by octet with what was dropped, and told through a pipe as notes (shared.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import ssl
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import trustme
import uvloop

from benchmarks.soaking.moods import Mood, mood
from benchmarks.soaking.plan import MOST, address, host_name
from benchmarks.soaking.session import Session
from benchmarks.soaking.shared import NOTE, Note, Shared
from benchmarks.soaking.troubles import Trouble

BACKLOG = 1000
OFFERS = ((), ("PIPELINING",), ("PIPELINING", "CHUNKING"))
GREYLISTED = b"451 4.7.1 greylisted, come back in 5 seconds\r\n"
BUSY = b"451 4.3.0 busy\r\n"
REFUSED = b"550 5.7.1 nobody here wants your mail\r\n"
WRONG_KEPT = 20  # messages that are not what was dropped, as evidence

_NUMBER = re.compile(rb"TO:<([rs])(\d+)@")
_TOLD = re.compile(rb"^Final-Recipient: rfc822; ?r(\d+)@.*?^Action: (\w+)", re.MULTILINE | re.DOTALL)


class Site:
    """What the exchangers share: the notes, the chance, who was greylisted."""

    def __init__(self, shared: Shared, notes: int, evidence: Path, messages: int) -> None:
        self.shared = shared
        self.chance = random.Random(shared.plan.seed)
        self.greylisted = bytearray(messages * MOST)
        self.tasks: set[asyncio.Future[None]] = set()
        self._notes = notes
        self._evidence = evidence
        self._wrong = 0

    def note(self, notes: Sequence[tuple[Note, int]]) -> None:
        """Tell of what was taken."""
        for start in range(0, len(notes), 400):
            os.write(self._notes, b"".join(NOTE.pack(*each) for each in notes[start : start + 400]))

    def wrong(self, message: int, content: bytes) -> None:
        """Tell of a message that is not what was dropped."""
        if self._wrong < WRONG_KEPT:
            (self._evidence / f"wrong-{self._wrong}-{message}.eml").write_bytes(content)
        self._wrong += 1
        self.note([(Note.WRONG, message)])


class Exchanger:
    """One of them."""

    def __init__(self, site: Site, host: int, context: ssl.SSLContext | None) -> None:
        self._site = site
        self._host = host
        self._is_back = site.shared.plan.is_back(host)
        self.context = context
        self.open = 0  # connections

    @property
    def mood(self) -> Mood:
        """How it fares now.  Those of senders fare well."""
        shared = self._site.shared
        return Mood.WELL if shared.is_calm or self._is_back else mood(shared.plan.seed, self._host, shared.at)

    def trouble(self) -> Trouble:
        """Return what befalls another connection."""
        return Trouble(self._site.chance, calm=self._site.shared.is_calm, permanent=not self._is_back)

    def offer(self, *, encrypted: bool) -> bytes:
        """Return the reply to EHLO."""
        words = ["8BITMIME", "SIZE 104857600", "ENHANCEDSTATUSCODES", *OFFERS[self._host % len(OFFERS)]]
        words += ["STARTTLS"] if self.context and not encrypted else []
        lines = [host_name(self._host), *words]
        return "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()

    def refusal(self, mood: Mood, line: bytes) -> bytes:
        """Return how a recipient is refused; empty: it is not."""
        if mood is Mood.BUSY:
            return BUSY
        if mood is Mood.REFUSING:
            return REFUSED
        if mood is Mood.GREYLISTING and (found := _NUMBER.search(line)):
            number, seen = int(found[2]), self._site.greylisted
            if number < len(seen) and not seen[number]:
                seen[number] = 1
                return GREYLISTED
        return b""

    def took(self, lines: Sequence[bytes], content: bytes) -> None:
        """A message was taken for recipients, given as their RCPT commands."""
        found = [match for line in lines if (match := _NUMBER.search(line))]
        if len(found) < len(lines):
            self._site.wrong(-1, content)
        elif found[0][1] == b"s":
            self._told(int(found[0][2]), content)
        else:
            self._delivered([int(each[2]) for each in found], content)

    def keep(self, task: asyncio.Future[None]) -> None:
        """Keep a task from being lost before its end."""
        self._site.tasks.add(task)
        task.add_done_callback(self._site.tasks.discard)

    def _delivered(self, numbers: Sequence[int], content: bytes) -> None:
        message = numbers[0] // MOST
        body = self._site.shared.plan.body(message)
        its_own = all(number // MOST == message for number in numbers)
        if its_own and content.endswith(body) and content[: -len(body)].endswith(b"\r\n\r\n"):
            self._site.note([(Note.TAKEN, number) for number in numbers])
        else:
            self._site.wrong(message, content)

    def _told(self, message: int, content: bytes) -> None:
        told = [int(number) for number, action in _TOLD.findall(content) if action == b"failed"]
        if told and all(number // MOST == message for number in told):
            self._site.note([(Note.BOUNCE, message), *((Note.TOLD, number) for number in told)])
        else:
            self._site.wrong(message, content)


def serve(pipe: Connection, shared: Shared, notes: int, evidence: Path, messages: int) -> None:
    """Serve all hosts of the plan until killed; send the port through the pipe first."""
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(pipe, Site(shared, notes, evidence, messages)))


async def _serve(pipe: Connection, site: Site) -> None:
    loop, context, port = asyncio.get_running_loop(), _context(), 0
    for host in site.shared.plan.hosts:
        exchanger = Exchanger(site, host, context if host % 5 == 4 else None)
        server = await loop.create_server(lambda it=exchanger: Session(it), address(host), port, backlog=BACKLOG)  # type: ignore[misc]
        port = server.sockets[0].getsockname()[1]
    pipe.send(port)
    await asyncio.Event().wait()


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("mx.test").configure_cert(context)
    return context
