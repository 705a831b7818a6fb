"""How much of a table of faults is tried: all of it by `make faults`, a sample elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

import pytest

T = TypeVar("T")

ALL = os.environ.get("RELAYD_FAULTS", "") == "all"


def sampled(cases: Sequence[T], few: int) -> Sequence[T]:
    """Return all cases, or the first `few`."""
    return cases if ALL else cases[:few]


def in_worlds(first: int) -> pytest.MarkDecorator:
    """Run a test without workers (0) and with one (1), or only as `first` says."""
    processes = sampled([first, 1 - first], 1)
    return pytest.mark.parametrize("world", processes, indirect=True, ids=lambda each: f"{each}-workers")
