"""The counts of a sweep, as a table of docs/reliability.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from tests.kills.sweep import Row

COLUMNS = ("call", "story", "workers", "runs", "killed", "with faults", "recipients twice", "marked", "marked in vain")


def table(rows: Iterable[Row]) -> str:
    """Return a row for each call, story and number of workers, and one for all."""
    counts: defaultdict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * 6)
    for row in rows:
        found = [1, row["fired"], bool(row["faults"]), *(len(row[name]) for name in ("twice", "marked", "early"))]
        for key in ((row["call"], row["story"], str(row["processes"])), ("all", "", "")):
            counts[key] = [have + more for have, more in zip(counts[key], found, strict=True)]
    lines = [COLUMNS, tuple("---" for _ in COLUMNS)]
    lines += [
        (*key, *map(str, count))
        for key, count in sorted(counts.items(), key=lambda each: (each[0][0] == "all", each[0]))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
