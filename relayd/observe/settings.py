"""[log]: how the log is written."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum


class LogStyle(Enum):
    """How a line is written."""

    AUTO = "auto"  # console on a terminal, else logfmt
    CONSOLE = "console"  # for people
    LOGFMT = "logfmt"  # key=value
    JSON = "json"  # an object for each line


class LogLevel(Enum):
    """The least level that is written."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def number(self) -> int:
        """As `logging` counts."""
        return int(getattr(logging, self.name))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """[log]"""

    style: LogStyle = LogStyle.AUTO
    level: LogLevel = LogLevel.INFO
