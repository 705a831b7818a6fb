"""relayd as a service manager keeps it: started, started again a second after it was killed, its log read to the end.

All of the log goes to a file, as evidence; what it says of ends and of possible duplicates goes to the ledger.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Self

from benchmarks.daemon import ROOT, Settings, toml
from benchmarks.processes import family
from benchmarks.soaking.ledger import Ledger
from benchmarks.soaking.priority import go_first

RESTART = 1.0  # seconds, as in systemd/relayd.service
STOP = 180.0  # seconds
READ = 1 << 18  # octets

_EVENT = re.compile(rb"event=([\w-]+)")
_STATUS = re.compile(rb" status=(\w+)")
_MARK = re.compile(rb"^.*(?:dup=possible|event=possible-duplicate).*$", re.MULTILINE)
_END = re.compile(rb" r=(r\d+)@\S+ status=(delivered|failed|removed) ")
_RECIPIENT = re.compile(rb" r=([rs]\d+)@")


class Keeper:
    """See the module.  `counts` are the events and the statuses of the log."""

    def __init__(self, directory: Path, tables: Settings, ledger: Ledger) -> None:
        self.config = directory / "config.toml"
        self.write(tables)
        self.counts: Counter[str] = Counter()
        self._ledger = ledger
        self._log = (directory / "log").open("ab", buffering=0)
        self._reader: threading.Thread | None = None
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._log.close()

    def write(self, tables: Settings) -> None:
        """Replace the configuration, as an editor would."""
        new = self.config.with_suffix(".new")
        new.write_text(toml(tables), encoding="utf-8")
        new.rename(self.config)

    def start(self) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "relayd", "--config", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self.environment,
            start_new_session=True,
        )
        self.pid = self._process.pid
        go_first(self.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def check(self) -> None:
        """End the program if relayd has ended by itself."""
        if (code := self._process.poll()) is not None:
            sys.exit(f"relayd ended with {code}")

    def kill(self) -> None:
        """Kill it as the kernel would, and wait for its end.  Its workers end by themselves."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Stop it in order; return its exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start it again, as a service manager does."""
        time.sleep(RESTART)
        self.start()

    def reload(self) -> None:
        """Have it read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def kill_worker(self) -> None:
        """Kill a worker, if one runs."""
        for pid in self.workers():
            os.kill(pid, signal.SIGKILL)

    def workers(self) -> list[int]:
        """Return the processes below it."""
        return [pid for pid in family(self.pid) if pid != self.pid]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of relayd's commands."""
        line = [sys.executable, "-m", "relayd", "--config", str(self.config), *words]
        return subprocess.run(line, env=self.environment, capture_output=True, text=True, timeout=STOP, check=False)

    def _end(self, number: signal.Signals) -> int:
        self._process.send_signal(number)
        code = self._process.wait(STOP)
        if self._reader:
            self._reader.join(STOP)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        left = b""
        with self._process.stderr as pipe:
            while octets := os.read(pipe.fileno(), READ):
                self._log.write(octets)
                whole, newline, left = (left + octets).rpartition(b"\n")
                self._take(whole + newline)

    def _take(self, lines: bytes) -> None:
        self.counts.update(name.decode() for name in _EVENT.findall(lines))
        self.counts.update(f"status={name.decode()}" for name in _STATUS.findall(lines))
        for recipient, status in _END.findall(lines):
            self._ledger.end(recipient.decode(), status.decode())
        for line in _MARK.findall(lines):
            if found := _RECIPIENT.search(line):
                self._ledger.mark(found[1].decode())
