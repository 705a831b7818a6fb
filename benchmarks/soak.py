"""An hour of mail with every kind of trouble, on real sockets: is anything lost, does anything grow?

    python -m benchmarks.soak --rate 500 --seconds 3600

relayd runs as a service manager would keep it, with a DNS server and some fifty mail exchangers on loopback that fail
in every way (benchmarks/soaking/moods.py and troubles.py), while files are dropped at a steady rate.  In the first
half the daemon is killed a few times, once stopped in order, its worker killed more often; to the end its
configuration is reloaded and an operator holds, releases, retries and removes.  The second half is one run of the
daemon: its memory and descriptors are sampled, and how fast they grow is the slope of a straight line through the
samples.  When the last file is dropped the daemon is killed once more.  Then all trouble ends, and the queue drains.

Each recipient must have exactly one end: delivered, bounced, held or removed (benchmarks/soaking/ledger.py).  What is
lost, twice without a mark, told wrongly, or not octet for octet what was dropped, fails the run; all evidence stays.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from benchmarks import fill
from benchmarks.daemon import Settings
from benchmarks.scratch import mounted, run
from benchmarks.soaking import drawing, names, server
from benchmarks.soaking.beside import beside, noting
from benchmarks.soaking.happenings import Happening, happenings
from benchmarks.soaking.history import History
from benchmarks.soaking.keeper import Keeper
from benchmarks.soaking.ledger import Ledger
from benchmarks.soaking.operator import Operator
from benchmarks.soaking.plan import Plan
from benchmarks.soaking.priority import go_first
from benchmarks.soaking.producer import produce
from benchmarks.soaking.samples import Sample, sample
from benchmarks.soaking.shared import Shared
from benchmarks.soaking.verdict import counted, grown, judged, write

DRAIN = 900.0  # seconds
AGAIN = 5.0  # seconds between two looks at what still waits
LIMITS = (20, 12)  # max_connections_per_site, by turns
QUICK = {"seconds": 8.0, "rate": 60.0, "sites": 12, "domains": 40}


@dataclass(slots=True, kw_only=True)
class Soak:
    """What a run has."""

    shared: Shared
    ledger: Ledger
    keeper: Keeper
    history: History
    operator: Operator
    tables: Settings
    dropped: Synchronized[int]
    directory: Path
    spool: Path
    samples: list[Sample] = field(default_factory=list)
    reloads: int = 0

    def happen(self, what: Happening) -> None:
        """Do what is due."""
        match what:
            case Happening.LOOK:
                self.look()
            case Happening.READ_HISTORY:
                self.history.read()
            case Happening.RELOAD:
                self._reload()
            case Happening.OPERATE:
                self.operator.act()
            case Happening.KILL_WORKER:
                self.keeper.kill_worker()
            case Happening.KILL:
                self.keeper.kill()
                self.keeper.restart()
            case Happening.STOP:
                if (code := self.keeper.stop()) not in (0, -signal.SIGTERM):  # it may have begun just now
                    sys.exit(f"relayd ended with {code} when it was told to stop")
                self.keeper.restart()

    def look(self) -> None:
        """Take a sample."""
        self.keeper.check()
        keeper, ledger = self.keeper, self.ledger
        more = {"queue": self.history.waiting(), "dropped": self.dropped.value, "taken": ledger.delivered}
        self.samples.append(sample(self.shared.began, keeper.pid, keeper.workers(), **more))
        write(self.samples[-1:], self.directory / "samples.jsonl")

    def _reload(self) -> None:
        self.reloads += 1
        limit = LIMITS[self.reloads % len(LIMITS)]
        self.keeper.write({**self.tables, "relay": {**self.tables["relay"], "max_connections_per_site": limit}})
        self.keeper.reload()


def main() -> None:
    """Print what became of the mail, and how relayd's memory and descriptors grew."""
    words = _arguments()
    directory = Path(words.directory or f"/var/tmp/relayd-soak-{os.getpid()}")
    directory.mkdir(parents=True)
    print(f"seed {words.seed}; {directory}", flush=True)
    go_first(os.getpid())
    with ExitStack() as stack:
        room = stack.enter_context(mounted(directory)) if words.fresh else directory
        soak, producer = _set_up(stack, directory, room / "spool", words)
        late = _run(soak, producer, words)
        _drain(soak)
    print(f"the producer was behind its schedule by {late:.1f} s at most")
    faults = judged(soak.ledger, directory)
    grown(soak.samples, words.seconds)
    counted("the log", soak.keeper.counts)
    counted("the operator", soak.operator.counts)
    if words.figure:
        drawing.write(soak.samples, words.figure)
    if faults:
        sys.exit(f"{faults} faults; seed {words.seed}, evidence in {directory}")
    if not words.keep:
        shutil.rmtree(directory)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=500, help="files a second")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--sites", type=int, default=40)
    parser.add_argument("--domains", type=int, default=600)
    parser.add_argument("--lifetime", default="15m", help="retry.lifetime")
    parser.add_argument("--history", default="20m", help="relay.history")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--directory", help="where all of it happens; a new one in /var/tmp unless given")
    parser.add_argument("--fresh", action="store_true", help="the spool on a file system of its own: scratch.py")
    parser.add_argument("--figure", type=Path, help="draw what was sampled, and write the samples beside it (.jsonl)")
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    words = parser.parse_args()
    if words.quick:
        vars(words).update(QUICK)
    return words


def _set_up(stack: ExitStack, directory: Path, spool: Path, words: argparse.Namespace) -> tuple[Soak, Connection]:
    """Start all that runs beside relayd, and then relayd; processes before threads."""
    messages = round(words.rate * words.seconds)
    fill.prepare(spool)
    plan = Plan(seed=words.seed, domains=words.domains, sites=words.sites)
    shared = Shared(plan=plan, began=time.monotonic(), calm=multiprocessing.Value("i", 0))
    dropped = multiprocessing.Value("q", 0)
    ledger = Ledger(plan, messages)
    ours, theirs = os.pipe()
    sinks = stack.enter_context(beside(server.serve, shared, theirs, directory, messages))
    os.close(theirs)
    dns = stack.enter_context(beside(names.serve, shared))
    producer = stack.enter_context(beside(produce, plan, spool, words.rate, messages, dropped))
    tables = _settings(spool, sinks.recv(), dns.recv(), words)
    producer.recv()
    stack.enter_context(noting(ours, ledger))
    keeper = stack.enter_context(Keeper(directory, tables, ledger))
    soak = Soak(
        shared=shared,
        ledger=ledger,
        keeper=keeper,
        history=History(spool, ledger),
        operator=Operator(keeper, words.seed),
        tables=tables,
        dropped=dropped,
        directory=directory,
        spool=spool,
    )
    return soak, producer


def _settings(spool: Path, port: int, dns: str, words: argparse.Namespace) -> Settings:
    """Short times, so that an hour has all that days have; else as relayd comes."""
    timeouts = dict.fromkeys(("connect", "greeting", "ehlo", "starttls", "mail", "rcpt", "data"), "6s")
    return {
        "relay": {
            "hostname": "relay.example.org",
            "spool": str(spool),
            "port": port,
            "allow_loopback": True,
            "history": words.history,
            "max_connections_per_site": LIMITS[0],
        },
        "retry": {"first": "5s", "max": "1m", "greylist": "10s", "lifetime": words.lifetime},
        "dns": {"nameservers": [dns], "timeout": "2s"},
        "timeouts": {**timeouts, "block": "10s", "final": "10s", "quit": "2s"},
    }


def _run(soak: Soak, producer: Connection, words: argparse.Namespace) -> float:
    """Let everything happen while files are dropped; return how late they were."""
    producer.send(time.monotonic())
    for at, what in happenings(words.seed, words.seconds):
        time.sleep(max(at - soak.shared.at, 0))
        soak.happen(what)
    late = float(producer.recv())
    soak.ledger.dropped = soak.dropped.value
    return late


def _drain(soak: Soak) -> None:
    """Kill the daemon once more, end all trouble, and wait until nothing but what is held waits."""
    soak.happen(Happening.KILL)
    soak.shared.calm.value = 1
    end = time.monotonic() + DRAIN
    while time.monotonic() < end:
        soak.operator.let_go()
        soak.look()
        soak.history.read()
        held = {str(each["id"]): each for each in soak.operator.listed() if each["held"]}
        if soak.history.waiting() == len(held) and not any((soak.spool / "new").iterdir()):
            break
        time.sleep(AGAIN)
    if code := soak.keeper.stop():
        sys.exit(f"relayd ended with {code} when it was told to stop")
    for each in soak.operator.listed():
        soak.ledger.hold(each)
    soak.history.read(everything=True)


if __name__ == "__main__":
    run(main)
