"""What a process and its descendants use: CPU, memory, descriptors.  Read from /proc, from outside.

CPU is user and system, to the nanosecond for what runs (their CPU clocks, so ended threads are in it) and to a
hundredth of a second for what has ended and was waited for: no process that is born and dies between two looks is
missed.  Memory is the sum of what is resident, pages that several processes share counted for each of them.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")  # of a second: the unit of /proc/PID/stat
PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL = 0.5  # seconds between two looks at memory
TRIES = 100  # looks until two in a row find the same processes
CLOCK_OF_PROCESS = 2  # CPUCLOCK_SCHED of clock_getcpuclockid(3)


@dataclass(frozen=True, slots=True)
class Stat:
    """What benchmarks need of /proc/PID/stat.  `waited` is CPU of children that have ended, in seconds."""

    pid: int
    parent: int
    waited: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a line; the name of the program is in brackets and may hold anything."""
        head, _, tail = text.rpartition(")")
        fields = tail.split()
        return cls(int(head.split(" ", 1)[0]), int(fields[1]), (int(fields[13]) + int(fields[14])) / TICKS)


@dataclass(frozen=True, slots=True)
class Sample:
    """How much was used at a time of CLOCK_MONOTONIC: octets resident, open descriptors."""

    at: float
    resident: int
    descriptors: int


def family(root: int) -> dict[int, Stat]:
    """Return a process that runs and all its descendants; none if it has ended."""
    everyone = {stat.pid: stat for stat in _everyone()}
    found = {root: everyone[root]} if root in everyone else {}
    size = 0
    while size != len(found):
        size = len(found)
        found |= {stat.pid: stat for stat in everyone.values() if stat.parent in found}
    return found


def _everyone() -> list[Stat]:
    stats = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):  # it has ended
                stats.append(Stat.parse(Path(f"/proc/{name}/stat").read_text(errors="replace")))
    return stats


def cpu(root: int) -> float:
    """Return the seconds that a process and its descendants have used, those included that have ended."""
    used, before = 0.0, family(root)
    for _ in range(TRIES):
        with suppress(OSError):
            used = sum(_own_cpu(pid) + stat.waited for pid, stat in before.items())
        now = family(root)
        if now == before:
            break
        before = now
    return used


def _own_cpu(pid: int) -> float:
    return time.clock_gettime_ns(~pid << 3 | CLOCK_OF_PROCESS) / 1e9


def resident(root: int) -> int:
    """Return the octets that are resident of a process and its descendants."""
    return sum(_resident(pid) for pid in family(root))


def _resident(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    return 0


def descriptors(root: int) -> int:
    """Return how many descriptors a process and its descendants have open."""
    count = 0
    for pid in family(root):
        with suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/fd"))
    return count


class Watch:
    """Looks at a process and its descendants every `interval` seconds, for the time of a `with`, in a thread: at their
    memory, and at their descriptors if that is wanted, which takes longer."""

    def __init__(self, root: int, interval: float = INTERVAL, *, descriptors: bool = False) -> None:
        self.samples: list[Sample] = []
        self._root = root
        self._interval = interval
        self._descriptors = descriptors
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def peak(self) -> int:
        """The most octets that were resident at a time."""
        return max((sample.resident for sample in self.samples), default=0)

    def _look(self) -> None:
        while True:
            opened = descriptors(self._root) if self._descriptors else 0
            self.samples.append(Sample(time.monotonic(), resident(self._root), opened))
            if self._over.wait(self._interval):
                return
