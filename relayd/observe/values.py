"""Values as the log writes them, in each of its styles.

Pure.  What comes from a peer or a file name is escaped, so that an event is one line and a terminal shows what is
there: control characters, ANSI sequences and what is not UTF-8 as `\\xNN` or `\\uNNNN`.  A value is cut at MAX_VALUE.
In JSON a number is a number; a time, as in logfmt, ISO 8601 in UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

MAX_VALUE = 2000  # characters of one value

_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # needs neither quotes nor escapes
_SURROGATE = re.compile("[\ud800-\udfff]")


class Seconds(float):
    """A time that was measured: `0.250s`; in JSON a number."""

    __slots__ = ()

    def __new__(cls, seconds: float) -> Seconds:
        return super().__new__(cls, round(seconds, 3))

    def __str__(self) -> str:
        return f"{float(self):.3f}s"


class WholeSeconds(int):
    """A time to wait: `540s`; in JSON a number."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{int(self)}s"


class Change(int):
    """By how many seconds something was set: `+60s`; in JSON a number."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{int(self):+d}s"


def utc(time: datetime) -> str:
    """Return a time as the log writes it within an event."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def pairs_of(values: Mapping[str, Any]) -> str:
    """Return `values` as `key=value` pairs; None leaves one out."""
    return " ".join([f"{key}={value_of(value)}" for key, value in values.items() if value is not None])


def value_of(value: object) -> str:
    """Return a value as logfmt has it: bare if it can be, else quoted and escaped, on one line, bounded."""
    text = str(value)
    if text.isalnum() and text.isascii() and len(text) <= MAX_VALUE:  # as most are, and quicker to see
        return text
    text = _cut(text)
    if _BARE.fullmatch(text):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _escaped(character) for character in text)
    return f'"{text}"'


def json_of(values: Mapping[str, Any]) -> str:
    """Return `values` as a JSON object on one line, in ASCII; None leaves one out.

    An octet that was not UTF-8 is `\\xNN` in the text itself, as in logfmt: a lone surrogate would be no text to many
    readers.
    """
    return json.dumps({key: _json_value(value) for key, value in values.items() if value is not None})


def _json_value(value: object) -> object:
    if isinstance(value, int | float):
        return value
    return _SURROGATE.sub(lambda found: _escaped(found[0]), _cut(str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "..."


def _escaped(character: str) -> str:
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # an octet that was not UTF-8 (os.fsdecode)
        number -= 0xDC00
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
