"""How cost grows with the queue: 10^3 to 10^6 messages for 10,000 domains on 100 sites.

    python -m benchmarks.million

Each queue is filled through its contract (benchmarks/fill.py) with messages of 1 KiB; then the daemon is started and
watched for some 20,000 messages or 20 s, to Postfix's smtp-sink on loopback, and told to stop.  The domains go by MX,
all look-ups are in.  For each queue a line of JSON:

    fill      seconds that filling took, and bodies are synced in it
    ready     seconds from the exec of the daemon to its READY
    first     seconds from the exec of the daemon to the first message at the sink
    peak      MiB resident, summed over its processes, at most: by a look every 0.1 s, and of its first process VmHWM
    rate      messages a second, from the second after the first message on, until the window ends; from the first one
              on where half of the queue would not have outlived that second
    stall     the longest wait for an answer of the event loop, ms (benchmarks/prober.py): an upper bound, from the
              control socket on, thus not of what is done before READY.  `late`: by how much the prober itself was late
    stop      seconds that stopping took

and all of them as a figure, docs/figures/growth.svg, with the lines themselves beside it (growth.jsonl).  What is left
in the queue and what the sink has must add up, or the run fails.  A million small files take 4 GB while it runs: see
benchmarks/scratch.py for where.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import fill, postfix, processes
from benchmarks.arrivals import POLL
from benchmarks.daemon import ROOT, Daemon, settings
from benchmarks.load import Load
from benchmarks.postfix import SmtpSink
from benchmarks.prober import Prober
from benchmarks.scratch import run, scratch
from benchmarks.svg import Panel, figure
from benchmarks.zone import nameserver

SIZES = (1_000, 10_000, 100_000, 1_000_000)
QUICK = (200, 1_000)
DOMAINS = 10_000
SITES = 100
SIZE = 1024  # octets of a message
FIGURE = ROOT / "docs" / "figures" / "growth.svg"
LOOK = 0.1  # seconds between two looks at memory
WARM = 1.0  # seconds after the first message that are left out
WINDOW = 20.0  # seconds at most
ENOUGH = 20_000  # messages in the window
PATIENCE = 120.0  # seconds to the first message
Count = tuple[float, int]  # a time, and how many messages the sink had


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one queue cost; see the module."""

    messages: int
    domains: int
    sites: int
    fill: float
    ready: float
    first: float
    peak: float
    rate: float
    window_messages: int
    window_seconds: float
    stall: float
    late: float
    stop: float


def main() -> None:
    """Print a line of JSON for each queue, and draw the figure."""
    words = _arguments()
    postfix.needed()
    rows = []
    for messages in words.sizes:
        rows.append(_row(messages, words))
        print(json.dumps(_rounded(rows[-1])), flush=True)
    if words.figure:
        words.figure.parent.mkdir(parents=True, exist_ok=True)
        words.figure.write_text(drawn(rows), encoding="utf-8")
        lines = "".join(json.dumps(_rounded(row)) + "\n" for row in rows)
        words.figure.with_suffix(".jsonl").write_text(lines, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES), help="messages in the queue")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="where to; not drawn with --quick unless given")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--quick", action="store_true", help="small queues, to see that it works")
    words = parser.parse_args()
    if words.quick:
        words.sizes = list(QUICK)
        words.figure = None if words.figure == FIGURE else words.figure
    return words


def _row(messages: int, words: argparse.Namespace) -> Row:
    load = Load(messages=messages, size=SIZE, domains=min(messages, DOMAINS), sites=SITES)
    with scratch(files=messages, size=SIZE) as directory:
        spool = directory / "spool"
        began = time.monotonic()
        fill.fill(spool, load)
        filled = time.monotonic() - began
        os.sync()
        with SmtpSink() as sink, nameserver(load.zone) as dns:
            tables = settings(spool, sink.port, dns, processes=words.processes)
            with Daemon(directory, tables) as daemon, processes.Watch(daemon.pid, LOOK) as watch:
                with Prober(spool) as prober:
                    counts = _counts(sink, daemon, messages)
                stopping = time.monotonic()
                daemon.wait_ready().stop()
                stopped = time.monotonic() - stopping
            taken, left = sink.messages, fill.waiting(spool)
        if taken + left != messages:
            sys.exit(f"of {messages} messages the sink has {taken}, and {left} are left in the queue")
    start, end = window(counts, messages)
    return Row(
        messages=messages,
        domains=load.domains,
        sites=load.sites,
        fill=filled,
        ready=daemon.ready_at - daemon.began,
        first=counts[0][0] - daemon.began,
        peak=max(watch.peak, daemon.peak) / 2**20,
        rate=(end[1] - start[1]) / (end[0] - start[0]),
        window_messages=end[1] - start[1],
        window_seconds=end[0] - start[0],
        stall=prober.probed.longest * 1e3,
        late=prober.probed.late * 1e3,
        stop=stopped,
    )


def _counts(sink: SmtpSink, daemon: Daemon, messages: int) -> list[Count]:
    """Look at the counter until there is enough; return what it said, from the first message on."""
    counts: list[Count] = []
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and daemon.runs:
        if count := sink.messages:
            if not counts:
                end = time.monotonic() + WARM + WINDOW
            counts.append((time.monotonic(), count))
            if count >= messages or _enough(counts):
                return counts
        time.sleep(POLL)
    if not daemon.runs or not counts:
        daemon.give_up("has sent nothing" if not counts else "ended before its time")
    return counts


def _enough(counts: Sequence[Count]) -> bool:
    first, last = counts[0], counts[-1]
    if last[0] < first[0] + WARM:
        return False
    return last[1] - _after(counts, WARM)[1] >= ENOUGH


def _after(counts: Sequence[Count], seconds: float) -> Count:
    """Return the first look so long after the first message."""
    return next(each for each in counts if each[0] >= counts[0][0] + seconds)


def window(counts: Sequence[Count], messages: int) -> tuple[Count, Count]:
    """Return between which looks the rate is taken; where there was one look alone, from a `POLL` before it on."""
    first, last = counts[0], counts[-1]
    if last[0] > first[0] + WARM and (start := _after(counts, WARM))[1] <= messages / 2 and start is not last:
        return start, last
    if first[0] == last[0]:
        return (first[0] - POLL, 0), last
    return first, last


def _rounded(row: Row) -> dict[str, float]:
    return {key: round(value, 3) for key, value in asdict(row).items()}


def drawn(rows: Sequence[Row]) -> str:
    """Return the figure."""

    def panel(title: str, unit: str, key: str, limit: float | None = None, limit_label: str = "") -> Panel:
        points = [(float(row.messages), max(float(getattr(row, key)), 0.001)) for row in rows]
        return Panel(
            title=title, x_label="messages queued", y_label=unit, points=points, limit=limit, limit_label=limit_label
        )

    return figure(
        "A queue of messages for up to 10,000 domains on 100 sites",
        [
            panel("Start to first delivery", "seconds", "first", 5, "5 s"),
            panel("Peak memory, all processes", "MiB resident", "peak", 200, "200 MiB"),
            panel("Delivery rate", "messages per second", "rate"),
            panel("Longest stall of the event loop, upper bound", "milliseconds", "stall", 100, "100 ms"),
        ],
    )


if __name__ == "__main__":
    run(main)
