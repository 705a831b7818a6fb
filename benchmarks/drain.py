"""How fast relayd drains a spool: N messages of a size over D domains, to Postfix's smtp-sink on loopback.

    python -m benchmarks.drain --messages 10000 --size 4096 --domains 1

The messages are dropped into new/ first; then `relayd --once` takes them in, delivers them and ends.  The clock stops
when the sink's counter (`smtp-sink -c`) says that it has taken the last one, so intake, look-ups and all commits but
the last are inside.  After the end of the client the counter must say N: a message lost or sent twice fails the run.
A second line tells when the first message was at the sink (what comes before is the start of Python, mostly) and when
the last file was taken in: intake and delivery run side by side, so neither alone is the time of the run.
CPU and memory are of relayd's process and its children; sink and DNS server run beside and use the same cores, so
compare with the limit: the same number of messages by `smtp-source -d` to the same sink, nothing queued.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks import postfix
from benchmarks.postfix import SmtpSink
from relayd.demo.dns import DnsServer

PATIENCE = 300.0  # seconds for one run
POLL = 0.005  # seconds between two looks at the counter
LINE = b"The quick brown fox jumps over the lazy dog, and so on to the end of the line.\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is to be sent."""

    messages: int
    size: int  # octets of each body, header included
    domains: int
    connections: int
    sites: int  # how many different mail exchangers the domains are spread over


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run took."""

    seconds: float  # to the last message accepted by the sink
    cpu: float  # seconds, user and system
    peak: int  # octets resident
    first: float  # seconds to the first message accepted by the sink
    intake: float | None = None  # seconds to the last file accepted by relayd


def main() -> None:
    """Run once with relayd and once with smtp-source; print both."""
    load = _arguments()
    postfix.needed()
    print(f"{load.messages} messages of {load.size} octets, {load.domains} domains, {load.sites} sites")
    _report("relayd", load, relayd(load))
    _report("smtp-source", load, source(load))


def _arguments() -> Load:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=4096, help="octets of each message")
    parser.add_argument("--domains", type=int, default=1)
    parser.add_argument(
        "--sites", type=int, help="mail exchangers that the domains share; default: one for each domain"
    )
    parser.add_argument("--connections", type=int, default=20, help="at a time, in all")
    words = parser.parse_args()
    return Load(
        messages=words.messages,
        size=words.size,
        domains=words.domains,
        connections=words.connections,
        sites=words.sites or words.domains,
    )


def _report(name: str, load: Load, result: Result) -> None:
    print(
        f"{name:12} {load.messages / result.seconds:8.0f} messages/s {result.seconds:8.2f} s"
        f" {result.cpu:8.2f} s CPU ({result.cpu / load.messages * 1e6:.0f} us each) {result.peak / 2**20:6.0f} MiB peak"
    )
    if result.intake is not None:
        print(f"{'':12} first message after {result.first:.2f} s, last file taken in after {result.intake:.2f} s")


def relayd(load: Load) -> Result:
    """Fill a spool, start relayd, and time it to the sink's last message."""
    with tempfile.TemporaryDirectory(prefix="relayd-bench-", dir=_disk()) as scratch, _dns(load) as nameserver:
        spool, log = Path(scratch) / "spool", Path(scratch) / "log"
        fill(spool, load)
        os.sync()  # what was dropped is not relayd's to write
        with SmtpSink() as sink:
            config = _config(Path(scratch) / "config.toml", spool, sink.port, nameserver, load)
            return _timed([sys.executable, "-m", "relayd", "--config", str(config), "--once"], sink, load, log)


def source(load: Load) -> Result:
    """The limit: a C client that reads nothing from disk and writes nothing to it."""
    with SmtpSink() as sink, tempfile.NamedTemporaryFile() as log:
        options = ["-d", "-s", str(load.connections), "-m", str(load.messages), "-l", str(load.size)]
        words = [*options, "-f", "ann@example.org", "-t", "bob@example.net", f"127.0.0.1:{sink.port}"]
        return _timed([str(postfix.program("smtp-source")), *words], sink, load, Path(log.name))


def _timed(command: list[str], sink: SmtpSink, load: Load, log: Path) -> Result:
    """Run a client to its end; the time is to the last message."""
    with log.open("wb") as output:
        before, began = time.monotonic(), datetime.now(UTC)
        client = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(_root())})
    peak, first = 0, 0.0
    try:
        while (count := sink.messages) < load.messages and _runs(client) and time.monotonic() < before + PATIENCE:
            if count and not first:
                first = time.monotonic() - before
            peak = max(peak, _peak(client.pid))
            time.sleep(POLL)
    finally:
        seconds = time.monotonic() - before
        if sink.messages < load.messages and _runs(client):
            client.kill()
    _, status, usage = os.wait4(client.pid, 0)
    client.returncode = os.waitstatus_to_exitcode(status)
    if client.returncode != 0 or sink.messages != load.messages:
        what = f"{command[0]} ended with {client.returncode}, the sink has {sink.messages} of {load.messages} messages"
        sys.exit(f"{what}; the end of the log:\n{_end_of(log)}")
    intake = _last_accepted(log, began)
    return Result(seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, peak=peak, first=first, intake=intake)


def _last_accepted(log: Path, began: datetime) -> float | None:
    """Return how many seconds after `began` the last file was accepted, as relayd's log tells."""
    times = re.findall(rb"time=(\S+) \S+ event=accepted ", log.read_bytes())
    return (datetime.fromisoformat(times[-1].decode()) - began).total_seconds() if times else None


def _runs(client: subprocess.Popen[bytes]) -> bool:
    """Whether it has not ended, without reaping it: `wait4` is to tell what it used."""
    return os.waitid(os.P_PID, client.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _peak(pid: int) -> int:
    """Return the most octets that were resident; getrusage's figure has ours of before the exec in it."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="backslashreplace").splitlines()[-20:])


def _root() -> Path:
    return Path(__file__).parents[1]


def _disk() -> str | None:
    """A directory on a real disk: a spool in memory would not show what syncing costs."""
    return os.environ.get("RELAYD_BENCH_DIR")


def fill(spool: Path, load: Load) -> None:
    """Drop the messages as an application does, in tmp/ and then renamed into new/."""
    for name in ("tmp", "new", "cur"):
        (spool / name).mkdir(parents=True)
    for number in range(load.messages):
        domain = f"d{number % load.domains}.test"
        head = (
            f"X-Sender: <ann@example.org>\r\nX-Receiver: <r{number}@{domain}>\r\nFrom: ann@example.org\r\n"
            f"To: r{number}@{domain}\r\nSubject: {number}\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
            f"Message-ID: <{number}@example.org>\r\n\r\n"
        ).encode()
        text = LINE * ((load.size - len(head)) // len(LINE) + 1)
        path = spool / "tmp" / f"{number}.eml"
        path.write_bytes(head + text[: max(load.size - len(head) - 2, 0)] + b"\r\n")
        path.rename(spool / "new" / path.name)


def _config(path: Path, spool: Path, port: int, nameserver: str, load: Load) -> Path:
    settings: dict[str, dict[str, object]] = {
        "relay": {
            "hostname": "relay.example.org",
            "spool": str(spool),
            "port": port,
            "allow_loopback": True,
            "max_connections": load.connections,
        },
        "dns": {"nameservers": [nameserver]},
    }
    lines = (
        line
        for section, keys in settings.items()
        for line in (f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@contextlib.contextmanager
def _dns(load: Load) -> Iterator[str]:
    """Run a DNS server in a process of its own; yield its address."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs, load))
    server.start()
    try:
        yield ours.recv()
    finally:
        ours.send("done")
        server.join(10)
        server.kill()


def _serve(pipe: Connection, load: Load) -> None:
    async def serve() -> None:
        async with DnsServer() as dns:
            for number in range(load.domains):
                dns.mx(f"d{number}.test", (10, f"mx{number % load.sites}.test"))
            for number in range(load.sites):
                dns.a(f"mx{number}.test", "127.0.0.1")
            pipe.send(dns.address)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that nothing is left running
    main()
