"""Postfix's test programs, the yardstick of every benchmark here: smtp-sink takes mail, smtp-source sends it.

Both are in C, read nothing from disk and write nothing to it.  smtp-sink offers PIPELINING, but no CHUNKING and no
SIZE.  smtp-source speaks in lock-step; with `-d` it keeps its connections.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relayd.relay.plans import Plan

BACKLOG = 1000
COUNTER = 100  # octets at the end of the counter that hold its last line
TICKS = os.sysconf("SC_CLK_TCK")  # of a second: the unit of /proc/PID/stat


def program(name: str) -> str | None:
    """Return where a program of Postfix is."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")


def needed() -> None:
    """End with a word of what to install if the programs are not there."""
    for name in ("smtp-sink", "smtp-source"):
        if program(name) is None:
            sys.exit(f"{name} is not installed: it comes with Postfix")


class SmtpSink:
    """smtp-sink with its running counter, which costs it one small write for each message."""

    name = "smtp-sink"
    plan = Plan.PIPELINED

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._address = address

    def __enter__(self) -> Self:
        self.port = free_port(self._address)
        self._counter = tempfile.TemporaryFile()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        words = [*user, "-c", "-m", "1000", f"{self._address}:{self.port}", str(BACKLOG)]
        self._process = subprocess.Popen(
            [str(program("smtp-sink")), *words], stdout=self._counter, stderr=self._counter
        )
        wait_for(self.port, self._address)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._counter.close()

    @property
    def messages(self) -> int:
        """How many it has taken."""
        size = os.fstat(self._counter.fileno()).st_size
        tail = os.pread(self._counter.fileno(), COUNTER, max(size - COUNTER, 0))
        found = re.findall(rb"mesg=(\d+)[\r\n]", tail)
        return int(found[-1]) if found else 0

    @property
    def cpu(self) -> float:
        """Seconds, user and system, that it has used, to a hundredth."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What smtp-source took, in seconds."""

    seconds: float
    user: float
    system: float


def source(
    port: int, *, messages: int, size: int, connections: int, keep: bool = True, address: str = "127.0.0.1"
) -> Sent:
    """Send with smtp-source, `connections` at a time, one message on each unless they are to be kept."""
    words = ["-s", str(connections), "-m", str(messages), "-l", str(size)]
    words += ["-d"] if keep else []
    words += ["-f", "ann@example.org", "-t", "bob@example.net", f"{address}:{port}"]
    began = time.monotonic()
    client = subprocess.Popen([str(program("smtp-source")), *words])
    _, status, usage = os.wait4(client.pid, 0)
    seconds = time.monotonic() - began
    client.returncode = os.waitstatus_to_exitcode(status)
    if client.returncode:
        sys.exit(f"smtp-source ended with {client.returncode}")
    return Sent(seconds=seconds, user=usage.ru_utime, system=usage.ru_stime)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port of an address of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, address: str = "127.0.0.1") -> None:
    """Wait until somebody listens, at most ten seconds."""
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection((address, port), timeout=1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
