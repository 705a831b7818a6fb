"""How much a long way costs each plan: messages a second, and round trips for each message, over 50 ms.

    python -m benchmarks.latency --connections 1 20 --each 1 100

relayd's relay stage on uvloop, bodies of 4 KiB from memory; a proxy (benchmarks/proxy.py) puts 25 ms into each
direction; the sink (benchmarks/sink.py) offers what the plan calls for.  Beside it smtp-source over the same way to
such a sink: it speaks in lock-step, with `-d` where there are several messages on a connection.

`of lock-step` compares the messages/s of relayd's own lock-step plan, same connections, same messages on each.  `round
trips` are those of a connection, EHLO and QUIT in and TCP's handshake and the greeting (two more) left out, for each
message; `late` is by how much segments left the proxy after their time, the median.  A message goes over a connection
before the clock starts, so that the server is known, as most are: `--unknown` leaves that out, and the chunked plan
then begins with a window of one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys

import uvloop

from benchmarks import postfix
from benchmarks.proxy import ROUND_TRIP, Proxy
from benchmarks.sender import Cost, InMemory, Sender, batches, body_of
from benchmarks.sink import Sink, message
from relayd.relay.plans import Plan
from relayd.relay.settings import RelaySettings

ROUNDS = {Plan.LOCK_STEP: 1, Plan.PIPELINED: 2, Plan.CHUNKED: 5}  # connections in turn, so that runs last about as long
SHORT = 10  # times as many where each has one message


def main() -> None:
    """Print a table."""
    words = _arguments()
    postfix.needed()
    print(f"{words.size} octets, {words.round_trip * 1e3:g} ms; server {'un' if words.unknown else ''}known")
    heads = ("client", "conn.", "each", "messages", "messages/s", "of lock-step", "round trips", "late, ms")
    print("{:22} {:>5} {:>5} {:>9} {:>10} {:>12} {:>11} {:>9}".format(*heads))
    for each in words.each:
        for connections in words.connections:
            rate = 0.0
            for plan in words.plans:
                rate = _relayd(plan, connections, each, words, rate)
            _source(connections, each, words, rate)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = [plan.value for plan in Plan]
    parser.add_argument("--plans", nargs="+", choices=plans, default=plans)
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 20], help="at a time")
    parser.add_argument("--each", nargs="+", type=int, default=[1, 100], help="messages on one connection")
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--round-trip", type=float, default=ROUND_TRIP, help="seconds")
    parser.add_argument("--window", type=int, default=RelaySettings(hostname="x").pipeline_window)
    parser.add_argument("--unknown", action="store_true", help="to a server that nothing is known of")
    parser.add_argument("--quick", action="store_true", help="few messages, to see that it works")
    words = parser.parse_args()
    if words.quick:
        words.connections, words.each = [2], [5]
    words.plans = [plan for plan in Plan if plan.value in words.plans]
    return words


def _relayd(plan: Plan, connections: int, each: int, words: argparse.Namespace, reference: float) -> float:
    """Send, print a line, and return the rate to compare others with: that of lock-step."""
    messages = connections * each * ROUNDS[plan] * (SHORT if each == 1 else 1)
    warm = 0 if words.unknown else 1

    async def send(port: int) -> Cost:
        file = message(words.size)
        settings = RelaySettings(hostname="bench.example.org", pipeline_window=words.window)
        sender = Sender(port, InMemory(file), settings=settings)
        if warm:
            await sender.send(batches(warm, warm, body_of(file)), 1)
        return await sender.send(batches(messages, each, body_of(file)), connections)

    with Sink(plan) as sink, Proxy(sink.port, words.round_trip) as proxy:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            cost = runner.run(send(proxy.port))
        seen, taken = proxy.travelled, sink.messages
    if taken != messages + warm:
        sys.exit(f"the sink has {taken} messages instead of {messages + warm}")
    rate = messages / cost.seconds
    reference = rate if plan is Plan.LOCK_STEP else reference
    trips = sum(seen.round_trips[warm:]) / messages
    _line(plan.value, connections, each, messages, rate, reference, trips, seen.late)
    return reference


def _source(connections: int, each: int, words: argparse.Namespace, reference: float) -> None:
    """The same with smtp-source, and a line."""
    messages = connections * each * (SHORT if each == 1 else 1)
    with Sink(Plan.PIPELINED) as sink, Proxy(sink.port, words.round_trip) as proxy:
        sent = postfix.source(proxy.port, messages=messages, size=words.size, connections=connections, keep=each > 1)
        seen = proxy.travelled
    trips = sum(seen.round_trips) / messages
    _line("smtp-source", connections, each, messages, messages / sent.seconds, reference, trips, seen.late)


def _line(
    client: str,
    connections: int,
    each: int,
    messages: int,
    rate: float,
    reference: float,
    trips: float,
    late: list[float],
) -> None:
    times = f"{rate / reference:.1f}" if reference else ""
    print(
        f"{client:22} {connections:5} {each:5} {messages:9} {rate:10.1f} {times:>12} {trips:11.2f}"
        f" {statistics.median(late) * 1e3:9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
