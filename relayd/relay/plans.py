"""How a server is talked to: the three plans, which of them it offers, and which of them it broke on before.

Pure but for the memory, which is told the time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import Enum

from relayd.mail.route import Target
from relayd.relay.capabilities import Capabilities
from relayd.relay.remembered import Remembered


class Plan(Enum):
    """The plans, simplest first; the words are those of the log."""

    LOCK_STEP = "lock-step"  # a command, then its reply
    PIPELINED = "pipelined"  # RFC 2920: one round trip for each message
    CHUNKED = "chunked"  # RFC 3030 on RFC 2920: several messages for each round trip

    @classmethod
    def of(cls, offered: Capabilities) -> Plan:
        """Return the plan with the fewest round trips that a server offers."""
        if not offered.pipelining:
            return cls.LOCK_STEP
        return cls.CHUNKED if offered.chunking else cls.PIPELINED


class PlanMemory:
    """The servers that broke on what they offer, and those that did well on the chunked plan.  Both with an end."""

    def __init__(self, span: timedelta, limit: int = 10_000) -> None:
        self._fails = {plan: Remembered[Target](span, limit) for plan in (Plan.PIPELINED, Plan.CHUNKED)}
        self._works = Remembered[Target](span, limit)

    def best(self, offered: Capabilities, target: Target, now: datetime) -> Plan:
        """Return the plan with the fewest round trips that `target` offers and did not break on."""
        plan = Plan.of(offered)
        if plan is Plan.CHUNKED and self._fails[Plan.CHUNKED].has(target, now):
            plan = Plan.PIPELINED
        if plan is Plan.PIPELINED and self._fails[Plan.PIPELINED].has(target, now):
            plan = Plan.LOCK_STEP
        return plan

    def broke(self, target: Target, plan: Plan, now: datetime) -> bool:
        """Remember that `target` broke on `plan`; return whether there is a simpler one."""
        self._works.discard(target)
        if plan is Plan.LOCK_STEP:
            return False
        self._fails[plan].add(target, now)
        return True

    def works(self, target: Target, now: datetime) -> None:
        """Remember that `target` took a message by the chunked plan."""
        self._works.add(target, now)

    def proven(self, target: Target, now: datetime) -> bool:
        """Whether `target` took a message by the chunked plan of late."""
        return self._works.has(target, now)
