"""How fast a full queue is emptied to Postfix's smtp-sink on loopback: relayd and Postfix in turn, in the same run.

    python -m benchmarks.drain --loads one-domain --rounds 3

Each has its queue filled beforehand, with the same messages for the same domains, and the same sink and DNS server.
relayd's is filled through the queue's contract (benchmarks/fill.py) and then the daemon is started; Postfix's by SMTP
while nothing delivers (benchmarks/mta.py), its master running, and then released.  Both have their default settings,
synced commits included.  A message lost or sent twice, or one left in the queue, fails the run.

    messages/s  to the last message that the sink has taken: of relayd since READY, of Postfix since the release.  This
                is what is compared, since Postfix's master runs when it is released.
    from exec   the same since relayd was started, Python's start and the opening of the queue included
    CPU         user and system in microseconds for each message, over the same time and until the queue is empty, of
                all processes of each; `in all`: relayd's start and stop included
    peak        of what is resident, summed over all processes, by a look every 0.5 s
    first       milliseconds until the sink has the first message

smtp-source is the limit: a C program that reads nothing from disk, writes nothing to it, and keeps 20 connections.
The domains go by MX, each to an exchanger of its own; no message is the first to look up its domain in a DNS server
that is slow.  With `--dropped` relayd alone runs, and the messages are files in new/ when it starts: intake is in.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import fill, mta, postfix, processes
from benchmarks.arrivals import PATIENCE, POLL, until
from benchmarks.daemon import Daemon, settings
from benchmarks.load import Load
from benchmarks.postfix import SmtpSink
from benchmarks.scratch import run, scratch
from benchmarks.zone import nameserver

QUICK = 400  # messages
LOADS = {
    "one-domain": Load(messages=10_000),
    "100-domains": Load(messages=10_000, domains=100, sites=100),
    "100-KiB": Load(messages=4_000, size=100 * 1024),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run took; times in seconds, `cpu` of all messages together, `peak` in octets."""

    seconds: float
    from_exec: float | None = None
    cpu: float
    cpu_in_all: float | None = None
    peak: int
    first: float


Client = Callable[[Path, SmtpSink, Load, argparse.Namespace], Result]


def main() -> None:
    """Print a line for each run, and for each load how relayd compares."""
    words = _arguments()
    if "postfix" in words.clients:
        mta.needed()
    postfix.needed()
    for name in words.loads:
        load = replace(LOADS[name], address=mta.SINK)
        load = replace(load, messages=words.messages or load.messages)
        print(f"\n{name}: {load.messages} messages of {load.size} octets, {load.domains} domains")
        heads = ("round", "client", "messages/s", "from exec", "CPU, us", "in all", "peak, MiB", "first, ms")
        print("{:>5} {:12} {:>10} {:>10} {:>8} {:>8} {:>10} {:>10}".format(*heads))
        results: dict[str, list[Result]] = {}
        for number in range(words.rounds):
            for client in words.clients[:: 1 if number % 2 == 0 else -1]:
                result = _run(client, load, words)
                results.setdefault(client, []).append(result)
                _line(number + 1, client, load, result)
        _compare(results, load)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS))
    parser.add_argument("--clients", nargs="+", choices=CLIENTS, default=list(CLIENTS))
    parser.add_argument("--rounds", type=int, default=1, help="runs of each, in turn")
    parser.add_argument("--messages", type=int, help="instead of the load's own number")
    parser.add_argument("--processes", type=int, help="relay.processes; not written unless given")
    parser.add_argument("--connections", type=int, help="relay.max_connections; not written unless given")
    parser.add_argument("--dropped", action="store_true", help="relayd alone, from files in new/")
    parser.add_argument("--postfix-log", choices=("syslog", "file"), default="syslog", help="Debian's is syslog")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} messages, to see that it works")
    words = parser.parse_args()
    if words.dropped:
        words.clients = ["relayd"]
    if words.quick:
        words.messages = words.messages or QUICK
    return words


def _run(client: str, load: Load, words: argparse.Namespace) -> Result:
    with scratch(files=load.messages, size=load.size) as directory, SmtpSink(mta.SINK) as sink:
        result = CLIENTS[client](directory, sink, load, words)
        if sink.messages != load.messages:
            sys.exit(f"{client}: the sink has {sink.messages} of {load.messages} messages")
        return result


def _relayd(directory: Path, sink: SmtpSink, load: Load, words: argparse.Namespace) -> Result:
    spool = directory / "spool"
    (fill.drop if words.dropped else fill.fill)(spool, load)
    os.sync()  # what was written before is not its to write
    keys = {} if words.connections is None else {"max_connections": words.connections}
    with nameserver(load.zone) as dns:
        tables = settings(spool, sink.port, dns, processes=words.processes, **keys)
        with Daemon(directory, tables) as daemon, processes.Watch(daemon.pid) as watch:
            arrived = until(sink, load.messages, lambda: daemon.runs)
            if arrived.last is None:
                daemon.give_up(f"has sent {sink.messages} of {load.messages} messages")
            daemon.wait_ready()
            ended = daemon.stop()
    if left := fill.waiting(spool):
        sys.exit(f"relayd: {left} messages are left in the queue")
    since = min(daemon.ready_at, arrived.first)
    return Result(
        seconds=arrived.last - since,
        from_exec=arrived.last - daemon.began,
        cpu=ended.cpu_since_ready,
        cpu_in_all=ended.cpu,
        peak=max(watch.peak, daemon.peak),
        first=arrived.first - since,
    )


def _postfix(directory: Path, sink: SmtpSink, load: Load, words: argparse.Namespace) -> Result:
    log = {"maillog_file": ""} if words.postfix_log == "syslog" else {}
    with nameserver(load.zone, mta.NAMESERVER, mta.DNS_PORT), mta.Postfix(directory / "mta", sink.port, log) as server:
        server.fill(load)
        os.sync()
        before = processes.cpu(server.pid)
        with processes.Watch(server.pid) as watch:
            released = server.release()
            arrived = until(sink, load.messages, lambda: True)
            end = time.monotonic() + PATIENCE
            while server.waiting and time.monotonic() < end:
                time.sleep(POLL)
            if arrived.last is None or server.waiting:
                sys.exit(f"Postfix has {server.waiting} messages left, the sink {sink.messages}:\n{server.log}")
            cpu = processes.cpu(server.pid) - before
    return Result(seconds=arrived.last - released, cpu=cpu, peak=watch.peak, first=arrived.first - released)


def _source(directory: Path, sink: SmtpSink, load: Load, words: argparse.Namespace) -> Result:
    sent = postfix.source(sink.port, messages=load.messages, size=load.size, connections=20, address=mta.SINK)
    return Result(seconds=sent.seconds, cpu=sent.user + sent.system, peak=0, first=0.0)


CLIENTS: dict[str, Client] = {"relayd": _relayd, "postfix": _postfix, "smtp-source": _source}


def _line(number: int, client: str, load: Load, result: Result) -> None:
    from_exec = "" if result.from_exec is None else f"{load.messages / result.from_exec:.0f}"
    in_all = "" if result.cpu_in_all is None else f"{result.cpu_in_all / load.messages * 1e6:.0f}"
    print(
        f"{number:5} {client:12} {load.messages / result.seconds:10.0f} {from_exec:>10}"
        f" {result.cpu / load.messages * 1e6:8.0f} {in_all:>8} {result.peak / 2**20:10.0f} {result.first * 1e3:10.0f}",
        flush=True,
    )


def _compare(results: dict[str, list[Result]], load: Load) -> None:
    """Print relayd's ratios to Postfix, round by round and of the medians."""
    if not {"relayd", "postfix"} <= results.keys():
        return
    pairs = list(zip(results["relayd"], results["postfix"], strict=True))
    rates = [theirs.seconds / ours.seconds for ours, theirs in pairs]
    costs = [ours.cpu / theirs.cpu for ours, theirs in pairs]
    print(f"relayd's rate is {_many(rates, 2)} times Postfix's, its CPU for each message {_many(costs, 2)} times")


def _many(ratios: list[float], digits: int) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.{digits}f}"
    each = ", ".join(f"{ratio:.{digits}f}" for ratio in ratios)
    return f"{statistics.median(ratios):.{digits}f} (median of {each})"


if __name__ == "__main__":
    run(main)
