"""What was sampled in a soak, as a figure, and thinned for whoever wants to draw another.

    python -m benchmarks.soaking.drawing samples.jsonl docs/figures/soak

writes `soak.svg` and `soak.jsonl`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.curves import Chart, Points, figure
from benchmarks.soaking.samples import Sample, points

APART = 30.0  # seconds between two samples that are kept
WINDOW = 60.0  # seconds over which a rate is taken


def main() -> None:
    """Draw what a file holds."""
    source, target = map(Path, sys.argv[1:3])
    write(read(source), target)


def read(path: Path) -> list[Sample]:
    """Return the samples of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(samples: Sequence[Sample], target: Path) -> None:
    """Write the figure and the samples beside each other."""
    target.with_suffix(".svg").write_text(drawn(samples), encoding="utf-8")
    lines = (json.dumps(each) + "\n" for each in thinned(samples))
    target.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")


def drawn(samples: Sequence[Sample]) -> str:
    """Return the figure; where the daemon's life began anew there is a vertical line."""
    lives = [after["t"] for before, after in pairwise(samples) if before["pid"] != after["pid"]]
    both = {"daemon": "daemon", "worker": "worker"}

    def of_both(what: str) -> dict[str, Points]:
        return {name: points(samples, who, what) for name, who in both.items()}

    queue = {"in the queue": [(each["t"], each["queue"]) for each in samples]}
    rates = {"recipients delivered": rate(samples, "taken"), "messages dropped": rate(samples, "dropped")}
    return figure(
        "An hour of mail with trouble; dotted: the daemon starts again",
        [
            Chart(title="memory", y_label="MiB resident", curves=of_both("rss"), events=lives),
            Chart(title="descriptors", y_label="open", curves=of_both("descriptors"), events=lives),
            Chart(title="rate", y_label="a second", curves=rates, events=lives),
            Chart(title="queue", y_label="messages", curves=queue, events=lives),
        ],
    )


def rate(samples: Sequence[Sample], what: str) -> list[tuple[float, float]]:
    """Return how a count grew in each second, over the last minute."""
    found, first = [], 0
    for each in samples:
        while each["t"] - samples[first]["t"] > WINDOW:
            first += 1
        if (seconds := each["t"] - samples[first]["t"]) >= WINDOW / 2:
            found.append((each["t"], (each[what] - samples[first][what]) / seconds))
    return found


def thinned(samples: Sequence[Sample]) -> list[Sample]:
    """Return samples that are so far apart."""
    kept: list[Sample] = []
    for each in samples:
        if not kept or each["t"] - kept[-1]["t"] >= APART or each["pid"] != kept[-1]["pid"]:
            kept.append(each)
    return kept


if __name__ == "__main__":
    main()
