"""How much of a table of faults is tried: all of it by `make faults`, a sample elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

ALL = os.environ.get("RELAYD_FAULTS", "") == "all"


def sampled(cases: Sequence[T], few: int) -> Sequence[T]:
    """Return all cases, or the first `few`."""
    return cases if ALL else cases[:few]
