"""Files dropped at a steady rate while relayd drains: what it takes, how late it gets, whether memory stays flat.

    python -m benchmarks.steady --rate 2000 --seconds 60

A producer in a process of its own drops a batch every 10 ms by a schedule (each file written in tmp/, all then renamed
into new/), whether or not relayd keeps up; as root it goes before the others, as if it were on another machine.  The
sink (benchmarks/sink.py) notes when it took each message, so the latency of every one is known, from its rename on.

Every tenth of the run has a line: the backlog at its end (dropped and not yet at the sink), the latency of what was
dropped in it, and of all of relayd's processes memory and descriptors, the means over it.  Where the producer was far
behind its schedule, benchmarks/scratch.py has the likely reason, and `--fresh` helps.  A message lost or sent twice
fails the run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import fill
from benchmarks.arrivals import milliseconds, percentile
from benchmarks.daemon import Daemon, settings
from benchmarks.load import Load
from benchmarks.noting import NotingSink
from benchmarks.processes import Sample, Watch
from benchmarks.scratch import run, scratch
from benchmarks.zone import nameserver

TICK = 0.01  # seconds between two batches
LOOK = 0.2  # seconds between two looks at memory
SHARES = 10  # lines of the table
FIRST = -10  # niceness of the producer
PATIENCE = 120.0  # seconds for what is left when the last file was dropped
QUICK = 3  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What happened, all times of CLOCK_MONOTONIC: when each message was dropped and taken, what relayd used."""

    began: float
    late: float  # by how much the producer was behind its schedule, at most
    dropped: Sequence[float]
    taken: Sequence[float]
    samples: Sequence[Sample]

    @property
    def latencies(self) -> list[float]:
        """Seconds from drop to sink."""
        return [taken - dropped for dropped, taken in zip(self.dropped, self.taken, strict=True)]

    def samples_between(self, start: float, end: float) -> list[Sample]:
        """Return what was seen in a part of the drop, given as shares of it."""
        whole = self.dropped[-1] - self.began
        return [s for s in self.samples if start * whole <= s.at - self.began < end * whole]


def main() -> None:
    """Print the course of the run, and what it comes to."""
    words = _arguments()
    messages = round(words.rate * words.seconds)
    load = Load(messages=messages, size=words.size, domains=words.domains, sites=words.domains)
    with scratch(files=messages, size=words.size, fresh=words.fresh) as directory, NotingSink() as sink:
        course = _course(directory, sink, load, words)
    if sink.doubles:
        sys.exit(f"{len(sink.doubles)} messages came twice: {sink.doubles[:10]}")
    _table(course)
    _result(course, words)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=2000, help="files a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--domains", type=int, default=10)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--fresh", action="store_true", help="on a file system of its own: see benchmarks/scratch.py")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} seconds, to see that it works")
    words = parser.parse_args()
    words.seconds = QUICK if words.quick else words.seconds
    return words


def _course(directory: Path, sink: NotingSink, load: Load, words: argparse.Namespace) -> Course:
    spool = directory / "spool"
    fill.prepare(spool)
    with nameserver(load.zone) as dns:
        tables = settings(spool, sink.port, dns, processes=words.processes)
        with Daemon(directory, tables) as daemon:
            daemon.wait_ready()
            with Watch(daemon.pid, LOOK, descriptors=True) as watch:
                began = time.monotonic()
                dropped, late = _dropped(spool, load, words.rate)
                if not sink.wait_for_count(load.messages, PATIENCE):
                    daemon.give_up(f"has sent {len(sink.times)} of {load.messages} messages after {PATIENCE:g} s more")
            daemon.stop()
    if left := fill.waiting(spool):
        sys.exit(f"relayd: {left} messages are left in the queue")
    taken = [sink.times[number] for number in load.numbers]
    return Course(began=began, late=late, dropped=dropped, taken=taken, samples=watch.samples)


def _dropped(spool: Path, load: Load, rate: float) -> tuple[list[float], float]:
    """Drop a load in a process of its own; return when each file was renamed, and how late that was at most."""
    ours, theirs = multiprocessing.Pipe()
    producer = multiprocessing.get_context("fork").Process(target=_produce, args=(theirs, spool, load, rate))
    producer.start()
    theirs.close()
    try:
        times, late = ours.recv()
    except EOFError:
        sys.exit("the producer ended before its time")
    finally:
        producer.kill()
        producer.join()
    return times, late


def _produce(pipe: Connection, spool: Path, load: Load, rate: float) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is killed with the others
    with suppress(PermissionError):
        os.nice(FIRST)
    dropping, times, began = fill.Drop(spool, load), list[float](), time.monotonic()
    tick, late = 0, 0.0
    while len(times) < load.messages:
        tick += 1
        batch = load.numbers[len(times) : min(round(tick * TICK * rate), load.messages)]
        for number in batch:
            dropping.write(number)
        early = began + tick * TICK - time.monotonic()
        time.sleep(max(early, 0))
        late = max(late, -early)
        for number in batch:
            times.append(time.monotonic())
            dropping.commit(number)
    pipe.send((times, late))


def _table(course: Course) -> None:
    heads = ("from, s", "dropped", "backlog", "median, ms", "p99, ms", "MiB", "descriptors")
    print("{:>8} {:>8} {:>8} {:>11} {:>9} {:>7} {:>12}".format(*heads))
    whole = course.dropped[-1] - course.began
    taken = sorted(course.taken)
    for share in range(SHARES):
        start, end = (course.began + whole * each / SHARES for each in (share, share + 1))
        times = [late for at, late in zip(course.dropped, course.latencies, strict=True) if start <= at < end]
        backlog = sum(at < end for at in course.dropped) - sum(at < end for at in taken)
        seen = course.samples_between(share / SHARES, (share + 1) / SHARES)
        median, p99 = (f"{percentile(times, each) * 1e3:.1f}" if times else "" for each in (0.5, 0.99))
        memory, open_ = (f"{value:.0f}" if seen else "" for value in (_memory(seen), _descriptors(seen)))
        print(
            f"{start - course.began:8.1f} {len(times):8} {backlog:8} {median:>11} {p99:>9} {memory:>7} {open_:>12}",
            flush=True,
        )


def _result(course: Course, words: argparse.Namespace) -> None:
    dropping = course.dropped[-1] - course.began
    count = len(course.dropped)
    print(
        f"{count} messages dropped in {dropping:.1f} s ({count / dropping:.0f}/s, wanted {words.rate:g}/s), all taken"
    )
    print(f"the producer was behind its schedule by {course.late * 1e3:.0f} ms at most")
    print(f"the last was at the sink {max(course.taken) - course.dropped[-1]:.2f} s after the last drop")
    print(f"drop to sink: {milliseconds(course.latencies)}")
    first, last = course.samples_between(0, 0.25), course.samples_between(0.75, 1)
    memory = f"memory {_memory(first):.0f} MiB in the first quarter, {_memory(last):.0f} MiB in the last"
    print(f"{memory}; descriptors {_descriptors(first):.0f} and {_descriptors(last):.0f}")


def _memory(samples: Sequence[Sample]) -> float:
    return statistics.fmean(sample.resident / 2**20 for sample in samples) if samples else 0.0


def _descriptors(samples: Sequence[Sample]) -> float:
    return statistics.fmean(sample.descriptors for sample in samples) if samples else 0.0


if __name__ == "__main__":
    run(main)
