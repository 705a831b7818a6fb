"""What relayd uses, looked at every few seconds, a line of JSON each; and how fast it grows.

`growth` is pure: the slope of a straight line through the samples, by least squares.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

Sample: TypeAlias = dict[str, Any]

MIB = 1 << 20
HOUR = 3600.0
TICKS = os.sysconf("SC_CLK_TCK")
FIELDS = ("rss", "pss", "descriptors", "threads", "cpu")


def seen(pid: int) -> dict[str, float] | None:
    """Return what one process uses: MiB, counts, seconds of CPU; None if it has ended."""
    with suppress(OSError, KeyError, IndexError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        memory = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return {
            "rss": round(memory["Rss"], 2),
            "pss": round(memory["Pss"], 2),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": int(fields[17]),
            "cpu": (int(fields[11]) + int(fields[12])) / TICKS,
        }
    return None


def sample(began: float, daemon: int, workers: Sequence[int], **more: object) -> Sample:
    """Return a sample; `began` is of CLOCK_MONOTONIC."""
    found = [each for pid in workers if (each := seen(pid))]
    worker = {name: round(sum(each[name] for each in found), 2) for name in FIELDS} if found else None
    return {"t": round(time.monotonic() - began, 1), "pid": daemon, "daemon": seen(daemon), "worker": worker, **more}


def points(samples: Sequence[Sample], who: str, what: str) -> list[tuple[float, float]]:
    """Return (seconds, value) of those samples that have it."""
    return [(each["t"], each[who][what]) for each in samples if each[who]]


def growth(points: Sequence[tuple[float, float]]) -> float:
    """Return by how much a value grows in an hour."""
    if len(points) < 2:
        return 0.0
    middle = sum(x for x, _ in points) / len(points)
    level = sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x, _ in points)
    return HOUR * sum((x - middle) * (y - level) for x, y in points) / spread if spread else 0.0
