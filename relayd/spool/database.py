"""What the statements of this stage need of a database, so that only sqlite.py imports one.

Each job that changes the queue is a plain function of a `Database`: it runs in the thread of the connection, inside
the transaction of a group commit, and keeps nothing between calls.  Sets of ids travel as one JSON text, which keeps
the text of a statement, and so its compiled form, the same for every size.

SQLite's thread lets go of the interpreter for each step of a statement, and then waits for it while the loop has work.
So what is done for every message is done in few steps: by sets, `insert`, and results `in_one_row`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast

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
AT_ONCE = 50  # rows inserted in one step


def as_set(values: Iterable[Any]) -> str:
    """Return the JSON text that `AMONG` takes."""
    return json.dumps(list(values), separators=(",", ":"))


def insert(db: Database, into: str, rows: Sequence[Sequence[Any]]) -> None:
    """Insert rows; `into` is the statement up to VALUES.

    Not through JSON as `AMONG` is: it holds neither octets nor, in older SQLite, a text with a NUL in it.
    """
    whole = len(rows) - len(rows) % AT_ONCE
    for start in range(0, whole, AT_ONCE):
        _insert(db, into, rows[start : start + AT_ONCE])
    for each in rows[whole:]:
        _insert(db, into, [each])


def _insert(db: Database, into: str, rows: Sequence[Sequence[Any]]) -> None:
    one = f"({','.join('?' * len(rows[0]))})"
    db.execute(f"{into} VALUES {','.join([one] * len(rows))}", [value for row in rows for value in row])


def in_one_row(columns: str, source: str) -> str:
    """Return a SELECT of `columns` (neither octets nor numbers that are not whole) whose result `rows_in` reads.

    In what order they come is not to be relied upon.
    """
    return f"SELECT json_group_array(json_array({columns})) FROM {source}"


def rows_in(result: Rows) -> list[Any]:
    """Return the rows of what `in_one_row` made, each a list."""
    (text,) = result.fetchone()
    return cast(list[Any], json.loads(text))
