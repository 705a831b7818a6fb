"""Spans of time in words, as the configuration and a deadline have them: `"500ms"`, `"30s"`, `"5m"`, `"4h"`, `"5d"`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def parse_duration(value: Any) -> timedelta:
    """Return the time that `"500ms"`, `"30s"`, `"5m"`, `"4h"`, `"5d"` name; ValueError for anything else."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        try:
            return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        except OverflowError:
            raise ValueError(f"too long: {value!r}") from None
    raise ValueError(f'must be a duration as "30s", "5m", "4h" or "5d", not {value!r}')
