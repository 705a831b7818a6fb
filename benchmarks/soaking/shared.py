"""What all processes of a soak know: the plan, the time, whether there is still trouble; and the notes they send."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.sharedctypes import Synchronized

from benchmarks.soaking.plan import Plan

NOTE = struct.Struct("=Bq")


class Note(IntEnum):
    """What a sink tells, each with a number: `TAKEN` and `TOLD` of a recipient, `BOUNCE` of the message whose sender
    got a notification, `WRONG` of a message that is not what was dropped."""

    TAKEN = 1
    TOLD = 2
    BOUNCE = 3
    WRONG = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """See the module.  `began` is of CLOCK_MONOTONIC; `calm` becomes 1 when all trouble ends."""

    plan: Plan
    began: float
    calm: Synchronized[int]

    @property
    def at(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    @property
    def is_calm(self) -> bool:
        return bool(self.calm.value)
