"""Large messages: memory for each connection, the longest stall of the event loop, and throughput.

    python -m benchmarks.large --size 52428800 --connections 4

Each connection sends one message, all at once, from files that relayd's own spool code reads; for each plan, in clear
text and with TLS from the first octet.  Each run is a process of its own.  First it sends a small message, so that what
the first connection loads is not counted.  Then:

    memory    by how much the peak of the resident set (VmHWM) exceeds what was resident before, for each connection, in
              MiB.  Bodies that the kernel caches are not in it.
    stall     a task that wants to run every 2 ms tells by how much it was late, at most; in ms.  Beside it the same of
              a loop that is doing nothing, for as long: what the machine adds.
    CPU       of the client for each MiB, in ms.

The limits, 8 MiB for each connection and 50 ms, are printed as kept or not.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import re
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import trustme
import uvloop

from benchmarks.sender import Cost, Sender, batches, body_of
from benchmarks.sink import Sink, message
from relayd.mail.delivery import Delivery
from relayd.relay.plans import Plan
from relayd.relayers import BodiesPort
from relayd.spool.bodies import Bodies

MIB = 1024 * 1024
MOST_MEMORY = 8  # MiB for each connection
LONGEST_STALL = 50  # ms
TICK = 0.002  # seconds
SMALL = 4096  # octets of the message before


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run took; `stall` and `idle` in seconds, `memory` in octets for all connections."""

    cost: Cost
    memory: int
    stall: float
    idle: float


def main() -> None:
    """Print a table; end with 1 if a limit is not kept."""
    words = _arguments()
    print(f"{words.connections} connections, a message of {words.size} octets on each")
    heads = ("plan", "TLS", "MiB/s", "CPU", "memory", "stall", "idle")
    print("{:12} {:4} {:>8} {:>6} {:>7} {:>7} {:>7}".format(*heads))
    kept = True
    with tempfile.TemporaryDirectory(prefix="relayd-bench-", dir=os.environ.get("RELAYD_BENCH_DIR")) as scratch:
        root = Path(scratch)
        load = _fill(root, words.connections, words.size)
        for plan in words.plans:
            for encrypted in (False, True):
                for _ in range(words.repeat):
                    kept = _run(plan, root, load, encrypted=encrypted) and kept
    if not kept:
        sys.exit(f"more than {MOST_MEMORY} MiB for a connection, or a stall of more than {LONGEST_STALL} ms")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plans = [plan.value for plan in Plan]
    parser.add_argument("--plans", nargs="+", choices=plans, default=plans)
    parser.add_argument("--connections", type=int, default=4, help="at a time")
    parser.add_argument("--size", type=int, default=50 * MIB, help="octets of each message")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each")
    parser.add_argument("--quick", action="store_true", help="messages of a MiB, to see that it works")
    words = parser.parse_args()
    words.size = MIB if words.quick else words.size
    words.plans = [Plan(name) for name in words.plans]
    return words


def _fill(root: Path, count: int, size: int) -> list[list[Delivery]]:
    """Write the small body and `count` large ones where the spool would have them; return their deliveries."""
    bodies = Bodies(root)
    small, large = message(SMALL), message(size)
    load = [*batches(1, 1, body_of(small)), *([one] for one in _named(count, large))]
    for deliveries, file in zip(load, (small, *[large] * count), strict=True):
        path = bodies.path(deliveries[0].id)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file)
    return load


def _named(count: int, file: bytes) -> list[Delivery]:
    return [one for batch in batches(count + 1, 1, body_of(file))[1:] for one in batch]  # M0 is the small one


def _run(plan: Plan, root: Path, load: list[list[Delivery]], *, encrypted: bool) -> bool:
    """Run in a process of its own, print a line, and return whether the limits were kept."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("sink.test").configure_cert(server)
    with Sink(plan, server if encrypted else None) as sink:
        ours, theirs = multiprocessing.Pipe()
        client = multiprocessing.get_context("fork").Process(
            target=_client, args=(theirs, sink.port, root, load, encrypted)
        )
        client.start()
        theirs.close()
        try:
            result: Result = ours.recv()
        except EOFError:
            sys.exit("the client ended before its time")
        client.join()
        if sink.messages != len(load):
            sys.exit(f"the sink has {sink.messages} messages instead of {len(load)}")
    connections = len(load) - 1
    size = sum(one.body.size for batch in load[1:] for one in batch) / MIB
    memory = result.memory / connections / MIB
    print(
        f"{plan.value:12} {'yes' if encrypted else 'no':4} {size / result.cost.seconds:8.0f}"
        f" {result.cost.cpu / size * 1e3:6.2f} {memory:7.2f} {result.stall * 1e3:7.1f} {result.idle * 1e3:7.1f}",
        flush=True,
    )
    return memory < MOST_MEMORY and result.stall * 1e3 < LONGEST_STALL


def _client(pipe: Connection, port: int, root: Path, load: list[list[Delivery]], encrypted: bool) -> None:
    async def send() -> Result:
        bodies = BodiesPort(Bodies(root))
        sender = Sender(port, bodies, tls=encrypted)
        await sender.send(load[:1], 1)
        resident = _begin_peak()
        with _lags() as late:
            cost = await sender.send(load[1:], len(load) - 1)
        memory = _peak() - resident
        with _lags() as idle:
            await asyncio.sleep(cost.seconds)
        return Result(cost=cost, memory=memory, stall=max(late), idle=max(idle))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        pipe.send(runner.run(send()))


@contextlib.contextmanager
def _lags() -> Iterator[list[float]]:
    """Note by how much a task that wants to run every `TICK` is late."""
    late: list[float] = [0.0]

    async def tick() -> None:
        while True:
            began = time.perf_counter()  # uvloop's own clock stands still for milliseconds
            await asyncio.sleep(TICK)
            late.append(time.perf_counter() - began - TICK)

    task = asyncio.get_running_loop().create_task(tick())
    try:
        yield late
    finally:
        task.cancel()


def _begin_peak() -> int:
    """Let the peak begin anew; return the octets that are resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    main()
