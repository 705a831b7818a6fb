"""Let the power fail under relayd at every instant, in every way that a file system allows, and start it again.

    python -m tests.power [NAME ...] [--directory DIR] [--samples 10000] [--real 100] [--jobs 2] [--seed N]

See disk.py for what may be lost, cuts.py for when.  States are started by the parts of the daemon (revival.py), one of
those that read alike, and `--real` samples by the daemon itself, which then has to deliver everything.  The exit code
is 1 if anything was wrong.  Needs root (files of other owners) and strace.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from tests.kills.ground import Ground
from tests.power.cuts import prefixes, samples
from tests.power.reality import deliver
from tests.power.recording import RECORDED, Recording, record, record_again
from tests.power.sweep import Counts, sweep

RICH = 200  # the last prefixes of a recording, in which there is mail
COLUMNS = ("recorded", "steps", "unsynced and missing or torn", "power cuts", "starts", "recipients marked", "wrong")


def main() -> int:
    """Sweep; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RECORDED), help="of recordings; all, unless given")
    parser.add_argument("--directory", type=Path, help="for the spools; in memory it is quicker")
    parser.add_argument("--samples", type=int, default=10_000, help="for each recording")
    parser.add_argument("--again", type=int, default=2, help="cuts after which the next start is recorded as well")
    parser.add_argument("--real", type=int, default=100, help="samples that the daemon itself delivers")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    asked = parser.parse_args()
    print(f"seed {asked.seed}\n\n| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    wrong = []
    with tempfile.TemporaryDirectory(dir=asked.directory) as scratch, Ground(Path(scratch) / "ground") as ground:
        for name, recording in recordings(ground, asked.names, asked.again, random.Random(asked.seed)):
            for kind in ("singles", "pairs", "samples"):
                counts = sweep(recording, kind, Path(scratch), jobs=asked.jobs, size=asked.samples, seed=asked.seed)
                wrong += _told(name, recording, kind, counts)
            counts = deliver(ground, recording, asked.real, random.Random(asked.seed))
            wrong += _told(name, recording, "by the daemon itself", counts)
    print(*wrong, sep="\n")
    return bool(wrong)


def recordings(ground: Ground, names: Sequence[str], again: int, rng: random.Random) -> Iterator[tuple[str, Recording]]:
    """Yield recordings of these names, and of some starts that follow a power cut in them."""
    for name in names:
        recording = record(ground, RECORDED[name]())
        yield name, recording
        for cut in islice(samples(recording.steps, prefixes(recording.steps)[-RICH:], rng), again):
            yield f"{name}, after {cut.count}", record_again(ground, recording, cut)


def _told(name: str, recording: Recording, kind: str, counts: Counts) -> list[str]:
    values = (name, len(recording.steps), kind, counts.cuts, counts.started, counts.marked, len(counts.faults))
    print(f"| {' | '.join(map(str, values))} |", flush=True)
    return counts.faults


if __name__ == "__main__":
    sys.exit(main())
