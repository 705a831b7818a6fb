"""What a worker says to the daemon, when it has gone mad or is somebody else's by now: frames of any plain values.

What can be read is taken; anything else ends the channel by an ordinary exception, as the loop does it, and then every
run is over exactly once, with each delivery either reported or given back.  `marshal` itself is not fuzzed: it promises
nothing for octets that it did not write, and docs/security.md says what follows from that.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import struct
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.outcome import Deferred, Failed, Outcome
from relayd.mail.route import Host, Site, Target
from relayd.spool.notes import Noted
from relayd.spool.takeover import TakenOver
from relayd.workers import codec, messages
from relayd.workers.ports import PoolPorts, Premises
from relayd.workers.process import Process
from relayd.workers.run import Run
from tests.attempt.situations import GREYLISTED, NO_SUCH_USER, QUEUED, a_delivery, a_recipient, an_attempt
from tests.fuzz.choices import Choices
from tests.relay.kit import Tokens

WORDS = (
    *(name.encode() for name in vars(messages).values() if isinstance(name, str) and name.isalpha()),
    *(b"look up", b"not found", b"delivered", b"deferred", b"failed", b"host", b"message", b"recipient", b"none"),
)
NAMES = (*(word.decode() for word in WORDS), "", "no such")
PLAIN: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        2,
        -1,
        2**31,
        2**63,
        2**200,
        1.5,
        float("nan"),
        "",
        "x",
        "\udc80",
        b"",
        b"\xff",
        (),
        [],
        {},
    ),
    *(..., {1: 2}, "verify", "any", "relay.example.org", frozenset((1,))),
)

OUTCOMES: tuple[Outcome, ...] = (QUEUED, GREYLISTED, NO_SUCH_USER)


class Daemon:
    """The daemon's ports, in memory."""

    def __init__(self) -> None:
        self.reported: list[Attempt] = []

    def report(self, attempt: Attempt) -> Awaitable[None]:
        self.reported.append(attempt)
        recorded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        recorded.set_result(None)
        return recorded

    async def addresses(
        self, host: Host, site: Site, destinations: Sequence[str]
    ) -> Sequence[Target] | Deferred | Failed:
        return [Target(host=host, address="192.0.2.1")]

    async def bury(self, noted: Noted, now: datetime) -> TakenOver:
        raise AssertionError("nobody has died")

    def process(self) -> Process:
        premises = Premises(bodies=Path("/"), lock=-1, notes=lambda number: Path("/"), boot="")
        ports = PoolPorts(
            reports=self,
            addresses=self,
            tokens=Tokens(),
            sessions=lambda session: None,
            bury=self.bury,
            premises=premises,
            clock=lambda: datetime.now(UTC),
            events=lambda event: None,
        )
        return Process(ports, 1)


def one(octets: bytes) -> None:
    """See the module."""
    loop().run_until_complete(check(Choices(octets)))


@cache
def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of all calls."""
    return asyncio.new_event_loop()


async def check(choices: Choices) -> None:
    """Claim it of what one worker says."""
    daemon = Daemon()
    process = daemon.process()
    deliveries = [a_delivery(a_recipient(), a_recipient(1)) for _ in range(3)]
    runs = {number: Run(deliveries) for number in range(2)}
    process.runs.update(runs)
    for _ in range(1 + choices.number(6)):
        frame = marshal.dumps([said(choices, deliveries) for _ in range(choices.number(4))])
        sent = struct.pack(">I", len(frame)) + frame
        cut = choices.number(9)
        try:
            for piece in (sent[:cut], sent[cut:]):
                process._channel.data_received(piece)
        except Exception:
            break
        await asyncio.sleep(0)
    with contextlib.suppress(Exception):
        process._channel.connection_lost(None)
    assert process.lost.is_set()
    for run in runs.values():
        left = run.died([]) if not run.over.done() else None
        assert left is None or {each.id for each in left.undone} | run.reported == {each.id for each in deliveries}
        if run.over.done():
            run.over.exception()
    assert all(attempt.delivery in deliveries for attempt in daemon.reported)
    process.abandon()
    if process._ready.done():
        process._ready.exception()


def said(choices: Choices, deliveries: Sequence[Delivery]) -> Any:
    """Return a message: a sound one, one with other values in it, or anything."""
    kind = choices.number(4)
    if kind == 0:
        return anything(choices, 3)
    if kind == 1:
        return (choices.pick(NAMES), *(anything(choices, 2) for _ in range(choices.number(5))))
    place = choices.number(3)
    attempt = an_attempt(deliveries[place], choices.pick(OUTCOMES))
    sound: tuple[Any, ...] = (
        messages.SETTLED,
        choices.number(9),
        choices.number(2),
        place,
        codec.pack_attempt(attempt),
    )
    return sound if kind == 2 else spoiled(sound, choices)


def spoiled(value: Any, choices: Choices) -> Any:
    """Return the same with one of its values, at some depth, replaced."""
    if isinstance(value, tuple | list) and value and choices.number(4):
        at = choices.number(len(value))
        return type(value)(spoiled(each, choices) if number == at else each for number, each in enumerate(value))
    return anything(choices, 1)


def anything(choices: Choices, depth: int) -> Any:
    """Return a plain value."""
    if depth and choices.chance():
        return tuple(anything(choices, depth - 1) for _ in range(choices.number(4)))
    return choices.pick(PLAIN)
