"""Whether others' trouble harms a message: a trickle to live sites, with and without a black hole and slow sites.

    python -m benchmarks.blackhole

One message to a random one of 100 live sites is dropped every 20 ms for a minute, and timed from its rename into new/
to a sink of ours: first while nothing else is in the queue, then, in the same run, while 100,000 messages wait for a
site that accepts connections and never says a word, and 2,000 for each of ten sites that take 2 to 5 s for a message
(benchmarks/troubled.py).  The daemon has its default settings, time-outs included, but for `stop_grace`.  The trickle
begins `--settle` seconds after READY, when the others have what they can get.

A message of the trickle that is lost, sent twice or not at the sink a minute after the last drop fails the run; the
figures are of those that came.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fill
from benchmarks.arrivals import milliseconds, percentile
from benchmarks.daemon import Daemon, settings
from benchmarks.load import Load
from benchmarks.noting import NotingSink
from benchmarks.scratch import run, scratch
from benchmarks.troubled import HOLE, KINDS, SLOW, Troubled
from benchmarks.zone import nameserver

INTERVAL = 0.020  # seconds between two messages of the trickle
SLOW_SITES = 10
LIVE_SITES = 100
PATIENCE = 60.0  # seconds after the last drop
GRACE = "1s"  # the slow ones are not waited for
AIM = 2.0  # times the p99 without the others
QUICK = {"seconds": 3.0, "hole": 2000, "slow": 50, "settle": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trickle:
    """What became of it: the seconds that messages took, and how many did not come."""

    times: Sequence[float]
    missing: int

    @property
    def p99(self) -> float:
        return percentile(self.times, 0.99)


def main() -> None:
    """Print how long the trickle took without the others and with them."""
    words = _arguments()
    alone = _run([], words)
    print(f"alone:           {_words(alone)}", flush=True)
    others = [Load(messages=words.hole, prefix="hole-", address=HOLE)]
    if words.slow:
        slow = Load(
            messages=words.slow * SLOW_SITES, domains=SLOW_SITES, sites=SLOW_SITES, prefix="slow-", address=SLOW
        )
        others.append(slow)
    among = _run(others, words)
    print(f"with the others: {_words(among)}")
    print(f"p99 with the others is {among.p99 / alone.p99:.2f} times that without; the aim is at most {AIM:g}")
    if missing := alone.missing + among.missing:
        sys.exit(f"{missing} messages of the trickle were not at the sink {PATIENCE:g} s after the last drop")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of the trickle")
    parser.add_argument("--hole", type=int, default=100_000, help="messages for the black hole")
    parser.add_argument("--slow", type=int, default=2000, help="messages for each slow site")
    parser.add_argument("--kind", choices=KINDS, default="silent", help="of the black hole")
    parser.add_argument("--settle", type=float, default=5, help="seconds from READY to the trickle")
    parser.add_argument("--seed", type=int, default=1, help="of what is random")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    words = parser.parse_args()
    if words.quick:
        vars(words).update(QUICK)
    return words


def _run(others: Sequence[Load], words: argparse.Namespace) -> Trickle:
    live = Load(messages=round(words.seconds / INTERVAL), domains=LIVE_SITES, sites=LIVE_SITES)
    files = sum(load.messages for load in (live, *others))
    with (
        scratch(files=files, size=live.size) as directory,
        NotingSink() as sink,
        Troubled(sink.port, words.kind, words.seed) as troubled,
    ):
        dropped = _dropped(directory, sink, live, others, words)
        if others:
            print(f"the slow sites took {troubled.taken} messages meanwhile")
    if sink.doubles:
        sys.exit(f"{len(sink.doubles)} messages came twice: {sink.doubles[:10]}")
    times = [sink.times[number] - at for number, at in dropped.items() if number in sink.times]
    if not times:
        sys.exit("no message of the trickle came")
    return Trickle(times=times, missing=len(dropped) - len(times))


def _dropped(
    directory: Path, sink: NotingSink, live: Load, others: Sequence[Load], words: argparse.Namespace
) -> dict[int, float]:
    """Run a daemon and drop the trickle; return when each message was dropped."""
    spool = directory / "spool"
    fill.prepare(spool)
    fill.fill(spool, *others)
    os.sync()
    zone = live.zone
    for load in others:
        zone |= load.zone
    with nameserver(zone) as dns:
        tables = settings(spool, sink.port, dns, processes=words.processes, stop_grace=GRACE)
        with Daemon(directory, tables) as daemon:
            daemon.wait_ready()
            time.sleep(words.settle)
            dropped = _drop(spool, live, words.seed)
            sink.wait_for_count(len(dropped), PATIENCE)
            daemon.stop()
    return dropped


def _drop(spool: Path, live: Load, seed: int) -> dict[int, float]:
    """Drop one message after the other by the schedule, in an order of chance."""
    dropping, times = fill.Drop(spool, live), dict[int, float]()
    numbers = random.Random(seed).sample(live.numbers, live.messages)
    began = time.monotonic()
    for place, number in enumerate(numbers):
        dropping.write(number)
        time.sleep(max(began + place * INTERVAL - time.monotonic(), 0))
        times[number] = time.monotonic()
        dropping.commit(number)
    return times


def _words(trickle: Trickle) -> str:
    missing = f", {trickle.missing} did not come" if trickle.missing else ""
    return f"{len(trickle.times)} messages, {milliseconds(trickle.times)}{missing}"


if __name__ == "__main__":
    run(main)
