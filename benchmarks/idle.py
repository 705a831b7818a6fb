"""From drop to sink while nothing else is to be done: single messages, one after the other, to an idle daemon.

    python -m benchmarks.idle

Each is timed from just before its rename into new/ to the end of its data at a sink of ours on loopback, which notes
the time itself.  The next is dropped after that, and after a pause of 10 to 60 ms.  So intake, both commits, the look
for a site and a new connection are in.  Domains go by MX; before the clock starts each of them gets a message, so
that no look-up is in.  A message lost or sent twice fails the run.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from benchmarks import fill
from benchmarks.arrivals import milliseconds
from benchmarks.daemon import Daemon, settings
from benchmarks.load import Load
from benchmarks.noting import NotingSink
from benchmarks.scratch import run, scratch
from benchmarks.zone import nameserver

PAUSE = (0.010, 0.060)  # seconds between an arrival and the next drop
PATIENCE = 20.0  # seconds for one message
QUICK = 20  # messages
AIM = "the aim is a median under 20 ms and p99 under 60 ms"


def main() -> None:
    """Print how long messages took."""
    words = _arguments()
    with scratch() as directory, NotingSink() as sink:
        times = _times(directory, sink, words)
    if sink.doubles:
        sys.exit(f"{len(sink.doubles)} messages came twice: {sink.doubles[:10]}")
    print(f"{len(times)} messages of {words.size} octets, drop to sink: {milliseconds(times)}; {AIM}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=500)
    parser.add_argument("--domains", type=int, default=10)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--seed", type=int, default=1, help="of the pauses")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} messages, to see that it works")
    words = parser.parse_args()
    words.messages = QUICK if words.quick else words.messages
    return words


def _times(directory: Path, sink: NotingSink, words: argparse.Namespace) -> list[float]:
    """Drop messages, the first for each domain untimed; return the seconds of the others."""
    spool, chance = directory / "spool", random.Random(words.seed)
    load = Load(messages=words.domains + words.messages, size=words.size, domains=words.domains, sites=words.domains)
    fill.prepare(spool)
    dropping, times = fill.Drop(spool, load), []
    with nameserver(load.zone) as dns:
        tables = settings(spool, sink.port, dns, processes=words.processes)
        with Daemon(directory, tables) as daemon:
            daemon.wait_ready()
            for number in load.numbers:
                dropping.write(number)
                began = time.monotonic()
                dropping.commit(number)
                taken = sink.wait_for(number, PATIENCE)
                if taken is None:
                    daemon.give_up(f"has not sent message {number} within {PATIENCE:g} s")
                times.append(taken - began)
                time.sleep(chance.uniform(*PAUSE))
            daemon.stop()
    if left := fill.waiting(spool):
        sys.exit(f"relayd: {left} messages are left in the queue")
    return times[words.domains :]


if __name__ == "__main__":
    run(main)
