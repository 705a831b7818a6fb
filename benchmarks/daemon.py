"""relayd as a process: with a configuration of ours, from its exec to its end, watched from outside.

What is relied on: `python -m relayd --config FILE`, READY=1 to NOTIFY_SOCKET before it relays, and a stop by SIGTERM
that ends with 0 after what is in flight.  Worker processes that it starts are counted with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Self

from benchmarks import processes

Settings = Mapping[str, Mapping[str, object]]

ROOT = Path(__file__).parents[1]
PATIENCE = 120.0  # seconds for a start or a stop
SHOWN = 20  # lines of a log, when it went wrong
LONGEST = 4096  # octets of a notification


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A daemon that ended in order.  `cpu` is in seconds, of all its processes: in all, and since READY."""

    cpu: float
    cpu_since_ready: float


def settings(spool: Path, port: int, nameserver: str, *, processes: int | None = None, **relay: object) -> Settings:
    """Return what a benchmark has to set: mail exchangers on loopback at `port`.  `relay` are more keys of [relay]."""
    always: dict[str, object] = {
        "hostname": "relay.example.org",
        "spool": str(spool),
        "port": port,
        "allow_loopback": True,
    }
    chosen: dict[str, object] = {} if processes is None else {"processes": processes}
    return {"relay": {**always, **chosen, **relay}, "dns": {"nameservers": [nameserver]}}


def toml(tables: Settings) -> str:
    """Return settings as a configuration file."""
    lines = (
        line
        for name, keys in tables.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()))
    )
    return "\n".join(lines) + "\n"


class Daemon:
    """See the module.  It runs for the time of a `with` at the most; `began` is when it was started, `ready_at` when it
    said READY, both in seconds of CLOCK_MONOTONIC."""

    def __init__(self, directory: Path, tables: Settings) -> None:
        """`directory` is for its configuration and its log."""
        self._directory = directory
        self._tables = tables
        self._is_ready = threading.Event()
        self.ready_at = 0.0
        self.cpu_at_ready = 0.0
        self.peak = 0  # octets resident of the process that was started, as of its end

    def __enter__(self) -> Self:
        directory = self._directory
        directory.mkdir(exist_ok=True)
        config, self.log = directory / "config.toml", directory / "log"
        config.write_text(toml(self._tables), encoding="utf-8")
        self._notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._notices.bind(f"\0relayd-bench-{os.getpid()}-{id(self)}")
        name = "@" + self._notices.getsockname()[1:].decode()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        with self.log.open("wb") as output:
            self.began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "relayd", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"NOTIFY_SOCKET": name, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(self.pid, signal.SIGKILL)
        if self._process.returncode is None:
            self._process.wait()
        self._notices.shutdown(socket.SHUT_RDWR)
        self._listener.join()
        self._notices.close()

    def wait_ready(self) -> Self:
        """Wait until it is ready."""
        end = time.monotonic() + PATIENCE
        while not self._is_ready.wait(0.1):
            if not self.runs or time.monotonic() > end:
                self.give_up("was not ready")
        return self

    @property
    def runs(self) -> bool:
        """Whether it has not ended, without reaping it: `stop` is to tell what it used."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def stop(self) -> Ended:
        """Tell it to stop, and wait for its end; a bad one ends the program."""
        self.peak = peak(self.pid)
        if self.runs:
            self._process.send_signal(signal.SIGTERM)
        with _deadline(self._process):
            _, status, usage = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            self.give_up(f"ended with {self._process.returncode}")
        cpu = usage.ru_utime + usage.ru_stime
        return Ended(cpu=cpu, cpu_since_ready=cpu - self.cpu_at_ready)

    def give_up(self, why: str) -> NoReturn:
        """End the program with the end of the log."""
        lines = self.log.read_text(errors="backslashreplace").splitlines()[-SHOWN:]
        sys.exit(f"relayd {why}; the end of its log:\n" + "\n".join(lines))

    def _listen(self) -> None:
        while words := self._notices.recv(LONGEST):
            if b"READY=1" in words and not self._is_ready.is_set():
                self.ready_at = time.monotonic()
                self.cpu_at_ready = processes.cpu(self.pid)
                self._is_ready.set()


def peak(pid: int) -> int:
    """Return the most octets that were ever resident of a process that runs (VmHWM); getrusage's figure has ours of
    before the exec in it."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


@contextmanager
def _deadline(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill a process that has not ended in time."""
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
