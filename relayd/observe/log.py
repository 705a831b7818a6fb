"""The log: one line for each event, on standard error.

A line is an interface: `key=value` pairs with stable keys in a stable order (docs/operations.md), a value in double
quotes where it has spaces or quotes.  What comes from a peer or a file name is escaped, so that an event is one line
and a terminal shows what is there: control characters, ANSI sequences and what is not UTF-8 as `\\xNN` or `\\uNNNN`.

Under systemd's journal a line begins with its priority (sd-daemon(3)); on a terminal with the time of day; elsewhere
with `time=` and `level=`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from relayd.observe.writer import LineWriter

MAX_VALUE = 2000  # characters of one value

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)
_BARE = re.compile(r"[!#-<>-\[\]-~]+")  # needs neither quotes nor escapes


class Style(Enum):
    """How a line begins."""

    JOURNAL = "journal"
    TERMINAL = "terminal"
    PLAIN = "plain"


class Lines(Protocol):
    """Where finished lines go: writer.LineWriter, or a list's `append` in disguise."""

    def write(self, line: str) -> None:
        """Take a line, without its end; never blocks, never fails."""


def style_of(fd: int, journal_stream: str | None) -> Style:
    """Return the style for a descriptor; `journal_stream` is the environment's JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(fd)
    except OSError:
        return Style.PLAIN
    if journal_stream == f"{status.st_dev}:{status.st_ino}":
        return Style.JOURNAL
    return Style.TERMINAL if os.isatty(fd) else Style.PLAIN


def open_log(
    fd: int, journal_stream: str | None = None, *, style: Style | None = None
) -> tuple[FilteringBoundLogger, LineWriter]:
    """Return a logger that writes to `fd`, and the writer to be closed at the end; `style` overrides what is seen."""
    style = style or style_of(fd, journal_stream)
    writer = LineWriter(fd, apology=lambda count: _apology(style, count))
    return make_log(writer, style), writer


def _apology(style: Style, count: int) -> str:
    event = {"event": "log-lines-dropped", "lines": count}
    return _Renderer(style, lambda: datetime.now(UTC))(None, "warning", event)


def make_log(lines: Lines, style: Style, clock: Callable[[], datetime] | None = None) -> FilteringBoundLogger:
    """Return a structlog logger whose keyword arguments become pairs, in their order; None leaves a pair out.

    Its positional argument becomes the pair `event=`, first; an empty one is left out.
    """
    now = clock or (lambda: datetime.now(UTC))
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _LineLogger(lines),
        processors=[_Renderer(style, now)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    return logger


class _LineLogger:
    """What structlog hands finished lines to; the level is in the line already."""

    def __init__(self, lines: Lines) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = lines.write


class _Renderer:
    """structlog's last processor: an event dict becomes a line."""

    def __init__(self, style: Style, now: Callable[[], datetime]) -> None:
        self._style = style
        self._now = now

    def __call__(self, _: WrappedLogger, level: str, event_dict: EventDict) -> str:
        event = event_dict.pop("event")
        pairs = pairs_of({"event": event or None, **event_dict})
        return self._beginning(level) + pairs

    def _beginning(self, level: str) -> str:
        match self._style:
            case Style.JOURNAL:
                return f"<{_PRIORITIES.get(level, 6)}>"
            case Style.TERMINAL:
                return f"{self._now().astimezone():%H:%M:%S} "
            case Style.PLAIN:
                time = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
                return f"time={time} level={level} "


def pairs_of(values: dict[str, Any]) -> str:
    """Return `values` as `key=value` pairs; None leaves one out."""
    return " ".join([f"{key}={value_of(value)}" for key, value in values.items() if value is not None])


def value_of(value: object) -> str:
    """Return a value as the log writes it: bare if it can be, else quoted and escaped, on one line, bounded."""
    text = str(value)
    if text.isalnum() and text.isascii() and len(text) <= MAX_VALUE:  # as most are, and quicker to see
        return text
    if len(text) > MAX_VALUE:
        text = text[:MAX_VALUE] + "..."
    if _BARE.fullmatch(text):
        return text
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    if not text.isprintable():
        text = "".join(character if character.isprintable() else _escaped(character) for character in text)
    return f'"{text}"'


def _escaped(character: str) -> str:
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # an octet that was not UTF-8 (os.fsdecode)
        number -= 0xDC00
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


class LibraryLog(logging.Handler):
    """Brings what libraries log by `logging` (asyncio's complaints above all) into ours, one line each."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; its traceback as the last line of it, which names the exception."""
        try:
            text = record.getMessage()
        except Exception:  # wrong arguments in a library's call
            text = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        write = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        write("library", logger=record.name, text=text, error=repr(error) if error else None)
