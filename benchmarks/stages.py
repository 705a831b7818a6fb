"""What each of relayd's stages costs for one message, alone: no other thread has work meanwhile.

    python -m benchmarks.stages --messages 4000 --size 4096

CPU is what the process used, wall what passed, syncing included; both in microseconds for each message.  `drain.py`
shows what they cost together, which is more: threads then wait for each other's turn at the interpreter.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from benchmarks.fill import drop
from benchmarks.load import Load
from benchmarks.scratch import run, scratch
from relayd.attempt.settings import RetrySettings
from relayd.attempt.settle import settle
from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.events import Accepted, Attempted, Event
from relayd.mail.outcome import Delivered
from relayd.mail.reply import Reply
from relayd.mail.settlement import Settlement
from relayd.mail.submission import Submission
from relayd.observe.counters import Counters
from relayd.observe.log import Style, make_log
from relayd.observe.observer import Observer
from relayd.observe.parts import Parts
from relayd.observe.settings import LogStyle
from relayd.spool.spool import Spool
from relayd.submission.pickup import Pickup
from relayd.submission.settings import SubmissionSettings

T = TypeVar("T")

INTAKE = 500  # files taken in one commit, as by the manager
CLAIM = 25  # deliveries in one claim, about what a relayer gets
SETTLE = 100  # deliveries in one commit, about what gathers
LEASE = timedelta(minutes=10)


def main() -> None:
    """Put messages through the stages, one stage after the other, and print what each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    words = parser.parse_args()
    load = Load(messages=words.messages, size=words.size)
    with scratch(files=load.messages, size=load.size) as directory:
        spool = directory / "spool"
        drop(spool, load)
        os.sync()
        asyncio.run(_stages(spool, load.messages))


async def _stages(root: Path, messages: int) -> None:
    spool = await Spool.open(root, now=_now(), history=timedelta(days=3), events=_ignore)
    try:
        accepted = await _arrive(spool, root, messages)
        deliveries = await _claim(spool, messages)
        with _timed("read the bodies", messages):
            for batch in _batches(deliveries, CLAIM):
                await spool.bodies.read(batch)
        settlements = await _settle(spool, deliveries)
        with _timed("unlink the bodies", messages):
            await spool.sweep(_now())
        _log(accepted, settlements)
    finally:
        await spool.close()


async def _arrive(spool: Spool, root: Path, messages: int) -> list[Submission]:
    settings = SubmissionSettings(spool=root, hostname="relay.example.org", origin="example.org")
    pickup = Pickup(settings, clock=_now, events=_ignore)
    taken: list[Submission] = []
    with _timed("look at the files, read and examine them", messages):
        while len(taken) < messages:
            taken += await pickup.take(messages - len(taken))  # all in one scan, so none is found twice
    pickup.close()
    with _timed("place, sync and add to the queue", messages):
        for batch in _batches(taken, INTAKE):
            await spool.accept(batch)
    return taken


async def _claim(spool: Spool, messages: int) -> list[Delivery]:
    deliveries: list[Delivery] = []
    with _timed("claim", messages):
        while batch := await spool.queue.claim(["d0.test"], CLAIM, _now(), until=_now() + LEASE):
            deliveries += batch
    return deliveries


async def _settle(spool: Spool, deliveries: Sequence[Delivery]) -> list[Settlement]:
    with _timed("decide what an outcome means", len(deliveries)):
        settlements = [settle(_delivered(each), RetrySettings(), _now(), jitter=0.5) for each in deliveries]
    with _timed("settle", len(deliveries)):
        for batch in _batches(settlements, SETTLE):
            await spool.queue.settle(batch)
    return settlements


def _delivered(delivery: Delivery) -> Attempt:
    outcomes = {recipient.number: Delivered(Reply(250, "2.0.0 Ok")) for recipient in delivery.recipients}
    return Attempt(delivery=delivery, outcomes=outcomes, ended=_now(), peer="mx0.test[127.0.0.1]:25")


def _log(accepted: Sequence[Submission], settlements: Sequence[Settlement]) -> None:
    observer = Observer(make_log(_Nowhere(), Style(LogStyle.LOGFMT)), Counters(), Parts())
    with _timed("make two log lines", len(accepted)):
        for submission in accepted:
            observer(Accepted(message=submission.message, file=submission.file))
        for each in settlements:
            observer(Attempted(id=each.delivery.id, recipient=each.recipients[0], tls=None, seconds=0.1, age=1.0))


class _Nowhere:
    """A `Lines` that keeps none."""

    def write(self, line: str) -> None:
        """Forget a line."""


@contextmanager
def _timed(what: str, messages: int) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:44}{cpu / messages * 1e6:6.0f} us CPU {wall / messages * 1e6:6.0f} us wall")


def _batches(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _now() -> datetime:
    return datetime.now(UTC)


def _ignore(event: Event) -> None:
    """For what nobody needs to hear."""


if __name__ == "__main__":
    run(main)
