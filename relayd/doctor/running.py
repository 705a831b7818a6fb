"""The daemon: whether one runs, answers, and can do all its work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from relayd.control import PATIENCE, ask
from relayd.doctor.finding import Finding, error, warning
from relayd.spool.lock import holder


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """What is known of the daemon: `holder` is the process that has the spool, `owner` names its start in leases.

    `adopting`: it still looks for bodies without a row, as it does for a while after its start.  `stretch`: mail is
    kept so much longer than its lifetime, since nothing could be tried for so long.
    """

    holder: str | None = None
    owner: str | None = None
    degraded: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)  # why, of those of which the daemon tells it
    adopting: bool = False
    stretch: timedelta = timedelta(0)

    @property
    def answers(self) -> bool:
        """Whether one runs and answers."""
        return self.owner is not None


def running(spool: Path) -> Running:
    """Find out; it takes as long as the daemon's patience at most."""
    said = ask(spool / "control", {"ask": "state"})
    found = holder(spool / "lock")
    return Running(holder=found) if said is None else _read(found, said)


def _read(found: str | None, said: Mapping[str, Any]) -> Running:
    return Running(
        holder=found or "unknown",
        owner=str(said.get("owner")),
        degraded=tuple(map(str, said.get("degraded", ()))),
        reasons={str(part): str(why) for part, why in dict(said.get("reasons", {})).items()},
        adopting=bool(said.get("adopting")),
        stretch=timedelta(seconds=float(said.get("stretch", 0))),
    )


def of_running(state: Running) -> Iterator[Finding]:
    """Say what is wrong.  Pure."""
    if state.holder is None:
        yield warning("daemon", "no daemon runs, so no mail goes out", "start it: systemctl start relayd")
    elif not state.answers:
        yield error(
            "daemon",
            f"process {state.holder} has the spool and did not answer within {PATIENCE:g} s",
            "see its log; if it does not start or stop just now, restart it: systemctl restart relayd",
        )
    for part in state.degraded:
        why = f", {reason}" if (reason := state.reasons.get(part)) else ""
        yield error(
            "degraded", f"the daemon cannot do a part of its work: {part}{why}", "see event=degraded in its log"
        )
