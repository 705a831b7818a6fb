"""The engine for a plan."""

from __future__ import annotations

from datetime import datetime

from relayd.relay.capabilities import Capabilities
from relayd.relay.chunked_plan import ChunkedEngine
from relayd.relay.data_plans import LockStepEngine, PipelinedEngine
from relayd.relay.engine import Engine
from relayd.relay.plans import Plan
from relayd.relay.settings import RelaySettings


def engine_for(
    plan: Plan,
    offered: Capabilities,
    settings: RelaySettings,
    now: datetime,
    *,
    proven: bool = False,
    elsewhere: bool = False,
) -> Engine:
    """Return a new engine.  `proven`: the server did well on the chunked plan; `elsewhere` as in `Engine`."""
    limit = settings.max_recipients
    match plan:
        case Plan.LOCK_STEP:
            return LockStepEngine(offered, now, max_recipients=limit, elsewhere=elsewhere)
        case Plan.PIPELINED:
            return PipelinedEngine(offered, now, max_recipients=limit, elsewhere=elsewhere)
        case Plan.CHUNKED:
            return ChunkedEngine(
                offered,
                now,
                max_recipients=limit,
                elsewhere=elsewhere,
                window=settings.pipeline_window,
                window_size=settings.pipeline_window_size,
                proven=proven,
            )
