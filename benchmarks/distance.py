"""How many messages a connection carries in a second over 50 ms: the whole relayd, and Postfix, in the same run.

    python -m benchmarks.distance

Each has a queue that was filled beforehand, and one connection to one mail exchanger (relayd's
`max_connections_per_site`, Postfix's `smtp_destination_concurrency_limit`; Postfix keeps it as it does by default, when
more mail waits).  A proxy (benchmarks/proxy.py) puts 25 ms into each direction.  The sink (benchmarks/sink.py) offers
PIPELINING and CHUNKING, or PIPELINING alone, as to Postfix.  The rate is from the first message that the sink has taken
to the last, so starts are out and the connections that follow the first are in.  A message lost or sent twice fails the
run.  `late` is by how much segments left the proxy after their time, the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import fill, mta
from benchmarks.arrivals import POLL, until
from benchmarks.daemon import Daemon, settings
from benchmarks.load import Load
from benchmarks.proxy import ROUND_TRIP, Proxy
from benchmarks.scratch import run, scratch
from benchmarks.sink import Sink
from benchmarks.zone import nameserver
from relayd.relay.plans import Plan

MESSAGES = {("relayd", Plan.CHUNKED): 4000, ("relayd", Plan.PIPELINED): 500, ("postfix", Plan.PIPELINED): 200}
AIMS = {Plan.CHUNKED: 20.0, Plan.PIPELINED: 2.5}  # times Postfix
QUICK = 20  # times fewer messages
PATIENCE = 60.0  # seconds for one run


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What there is between a client and the sink."""

    directory: Path
    sink: Sink
    proxy: Proxy
    load: Load
    processes: int | None


def main() -> None:
    """Print a line for each client and sink, and how relayd compares."""
    words = _arguments()
    mta.needed()
    print(f"messages of {words.size} octets over {words.round_trip * 1e3:g} ms, one connection at a time")
    heads = ("client", "sink offers", "messages", "connections", "messages/s", "late, ms")
    print("{:10} {:12} {:>10} {:>12} {:>12} {:>9}".format(*heads))
    rates = {(client, plan): _rate(client, plan, words) for client, plan in MESSAGES}
    for plan, aim in AIMS.items():
        ratio = rates["relayd", plan] / rates["postfix", Plan.PIPELINED]
        print(f"{plan.value}: relayd's rate is {ratio:.1f} times Postfix's; the aim is {aim:g}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--round-trip", type=float, default=ROUND_TRIP, help="seconds")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} times fewer messages, to see that it works")
    return parser.parse_args()


def _rate(client: str, plan: Plan, words: argparse.Namespace) -> float:
    """Run once, print a line, and return the messages a second."""
    messages = MESSAGES[client, plan] // (QUICK if words.quick else 1)
    load = Load(messages=messages, size=words.size, address=mta.SINK)
    with (
        scratch(files=messages, size=words.size) as directory,
        Sink(plan) as sink,
        Proxy(sink.port, words.round_trip, mta.SINK) as proxy,
    ):
        way = Way(directory=directory, sink=sink, proxy=proxy, load=load, processes=words.processes)
        seconds = _relayd(way) if client == "relayd" else _postfix(way)
        counts, late = sink.counts, proxy.travelled.late
    if counts.messages != messages:
        sys.exit(f"{client}: the sink has {counts.messages} of {messages} messages")
    rate = (messages - 1) / seconds
    print(
        f"{client:10} {plan.value:12} {messages:10} {counts.connections:12} {rate:12.1f}"
        f" {statistics.median(late) * 1e3:9.2f}",
        flush=True,
    )
    return rate


def _relayd(way: Way) -> float:
    spool = way.directory / "spool"
    fill.fill(spool, way.load)
    os.sync()
    with nameserver(way.load.zone) as dns:
        tables = settings(spool, way.proxy.port, dns, processes=way.processes, max_connections_per_site=1)
        with Daemon(way.directory, tables) as daemon:
            arrived = until(way.sink, way.load.messages, lambda: daemon.runs, PATIENCE)
            if arrived.last is None:
                daemon.give_up(f"has sent {way.sink.messages} of {way.load.messages} messages")
            daemon.wait_ready().stop()
    if left := fill.waiting(spool):
        sys.exit(f"relayd: {left} messages are left in the queue")
    return arrived.last - arrived.first


def _postfix(way: Way) -> float:
    options = {"maillog_file": "", "smtp_destination_concurrency_limit": "1"}
    with (
        nameserver(way.load.zone, mta.NAMESERVER, mta.DNS_PORT),
        mta.Postfix(way.directory / "mta", way.proxy.port, options) as server,
    ):
        server.fill(way.load)
        os.sync()
        server.release()
        arrived = until(way.sink, way.load.messages, lambda: True, PATIENCE)
        end = time.monotonic() + PATIENCE
        while arrived.last is not None and server.waiting and time.monotonic() < end:
            time.sleep(POLL)
        if arrived.last is None or server.waiting:
            sys.exit(f"Postfix has {server.waiting} messages left, the sink {way.sink.messages}:\n{server.log}")
    return arrived.last - arrived.first


if __name__ == "__main__":
    run(main)
