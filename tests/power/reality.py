"""Samples of power cuts, with the daemon itself: it is started on what is left, and has to bring all mail to its end.

What the servers took before the cut, they keep; so that what is sent again is seen to come twice.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

from tests.kills.ground import Ground
from tests.kills.oracle import judge
from tests.kills.runs import drain
from tests.power.cuts import Cut, prefixes, samples
from tests.power.disk import rebuilt, survived
from tests.power.recording import Recording, taken_before
from tests.power.sweep import Counts


def deliver(ground: Ground, recording: Recording, size: int, rng: random.Random) -> Counts:
    """Let the daemon deliver what is left after `size` samples of power cuts."""
    counts = Counts()
    for cut in islice(samples(recording.steps, prefixes(recording.steps), rng), size):
        counts.add(_delivered(ground, recording, cut))
    return counts


def _delivered(ground: Ground, recording: Recording, cut: Cut) -> Counts:
    """Start the daemon after one cut until nothing waits, and judge."""
    ground.witness.taken.update(taken_before(recording, cut))
    with ground.site() as site:
        rebuilt(survived(recording.initial, recording.steps, cut.count, cut.torn), site.spool)
        site.log.touch()
        drain(site)
        verdict = judge(site, recording.story, Counter())
        faults = [f"{cut}: {each}" for each in verdict.faults]
        if faults:
            ground.keep(site)
        return Counts(cuts=1, started=1, marked=len(verdict.marked), faults=faults)
