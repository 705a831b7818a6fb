"""The sweep: relayd's start on every state that power cuts may leave, some at a time."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from tests.power.cuts import Cut, logs, pairs, prefixes, read, samples, singles
from tests.power.disk import Sent, Step, rebuilt, survived
from tests.power.recording import Recording, left
from tests.power.revival import faults, revive

BLOCK = 12  # prefixes that a process has at a time


@dataclass(kw_only=True)
class Counts:
    """What was tried: cuts, how many of them were started (of those that read alike one is), recipients marked."""

    cuts: int = 0
    started: int = 0
    marked: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, other: Counts) -> None:
        """Count together."""
        self.cuts += other.cuts
        self.started += other.started
        self.marked += other.marked
        self.faults += other.faults


def check(recording: Recording, cut: Cut, directory: Path, shm: random.Random) -> Counts:
    """Let the power fail, start, and judge.  What was in SQLite's -shm then is chance, as `shm` has it."""
    spool = directory / "spool"
    image = survived(recording.initial, recording.steps, cut.count, cut.torn)
    rebuilt(image, spool)
    if (spool / "queue.db").exists():
        (spool / "queue.db-shm").write_bytes(shm.choice([b"", shm.randbytes(32768)]))
    revived = revive(spool, recording.told)
    wrong = [f"{cut}: {each}" for each in faults(recording.story, revived, left(recording, cut.count))]
    shutil.rmtree(spool)
    return Counts(cuts=1, started=1, marked=revived.marked, faults=wrong)


def cuts(recording: Recording, kind: str, counts: Sequence[int], size: int, rng: random.Random) -> Iterator[Cut]:
    """Yield cuts of a kind after so many steps; `size` of them if they are samples."""
    match kind:
        case "singles":
            yield from singles(recording.steps, counts)
        case "pairs":
            yield from pairs(recording.steps, counts, logs(recording.steps))
        case "samples":
            yield from islice(samples(recording.steps, counts, rng), size)


def sweep(recording: Recording, kind: str, directory: Path, *, jobs: int, size: int, seed: int) -> Counts:
    """Check all cuts of a kind, or about `size` samples."""
    counts, instants = Counts(), prefixes(recording.steps)
    blocks = [instants[start : start + BLOCK] for start in range(0, len(instants), BLOCK)]
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(recording, directory)
    ) as pool:
        waiting = [
            pool.submit(_check_block, kind, block, 1 + size // len(blocks), seed + number)
            for number, block in enumerate(blocks)
        ]
        for each in as_completed(waiting):
            counts.add(each.result())
    return counts


_recording: Recording | None = None  # of a process of the pool, for all its life
_directory = Path()


def _begin(recording: Recording, directory: Path) -> None:
    global _recording, _directory
    _recording, _directory = recording, directory / str(os.getpid())
    _directory.mkdir(parents=True, exist_ok=True)


def _check_block(kind: str, instants: Sequence[int], size: int, seed: int) -> Counts:
    """Check cuts; but for samples only those that nobody could tell from one that was checked already."""
    assert _recording is not None
    rng, counts, known = random.Random(seed), Counts(), set[int]()
    steps, log = _recording.steps, logs(_recording.steps)
    for cut in cuts(_recording, kind, instants, size, rng):
        if kind != "samples":
            state = hash((left_count(steps, cut.count), read(_recording.initial, steps, cut, log)))
            if state in known:
                counts.cuts += 1
                continue
            known.add(state)
        counts.add(check(_recording, cut, _directory, rng))
    return counts


def left_count(steps: Sequence[Step], count: int) -> int:
    """Return how many messages had left."""
    return sum(isinstance(step.effect, Sent) for step in steps[:count])
