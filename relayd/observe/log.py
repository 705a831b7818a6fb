"""The log: one line for each event, on standard error.

A line is an interface: stable keys in a stable order (docs/operations.md), the same in each style, as `key=value`
pairs, as a JSON object, or for people with the event first.  What is in a value is values.py's concern.

Under systemd's journal, which has times and priorities of its own, a line begins with its priority (sd-daemon(3)) and
has neither `time` nor `level`; elsewhere it has both.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from relayd.observe.settings import LogLevel, LogSettings, LogStyle
from relayd.observe.values import json_of, pairs_of, value_of
from relayd.observe.writer import LineWriter

_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # sd-daemon(3)
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m"}
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Style:
    """How lines are written: `form` is not AUTO; `journal`: systemd's reads them; `coloured`: for a terminal."""

    form: LogStyle
    journal: bool = False
    coloured: bool = False


class Lines(Protocol):
    """Where finished lines go: writer.LineWriter, or a list's `append` in disguise."""

    def write(self, line: str) -> None:
        """Take a line, without its end; never blocks, never fails."""


def style_of(wanted: LogStyle, fd: int, environment: Mapping[str, str]) -> Style:
    """Return how to write to a descriptor: the journal is known by JOURNAL_STREAM (systemd.exec(5)); NO_COLOR and
    TERM are heeded."""
    try:
        status = os.fstat(fd)
    except OSError:
        return Style(LogStyle.LOGFMT if wanted is LogStyle.AUTO else wanted)
    journal = environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    terminal = os.isatty(fd)
    if wanted is LogStyle.AUTO:
        wanted = LogStyle.CONSOLE if terminal else LogStyle.LOGFMT
    colours = terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
    return Style(wanted, journal=journal, coloured=colours and wanted is LogStyle.CONSOLE)


class Log:
    """The log on a descriptor.  `logger` is another one after `reload`."""

    def __init__(self, fd: int, settings: LogSettings, environment: Mapping[str, str]) -> None:
        self._fd = fd
        self._environment = environment
        self._style = style_of(settings.style, fd, environment)
        self._writer = LineWriter(fd, apology=self._apology)
        self.logger = make_log(self._writer, self._style, level=settings.level)

    def reload(self, settings: LogSettings) -> None:
        """Write as these say from now on."""
        self._style = style_of(settings.style, self._fd, self._environment)
        self.logger = make_log(self._writer, self._style, level=settings.level)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far, because nobody read them."""
        return self._writer.dropped

    def close(self) -> None:
        """Write what waits, for a while; the descriptor stays open."""
        self._writer.close()

    def _apology(self, count: int) -> str:
        event = {"event": "log-lines-dropped", "lines": count}
        return _Renderer(self._style, _now)(None, "warning", event)


def _now() -> datetime:
    return datetime.now(UTC)


def make_log(
    lines: Lines, style: Style, clock: Callable[[], datetime] = _now, *, level: LogLevel = LogLevel.INFO
) -> FilteringBoundLogger:
    """Return a structlog logger whose keyword arguments become pairs, in their order; None leaves a pair out.

    Its positional argument becomes the pair `event`, first; an empty one is left out.
    """
    logger: FilteringBoundLogger = structlog.wrap_logger(
        _LineLogger(lines),
        processors=[_Renderer(style, clock)],
        wrapper_class=structlog.make_filtering_bound_logger(level.number),
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
        event = event_dict.pop("event") or None
        match self._style.form:
            case LogStyle.CONSOLE:
                line = self._for_people(level, event, event_dict)
            case LogStyle.JSON:
                line = json_of({**self._beginning(level), "event": event, **event_dict})
            case _:
                line = pairs_of({**self._beginning(level), "event": event, **event_dict})
        return f"<{_PRIORITIES.get(level, 6)}>{line}" if self._style.journal else line

    def _beginning(self, level: str) -> dict[str, str]:
        """Return when it was and how grave it is, unless the journal says so."""
        if self._style.journal:
            return {}
        time = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": time, "level": level}

    def _for_people(self, level: str, event: str | None, pairs: EventDict) -> str:
        words = [] if self._style.journal else [f"{self._now().astimezone():%H:%M:%S}", self._coloured(level)]
        if event:
            words.append(value_of(event))
        words.append(pairs_of(pairs))
        return " ".join(word for word in words if word)

    def _coloured(self, level: str) -> str:
        colour = _COLOURS.get(level) if self._style.coloured else None
        return f"{colour}{level:7}{_PLAIN}" if colour else f"{level:7}"


class LibraryLog(logging.Handler):
    """Brings what libraries log by `logging` (asyncio's complaints above all) into ours, one line each."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self.log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; its traceback as the last line of it, which names the exception."""
        try:
            text = record.getMessage()
        except Exception:  # wrong arguments in a library's call
            text = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        write = self.log.error if record.levelno >= logging.ERROR else self.log.warning
        write("library", logger=record.name, text=text, error=repr(error) if error else None)
