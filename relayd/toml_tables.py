"""The tables of a TOML file, each read as a settings class; every mistake is gathered, with its key and line.

Types are checked by pydantic; durations and sizes are turned from words first.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from relayd.mail.duration import parse_duration
from relayd.mail.size import parse_size
from relayd.sections import Octets

T = TypeVar("T")


class TomlTables:
    """See the module.  `mistakes` are sentences, as `config.toml:12: relay.max_conections: no such setting`."""

    def __init__(self, path: Path, text: str) -> None:
        self.mistakes: list[str] = []
        self._path = path
        self._lines = text.splitlines()

    def section(self, cls: type[T], table: Any, where: str) -> T | None:
        """Return the table as a `cls`, or None after telling what is wrong with it."""
        if not isinstance(table, dict):
            self.mistake(where, "must be a table")
            return None
        before = len(self.mistakes)
        hints = get_type_hints(cls, include_extras=True)
        values = {}
        for key, value in table.items():
            if key not in hints:
                self.mistake(f"{where}.{key}", "no such setting" + suggestion(key, hints))
                continue
            try:
                values[key] = _from_words(hints[key], value)
            except ValueError as error:
                self.mistake(f"{where}.{key}", str(error))
        required = (f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING)  # type: ignore[arg-type]
        for missing in (f.name for f in required if f.name not in table):
            self.mistake(where, f"{missing} is missing")
        section = self._validated(cls, values, where)
        return section if len(self.mistakes) == before else None

    def _validated(self, cls: type[T], values: dict[str, Any], where: str) -> T | None:
        try:
            # JSON is pydantic's strictest reading that still takes a word for an enum and a list for a tuple.
            return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            told = set()
            for each in error.errors():
                # A value that may be of several types is complained of once for each.
                key = ".".join([where, *(str(part) for part in each["loc"][:1])])
                if key not in told and each["type"] != "missing":
                    self.mistake(key, _in_words(each["msg"]))
                told.add(key)
            return None

    def several(self, cls: type[T], tables: Any, kind: str) -> Iterator[tuple[str, T]]:
        """Yield the tables of `[[kind]]`, each with its name in sentences, but those with mistakes, which are told."""
        if not isinstance(tables, list):
            self.mistake(kind, f"is written [[{kind}]], with double brackets")
            return
        for number, table in enumerate(tables, 1):
            where = f"{kind} {number}"
            section = self.section(cls, table, where)
            if section is not None:
                yield where, section

    def mistake(self, key: str, sentence: str) -> None:
        """Tell what is wrong with `key`: `section.name`, `route 2.name` or `tls.domain 2.name`."""
        line = self._line_of(key)
        self.mistakes.append(f"{self._path}{f':{line}' if line else ''}: {key}: {sentence}")

    def _line_of(self, key: str) -> int | None:
        """Return the line where `key`, as `section.name`, `route 2.name` or `tls.domain 2.name`, stands; the section's
        if it has none."""
        kind, number, name = _parts(key)
        heading = re.compile(rf"\s*\[+\s*{re.escape(kind)}\s*\]+")
        count, found = 0, None
        for at, line in enumerate(self._lines, 1):
            if re.match(r"\s*\[", line) and "=" not in line.partition("#")[0]:
                count += bool(heading.match(line))
                inside = bool(heading.match(line)) and count == number
                found = at if inside else found
            elif found and name and inside and re.match(rf"""\s*["']?{re.escape(name)}["']?\s*=""", line):
                return at
        return found


def _parts(key: str) -> tuple[str, int, str]:
    """Return the section that a key is in, which of those it is, and its name there."""
    kind, space, rest = key.partition(" ")
    if space:
        number, _, name = rest.partition(".")
        return kind, int(number), name
    kind, _, name = key.partition(".")
    if key.startswith("tls.report"):
        return "tls.report", 1, key.removeprefix("tls.report").removeprefix(".")
    return (key, 1, "") if key == "tls.domain" else (kind, 1, name)


def _from_words(hint: Any, value: Any) -> Any:
    """Turn a duration or a size from words into what JSON has for it; check that numbers are not negative, and that no
    date is among the values."""
    json.dumps(value, default=_no_date)
    if hint is timedelta:
        return f"PT{parse_duration(value).total_seconds():.6f}S"
    if hint == Octets:
        return parse_size(value)
    if hint in (int, int | None) and type(value) is int and value < 1:
        raise ValueError(f"must be 1 or more, not {value}")
    return value


def _no_date(value: Any) -> Any:
    raise ValueError(f"must not be a date or a time, as {value} is")


def suggestion(key: str, known: Any) -> str:
    """Return what may have been meant by `key`, to follow a sentence; empty if nothing is near."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; {close[0]}?" if close else ""


def _in_words(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "should")
