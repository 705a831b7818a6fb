"""Whether mail flows, and whether relayd is ready: what /healthz and /readyz say, in plain words.

Pure.  Not unhealthy is what the other side, a limit or an operator is the cause of: back-off, rates, windows, hold; nor
what costs no mail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

STUCK = timedelta(minutes=1)  # due mail that waits for nothing, look after look
LAG = 2.0  # seconds that the event loop may be late
ROUND = timedelta(minutes=1)  # for a round of check_state, beside what lies between two
HARMLESS = frozenset(
    {"configuration", "http", "mta-sts", "orphans", "tls-reports", "watch"}
)  # degraded parts that keep no mail waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """What is known.  `started`: the spool is locked, the queue open, and mail is relayed.

    `degraded` has reasons by part; `stuck` a destination and for how long; `unwritable` says why nothing can be written
    to the spool, empty if it can.
    """

    started: bool = True
    stopping: bool = False
    degraded: Mapping[str, str] = field(default_factory=dict)
    since_round: timedelta = timedelta(0)
    check_interval: timedelta = timedelta(seconds=5)
    lag: float = 0.0
    stuck: tuple[str, timedelta] | None = None
    unwritable: str = ""


def ailments(vitals: Vitals) -> list[str]:
    """Return why mail does not flow, a sentence for each reason; none if it does."""
    found = unready(vitals)
    found += [f"{part} is degraded: {why}" for part, why in sorted(vitals.degraded.items()) if part not in HARMLESS]
    if vitals.started and vitals.since_round > ROUND + 2 * vitals.check_interval:
        found.append(f"no round of check_state has ended for {vitals.since_round.total_seconds():.0f} s")
    if vitals.lag > LAG:
        found.append(f"the event loop came {vitals.lag:.1f} s too late in the last minute")
    if vitals.stuck and vitals.stuck[1] > STUCK:
        destination, waited = vitals.stuck
        found.append(
            f"mail for {destination} has been due for {waited.total_seconds():.0f} s and more, and waits for nothing"
            " that is known"
        )
    if vitals.unwritable:
        found.append(f"the spool cannot be written: {vitals.unwritable}")
    return found


def unready(vitals: Vitals) -> list[str]:
    """Return why relayd is not ready; nothing if it is."""
    if vitals.stopping:
        return ["relayd is stopping"]
    return [] if vitals.started else ["relayd is starting"]
