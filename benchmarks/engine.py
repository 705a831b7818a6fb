"""The SMTP engine alone, on loopback: what a message of 4 KiB costs the client, and how many go in a second.

    python -m benchmarks.engine --connections 1 20 100
    python -m benchmarks.engine --connections 20 --plans pipelined --profile

relayd's relay stage on uvloop, bodies from memory, outcomes and reports included; the sink is another process.  Beside
it `smtp-source -d` to the same sink in the same run.  CPU is what the client's process used, user and system, in
microseconds for each message.  `sink` is how busy the sink was: below 100 % it was not what held the client up.  A
message lost, doubled or not reported fails the run.

The plan is what the sink's offer calls for.  Pipelined goes to Postfix's smtp-sink, which answers every message with
the same words, and to benchmarks/sink.py, which gives each an id, as real servers do; the others only to that.  The
deliveries are made before the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvloop

from benchmarks import postfix
from benchmarks.sender import Cost, InMemory, Sender, batches, body_of
from benchmarks.sink import Sink, message
from relayd.relay.plans import Plan
from relayd.relay.settings import RelaySettings

WARM = 200  # messages before the clock starts
TICK = 0.001  # seconds of CPU between two samples
QUICK = 500  # messages
SHOWN = 30  # lines of a profile


def main() -> None:
    """Print a table."""
    words = _arguments()
    postfix.needed()
    print(f"{words.messages} messages of {words.size} octets, {words.each} on each connection, {words.repeat} runs")
    heads = ("plan", "sink", "conn.", "client", "messages/s", "CPU", "user", "sys", "sink")
    print("{:10} {:16} {:>5} {:12} {:>10} {:>6} {:>6} {:>6} {:>6}".format(*heads))
    for plan in words.plans:
        for connections in words.connections:
            for _ in range(words.repeat):
                for sink in _sinks(plan):
                    with sink:
                        _relayd(sink, connections, words)
                        _source(sink, connections, words)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = [plan.value for plan in Plan]
    parser.add_argument("--plans", nargs="+", choices=plans, default=plans)
    parser.add_argument("--connections", nargs="+", type=int, default=[1, 20, 100], help="at a time")
    parser.add_argument("--messages", type=int, default=20_000, help="in a run")
    parser.add_argument("--each", type=int, default=1000, help="messages on one connection, then a new one")
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--window", type=int, default=RelaySettings(hostname="x").pipeline_window)
    parser.add_argument("--repeat", type=int, default=1, help="runs of each")
    parser.add_argument("--profile", action="store_true", help="print where the client's CPU goes")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} messages, to see that it works")
    words = parser.parse_args()
    words.messages = QUICK if words.quick else words.messages
    words.plans = [Plan(name) for name in words.plans]
    return words


def _sinks(plan: Plan) -> list[Sink | postfix.SmtpSink]:
    own = Sink(plan)
    return [postfix.SmtpSink(), own] if plan is Plan.PIPELINED else [own]


def _relayd(sink: Sink | postfix.SmtpSink, connections: int, words: argparse.Namespace) -> None:
    """Send, and print a line."""
    profile: Counter[str] = Counter()
    before = sink.messages, sink.cpu

    async def send() -> Cost:
        file = message(words.size)
        settings = RelaySettings(hostname="bench.example.org", pipeline_window=words.window)
        sender = Sender(sink.port, InMemory(file), settings=settings)
        await sender.send(batches(WARM, WARM, body_of(file)), 1)
        each = min(words.each, -(-words.messages // connections))
        load = batches(words.messages, each, body_of(file))
        if not words.profile:
            return await sender.send(load, connections)
        with _sampled(profile):
            return await sender.send(load, connections)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        cost = runner.run(send())
    taken, busy = sink.messages - before[0], sink.cpu - before[1]
    if taken != words.messages + WARM:
        sys.exit(f"the sink has {taken} messages instead of {words.messages + WARM}")
    _line(sink, connections, words, "relayd", cost, busy)
    if profile:
        _print(profile)


def _source(sink: Sink | postfix.SmtpSink, connections: int, words: argparse.Namespace) -> None:
    """The same with smtp-source, and a line."""
    before = sink.cpu
    sent = postfix.source(sink.port, messages=words.messages, size=words.size, connections=connections)
    cost = Cost(seconds=sent.seconds, user=sent.user, system=sent.system)
    _line(sink, connections, words, "smtp-source", cost, sink.cpu - before)


def _line(
    sink: Sink | postfix.SmtpSink, connections: int, words: argparse.Namespace, client: str, cost: Cost, busy: float
) -> None:
    plan = sink.plan.value if client == "relayd" else Plan.LOCK_STEP.value
    cpu, user, system = (seconds / words.messages * 1e6 for seconds in (cost.cpu, cost.user, cost.system))
    print(
        f"{plan:10} {sink.name:16} {connections:5} {client:12} {words.messages / cost.seconds:10.0f}"
        f" {cpu:6.1f} {user:6.1f} {system:6.1f} {busy / cost.seconds:6.0%}",
        flush=True,
    )


# Where it goes


@contextmanager
def _sampled(found: Counter[str]) -> Iterator[None]:
    """Note which function runs, each time that so much CPU was used.

    A signal is seen when Python next looks, at a call or after it: what the loop and the kernel do between two calls of
    ours counts for the function that the loop calls next, what they do in a call for the caller.
    """

    def note(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            found[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1

    before = signal.signal(signal.SIGPROF, note)
    signal.setitimer(signal.ITIMER_PROF, TICK, TICK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _print(profile: Counter[str]) -> None:
    whole = sum(profile.values())
    for name, samples in profile.most_common(SHOWN):
        print(f"    {samples / whole:6.1%} {name}")


if __name__ == "__main__":
    main()
