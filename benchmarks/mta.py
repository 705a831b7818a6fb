"""Postfix to compare with: a private instance on loopback, with Debian's defaults, whose queue is filled beforehand.

Configuration, queue and data are in a directory of ours; the system's own Postfix is never touched.  It is filled by
SMTP while its queue manager, which alone gives mail to deliver, is not in master.cf: messages stay where arriving ones
are, in incoming/, durable.  `release` puts the queue manager there and lets the master, which runs, read that.  So
nothing of an arrival is in what is timed, and no process has to be started but those that deliver.

What is not Debian's default: names and directories, no chroot, one address to listen on, the exchangers' port, IPv4
alone; while it is filled, no wait for the queue manager (`in_flow_delay`).  It logs to a file, as relayd does here,
unless `maillog_file` is given as empty: then to syslog, which costs it less where nobody listens.

Mail goes by MX: Postfix asks the resolver of the C library, so it runs in a mount namespace with an /etc/resolv.conf
of ours, which points to a DNS server on loopback.  Root is needed for that, as for Postfix itself.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks import postfix
from benchmarks.load import SENDER, Load
from benchmarks.sink import Player

DAEMONS = Path("/usr/lib/postfix/sbin")
ADDRESS = "127.0.0.1"  # has to be an interface's
SINK = "127.0.0.2"  # for mail exchangers: it takes mail for its own address as a loop
NAMESERVER = "127.0.0.153"  # the C library asks on port 53 alone
DNS_PORT = 53
PATIENCE = 30.0  # seconds for a start or a stop
FILLING = 600.0  # seconds
COOL = 60.0  # seconds
FILLERS = 20  # connections
QUEUES = ("incoming", "active", "deferred", "maildrop", "hold", "corrupt")


def needed() -> None:
    """End with a word of what is missing."""
    postfix.needed()
    if not (DAEMONS / "master").exists():
        sys.exit("Postfix is not installed: apt-get install postfix")
    if os.geteuid() != 0:
        sys.exit("Postfix runs as root only")


class Postfix:
    """See the module.  It runs for the time of a `with`."""

    def __init__(self, directory: Path, sink: int, options: Mapping[str, str] | None = None) -> None:
        """`sink` is the port of the mail exchangers; `options` are more parameters of main.cf."""
        self._directory = directory
        self._sink = sink
        self._options = dict(options or {})
        self._port = postfix.free_port()
        self._etc, self._queue = directory / "etc", directory / "queue"

    def __enter__(self) -> Self:
        self._make_directories()
        self._configure(filling=True)
        (self._directory / "resolv.conf").write_text(f"nameserver {NAMESERVER}\n")
        subprocess.run([str(postfix.program("postfix")), "-c", str(self._etc), "check"], check=True, timeout=PATIENCE)
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        words = ["unshare", "--mount", "sh", "-c", script, "sh", str(self._directory / "resolv.conf")]
        with (self._directory / "output").open("wb") as output:
            self._master = subprocess.Popen(
                [*words, str(DAEMONS / "master"), "-c", str(self._etc), "-d"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        self.pid = self._master.pid
        try:
            postfix.wait_for(self._port)
        except OSError:
            self._end()
            sys.exit(f"Postfix does not listen:\n{self.log}")
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def fill(self, load: Load) -> None:
        """Put a load into its queue."""
        asyncio.run(_send(self._port, load))
        if self.waiting != load.messages:
            sys.exit(f"Postfix's queue has {self.waiting} of {load.messages} messages:\n{self.log}")

    def release(self) -> float:
        """Let it deliver; return when, in seconds of CLOCK_MONOTONIC."""
        self._configure(filling=False)
        at = time.monotonic()
        self._master.send_signal(signal.SIGHUP)
        return at

    @property
    def waiting(self) -> int:
        """How many messages are in its queue."""
        return sum(len(files) for name in QUEUES for _, _, files in os.walk(self._queue / name))

    @property
    def log(self) -> str:
        """The end of what it has to say."""
        files = (self._directory / "output", self._directory / "log")
        text = "\n".join(path.read_text(errors="backslashreplace") for path in files if path.exists())
        return "\n".join(text.splitlines()[-20:])

    def _make_directories(self) -> None:
        self._etc.mkdir(parents=True)
        for path, owner in ((self._queue, "root"), (self._directory / "data", "postfix")):
            path.mkdir(mode=0o755)
            shutil.chown(path, owner)

    def _configure(self, *, filling: bool) -> None:
        parameters = {
            "compatibility_level": "3.6",
            "queue_directory": str(self._queue),
            "data_directory": str(self._directory / "data"),
            "daemon_directory": str(DAEMONS),
            "maillog_file": str(self._directory / "log"),
            "maillog_file_prefixes": str(self._directory),
            "myhostname": "postfix.example.org",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": ADDRESS,
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "smtp_tcp_port": str(self._sink),
            **({"in_flow_delay": "0"} if filling else {}),
            **self._options,
        }
        main = "".join(f"{key} = {value}\n" for key, value in parameters.items())
        services = _MASTER.replace("LISTEN", f"{ADDRESS}:{self._port}") + ("" if filling else _QUEUE_MANAGER)
        for name, text in (("main.cf", main), ("master.cf", services)):
            path = self._etc / name
            path.write_text(text, encoding="utf-8")
            os.utime(path, (time.time() - COOL,) * 2)  # it waits for what was changed just now to "cool down"

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._master.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._master.wait(PATIENCE)


async def _send(port: int, load: Load) -> None:
    """Send a load by SMTP, over a few connections that are kept."""
    loop = asyncio.get_running_loop()
    ends = []
    async with asyncio.timeout(FILLING):
        for offset in range(min(FILLERS, load.messages)):
            done: asyncio.Future[None] = loop.create_future()
            flights = _flights(load, load.numbers[offset::FILLERS])
            await loop.create_connection(lambda flights=flights, done=done: Player(flights, done), ADDRESS, port)  # type: ignore[misc]
            ends.append(done)
        await asyncio.gather(*ends)


def _flights(load: Load, numbers: Sequence[int]) -> Iterator[tuple[bytes, int]]:
    """Yield what is sent at a time, and how many replies it gets."""
    text = load.content + b".\r\n"
    yield b"HELO bench.test\r\n", 1
    for number in numbers:
        yield f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{load.recipient(number)}>\r\nDATA\r\n".encode(), 3
        yield text, 1


_MASTER = """LISTEN inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""
_QUEUE_MANAGER = "qmgr unix n - n 300 1 qmgr\n"
