"""What the statements of this stage need of a database, so that only sqlite.py imports one.

Each job that changes the queue is a plain function of a `Database`: it runs in the thread of the connection, inside
the transaction of a group commit, and keeps nothing between calls.  Sets of ids travel as one JSON text, which keeps
the text of a statement, and so its compiled form, the same for every size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

T = TypeVar("T")

Row: TypeAlias = Sequence[Any]


class Rows(Protocol):
    """What a statement returned."""

    @property
    def rowcount(self) -> int:
        """How many rows it changed."""

    @property
    def lastrowid(self) -> int | None:
        """The number of the row it inserted."""

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...


class Database(Protocol):
    """A connection, in a transaction or for reading."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Rows: ...

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> Rows: ...


Job: TypeAlias = Callable[[Database], T]

AMONG = "IN (SELECT value FROM json_each(?))"  # takes `as_set(...)`


def as_set(values: Iterable[Any]) -> str:
    """Return the JSON text that `AMONG` takes."""
    return json.dumps(list(values), separators=(",", ":"))
