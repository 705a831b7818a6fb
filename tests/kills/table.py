"""The counts of a sweep, as tables of docs/reliability.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from tests.kills.series import Row

KILLED = ("call", "story", "workers", "runs", "killed", "with faults", "recipients twice", "marked", "marked in vain")
FAILED = ("thread", "call", "error", "fails", "runs", "with a failed call", "failed calls", "log tells", "with faults")


def of_kills(rows: Iterable[Row]) -> str:
    """Return a line for each call, story and number of workers, and one for all."""

    def counts(row: Row) -> list[int]:
        return [1, row["fired"], bool(row["faults"]), *(len(row[name]) for name in ("twice", "marked", "early"))]

    return _table(KILLED, rows, lambda row: (row["call"], row["story"], str(row["processes"])), counts)


def of_failures(rows: Iterable[Row]) -> str:
    """Return a line for each call and error, and one for all."""

    def counts(row: Row) -> list[int]:
        return [1, bool(row["fired"]), row["fired"], row["told"], bool(row["faults"])]

    def key(row: Row) -> tuple[str, ...]:
        return (row["role"], row["call"], row["error"], "from there on" if row["lasting"] else "once")

    return _table(FAILED, rows, key, counts)


def _table(
    columns: Sequence[str],
    rows: Iterable[Row],
    key: Callable[[Row], tuple[str, ...]],
    counts: Callable[[Row], list[int]],
) -> str:
    added: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    total: tuple[str, ...] = ()
    for row in rows:
        found = counts(row)
        total = ("all", *("" for _ in key(row)[1:]))
        for each in (key(row), total):
            added[each] = [a + b for a, b in zip(added[each] or [0] * len(found), found, strict=True)]
    lines = [tuple(columns), tuple("---" for _ in columns)]
    for each in sorted(added, key=lambda one: (one == total, one)):
        lines.append((*each, *map(str, added[each])))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
