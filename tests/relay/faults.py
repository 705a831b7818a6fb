"""What the tests of FAULTS.md's rows share: the three plans, and servers that offer each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from relayd.mail.outcome import Deferred, Outcome
from relayd.relay.plans import Plan
from relayd.relay.tls import TlsContexts
from tests.relay.kit import Bench
from tests.support.smtp import CHUNKED, LOCK_STEP, PIPELINED, Script

EHLO = {Plan.LOCK_STEP: LOCK_STEP, Plan.PIPELINED: PIPELINED, Plan.CHUNKED: CHUNKED}

each_plan = pytest.mark.parametrize("plan", list(Plan), ids=[plan.value for plan in Plan])
data_plans = pytest.mark.parametrize("plan", [Plan.LOCK_STEP, Plan.PIPELINED], ids=["lock-step", "pipelined"])

LARGE = b"Subject: large\r\n\r\n" + b".line of a large message, number\r\n" * 30_000  # octets: some 1 MB, so it streams


_CONTEXTS = TlsContexts()  # reading the system's authorities takes longer than most of these tests


def a_bench(**fields: Any) -> Bench:
    """Return a bench for servers whose certificates do not matter."""
    return Bench(contexts=_CONTEXTS, **fields)


def offering(plan: Plan, replies: Mapping[str, Script] | None = None) -> dict[str, Script]:
    """Return a script for a server that offers what `plan` needs, no more."""
    return {"EHLO": EHLO[plan], **(replies or {})}


def deferred(outcome: Outcome) -> Deferred:
    """Return `outcome`, which must be a deferral."""
    assert isinstance(outcome, Deferred), outcome
    return outcome


def marked(outcomes: Iterable[Outcome]) -> list[bool]:
    """Return of each outcome whether it is marked as a possible duplicate."""
    return [isinstance(outcome, Deferred) and outcome.possible_duplicate for outcome in outcomes]
