"""The daemon as a process: started from the command line, watched from outside, killed at will.

Readiness comes over a NOTIFY_SOCKET of our own (sd_notify(3)); an abstract one, so that it is also reached from
other mount namespaces and by other users.  Standard error is kept in memory, whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds that a loaded machine may need for anything


def write_config(path: Path, settings: Mapping[str, Any]) -> Path:
    """Write `settings` as TOML: tables one level deep, lists of tables as `[[name]]`, all else as JSON writes it."""
    lines: list[str] = []
    for table, content in settings.items():
        for entry in content if isinstance(content, list) else [content]:
            lines.append(f"[[{table}]]" if isinstance(content, list) else f"[{table}]")
            lines.extend(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in entry.items())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wait_until(claim: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> None:
    """Return as soon as `claim()` is true; AssertionError, with `what`, after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not claim():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.01)


class NotifySocket:
    """What a service manager listens on.  `states` has every assignment received, in order."""

    def __init__(self) -> None:
        self.name = f"\0relayd-test-{secrets.token_hex(8)}"
        self.states: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(self.name)
        self._socket.setblocking(False)

    @property
    def address(self) -> str:
        """The value of NOTIFY_SOCKET."""
        return "@" + self.name[1:]

    def received(self, state: str) -> bool:
        """Whether an assignment (`READY=1`, the beginning of `STATUS=`) has come."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.states.extend(self._socket.recv(65536).decode().splitlines())
        return any(have.startswith(state) for have in self.states)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


class Daemon:
    """`relayd --config FILE ARGUMENTS`, as a context manager that leaves no process behind.

    `user` runs it as another user (name; root only); `prefix` is put before the command, for a sandbox or strace.
    """

    def __init__(
        self,
        config: Path,
        *arguments: str,
        user: str | None = None,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [*prefix, sys.executable, "-m", "relayd", "--config", str(config), *arguments]
        self.user = user
        self.environment = dict(environment or {})
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()
        self.close()
        if isinstance(error, Exception):
            error.add_note(f"relayd (exit {self.process.returncode}) said:\n{self.log}")

    def start(self) -> None:
        """Start the process; see `ready`."""
        self.notify = NotifySocket()
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ | {"NOTIFY_SOCKET": self.notify.address, "PYTHONPATH": str(ROOT)} | self.environment,
            cwd="/",
            user=self.user,
            extra_groups=[] if self.user else None,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode(errors="backslashreplace").rstrip("\n"))

    @property
    def pid(self) -> int:
        """The process id; of the sandbox's `prefix` if that does not exec."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Standard error so far."""
        return "\n".join(self.lines)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def ready(self, timeout: float = PATIENCE) -> Self:
        """Wait for READY=1.

        Raises:
            AssertionError: it ended instead, or did not come up in time.
        """

        def up() -> bool:
            if self.notify.received("READY=1"):
                return True
            if not self.running:
                self._reader.join(PATIENCE)
                raise AssertionError(f"relayd ended with {self.process.returncode} before it was ready:\n{self.log}")
            return False

        wait_until(up, "READY=1", timeout=timeout)
        return self

    def logged(self, pattern: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until a line of the log matches, and return the match."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(match for line in list(self.lines) if (match := re.search(pattern, line)))
            return bool(found)

        wait_until(seen, f"a log line like {pattern!r}; there is:\n{self.log}", timeout=timeout)
        return found[0]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal if it still runs."""
        if self.running:
            self.process.send_signal(number)

    def reload(self) -> None:
        """SIGHUP."""
        self.signal(signal.SIGHUP)

    def terminate(self) -> None:
        """SIGTERM: finish what is in flight, then end."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, to its children as well, and reap it."""
        if self.running:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        code = self.process.wait(timeout)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> None:
        """Let go of the sockets and pipes of a process that has ended."""
        self._reader.join(PATIENCE)
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.notify.close()
