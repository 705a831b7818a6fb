"""Samples of power cuts, with the daemon itself: it is started on what is left, and has to bring all mail to its end.

What the servers took before the cut, they keep; so that what is sent again is seen to come twice.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

from aiosmtpd.smtp import Envelope

from tests.kills.ground import Ground
from tests.kills.oracle import judge
from tests.kills.runs import drain
from tests.power.cuts import Cut, prefixes, samples
from tests.power.disk import Sent, rebuilt, survived
from tests.power.recording import Recording
from tests.power.sweep import Counts


def deliver(ground: Ground, recording: Recording, size: int, rng: random.Random) -> Counts:
    """Let the daemon deliver what is left after `size` samples of power cuts."""
    counts = Counts()
    taken = {name: list(ground.witness.taken[name]) for name in recording.story.names}
    for cut in islice(samples(recording.steps, prefixes(recording.steps), rng), size):
        counts.add(delivered(ground, recording, cut, taken))
    ground.witness.taken.update(taken)
    return counts


def delivered(ground: Ground, recording: Recording, cut: Cut, taken: dict[str, list[Envelope]]) -> Counts:
    """Start the daemon after one cut until nothing waits, and judge; `taken` is all that was taken when recorded."""
    _remember(ground, recording, cut, taken)
    with ground.site() as site:
        rebuilt(survived(recording.initial, recording.steps, cut.count, cut.torn), site.spool)
        site.log.touch()
        drain(site)
        verdict = judge(site, recording.story, Counter())
        faults = [f"{cut}: {each}" for each in verdict.faults]
        if faults:
            ground.keep(site)
        return Counts(cuts=1, started=1, marked=len(verdict.marked), faults=faults)


def _remember(ground: Ground, recording: Recording, cut: Cut, taken: dict[str, list[Envelope]]) -> None:
    """Let the servers have what they took before a cut."""
    sent = Counter(each.recipients for step in recording.steps[: cut.count] if isinstance(each := step.effect, Sent))
    for name, envelopes in taken.items():
        ground.witness.taken[name] = []
        for envelope in envelopes:
            key = tuple(envelope.rcpt_tos)
            if sent[key]:
                sent[key] -= 1
                ground.witness.taken[name].append(envelope)
