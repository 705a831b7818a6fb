"""A pool with real workers, on a spool of files, with the daemon's ports in memory."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.events import Event
from relayd.relay.relayer import Ended
from relayd.relay.settings import RelaySettings
from relayd.spool.notes import Noted
from relayd.spool.takeover import TakenOver
from relayd.workers.pool import Pool
from relayd.workers.ports import PoolPorts, Premises
from relayd.workers.process import Process
from tests.relay.kit import HELLO, NOW, QUICK, Book, Collected, Tokens, a_delivery, a_site, on, until
from tests.support.smtp import ScriptedServer

E = TypeVar("E", bound=Event)

BOOT = "this boot"


@dataclass
class Graves:
    """A `Bury` that keeps what it was told; it fails so many times before."""

    buried: list[Noted] = field(default_factory=list)
    failing: int = 0

    async def __call__(self, noted: Noted, now: object) -> TakenOver:
        if self.failing:
            self.failing -= 1
            raise QueueError("disk full")
        self.buried.append(noted)
        marked = tuple((message_id, "ann@example.org") for _, message_id in sorted(noted.ending))
        return TakenOver(marked=marked)


class Yard:
    """A pool and all that it needs."""

    def __init__(self, directory: Path, size: int, settings: dict[str, Any]) -> None:
        self.queue = directory / "queue"
        self.queue.mkdir()
        self.reports = Collected()
        self.book = Book()
        self.tokens = Tokens()
        self.graves = Graves()
        self.events: list[Event] = []
        self.lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.settings = RelaySettings(**{"hostname": "relay.example.org", "timeouts": QUICK, **settings})
        premises = Premises(
            bodies=self.queue, lock=self.lock, notes=lambda number: self.queue / f"notes.owner.{number}", boot=BOOT
        )
        self.ports = PoolPorts(
            reports=self.reports,
            addresses=self.book,
            tokens=self.tokens,
            sessions=lambda session: None,
            bury=self.graves,
            premises=premises,
            clock=lambda: NOW,
            events=self.events.append,
        )
        self.pool = Pool(size, self.settings, self.ports)

    @property
    def processes(self) -> list[Process]:
        """The workers that are ready."""
        return self.pool._processes

    @property
    def notes(self) -> list[str]:
        """The files of notes that are there."""
        return sorted(path.name for path in self.queue.glob("notes.*"))

    def told(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def deliveries(self, *names: str, file: bytes = HELLO) -> list[Delivery]:
        """Return deliveries whose bodies are in the spool; their addresses are those of the names."""
        return [self._delivery(name, file, lease) for lease, name in enumerate(names, 1)]

    def _delivery(self, name: str, file: bytes, lease: int) -> Delivery:
        place = self.queue / name[-2:] / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(file)
        return replace(a_delivery([f"{name}@example.org"], file, name=name), lease=lease)


@asynccontextmanager
async def working(directory: Path, size: int = 1, **settings: Any) -> AsyncIterator[Yard]:
    """A pool whose workers are ready."""
    yard = Yard(directory, size, settings)
    yard.pool.start()
    try:
        await until(lambda: len(yard.processes) == size, seconds=60)
        yield yard
    finally:
        await yard.pool.close()
        os.close(yard.lock)


def as_the_daemon(story: Coroutine[Any, Any, None]) -> None:
    """Run a story on the daemon's event loop."""
    on("uvloop", story)


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [each.id for each in deliveries]


def relaying(yard: Yard, server: ScriptedServer, *names: str) -> asyncio.Task[Ended]:
    """Let a relayer run."""
    return asyncio.create_task(yard.pool.new(a_site(server.port)).run(yard.deliveries(*names)))


async def aborted(*runs: asyncio.Task[Ended]) -> None:
    """Cancel runs and see them end so."""
    for run in runs:
        run.cancel()
    await asyncio.wait(runs)
    assert all(run.cancelled() for run in runs)


async def killed(yard: Yard) -> None:
    """Kill a worker, and wait until another has taken its place."""
    process = yard.processes[0]
    os.kill(process.pid, signal.SIGKILL)
    await until(lambda: process not in yard.processes and yard.processes, seconds=60)
