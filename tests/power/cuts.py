"""At which instants the power fails, and what of the unsynced changes is on the disk then.

Of every recording: each prefix of its steps with nothing missing, with all that is not synced missing, and with every
single change and every pair of changes that is not synced missing or torn; then samples in which any number of them
is.  A change that comes last and is missing is the prefix before, so it is not tried again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

from tests.power.disk import Image, Link, Step, Sync, Write, pending, survived

SECTOR = 512
HEADER, FRAME = 32, 24 + 4096  # octets, of SQLite's log


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """After `count` steps; `torn` has which did not happen (None), or how many octets of them did."""

    count: int
    torn: Mapping[int, int | None] = field(default_factory=dict)


def damages(step: Step) -> list[int | None]:
    """Return what may become of an unsynced change, but for all of it."""
    effect = step.effect
    if not isinstance(effect, Write):
        return [None]
    size = len(effect.content)
    return [None, *sorted({part for part in (SECTOR, size // 2) if 0 < part < size})]


def prefixes(steps: Sequence[Step]) -> list[int]:
    """Return the numbers of steps after which something new is there, or was sent."""
    return [0, *(place + 1 for place, step in enumerate(steps) if not isinstance(step.effect, Sync))]


def singles(steps: Sequence[Step], counts: Iterable[int]) -> Iterator[Cut]:
    """Yield prefixes, whole, with one change missing or torn, and with all missing that may be."""
    for count in counts:
        waiting = pending(steps, count)
        yield Cut(count=count)
        for place in waiting:
            for damage in damages(steps[place]):
                if place < count - 1 or damage is not None:
                    yield Cut(count=count, torn={place: damage})
        if len(waiting) > 1:
            yield Cut(count=count, torn=dict.fromkeys(waiting))


def pairs(steps: Sequence[Step], counts: Iterable[int], log: Collection[int]) -> Iterator[Cut]:
    """Yield prefixes with two changes missing or torn.

    Two writes to a log (inodes of SQLite's) are left out: what comes behind the first damage has a wrong checksum, so
    that the two are as the first alone.  `samples` have them.
    """
    for count in counts:
        for one, other in combinations(pending(steps, count), 2):
            if not (_writes(steps[one], log) and _writes(steps[other], log)):
                for first, second in product(damages(steps[one]), damages(steps[other])):
                    if other < count - 1 or second is not None:
                        yield Cut(count=count, torn={one: first, other: second})


def _writes(step: Step, log: Collection[int]) -> bool:
    return isinstance(step.effect, Write) and step.effect.inode in log


def logs(steps: Sequence[Step]) -> set[int]:
    """Return the inodes of SQLite's write-ahead logs."""
    return {effect.inode for step in steps if isinstance(effect := step.effect, Link) and effect.name.endswith("-wal")}


def read(initial: Image, steps: Sequence[Step], cut: Cut, log: Collection[int]) -> int:
    """Return what tells states apart, as far as anybody reads them: of a log that is what was committed before its
    first damage."""
    found = []
    image = survived(initial, steps, cut.count, cut.torn)
    for path, inode in image.files():
        octets = bytes(image.contents.get(inode.number, b""))
        if inode.number in log:
            octets = octets[: committed(octets, _whole(steps, cut, inode.number))]
        found.append((path, octets))
    return hash(tuple(found))


def _whole(steps: Sequence[Step], cut: Cut, inode: int) -> int:
    """Return up to where a file is as it was written."""
    hit = ((steps[place].effect, kept) for place, kept in cut.torn.items())
    return min(
        (each.offset + (kept or 0) for each, kept in hit if isinstance(each, Write) and each.inode == inode),
        default=sys.maxsize,
    )


def committed(log: bytes, whole: int) -> int:
    """Return where the last commit ends in the first `whole` octets of a write-ahead log (SQLite's file format,
    section 4): the frame of its last page names the size of the database."""
    ends = range(HEADER + FRAME, min(whole, len(log)) + 1, FRAME)
    return max((end for end in ends if any(log[end - FRAME + 4 : end - FRAME + 8])), default=0)


def samples(steps: Sequence[Step], counts: Sequence[int], rng: random.Random) -> Iterator[Cut]:
    """Yield, without end, prefixes in which any number of changes is missing or torn."""
    while True:
        count = rng.choice(counts)
        share = rng.random()
        hit: Iterable[int] = (place for place in pending(steps, count) if rng.random() < share)
        yield Cut(count=count, torn={place: rng.choice(damages(steps[place])) for place in hit})
