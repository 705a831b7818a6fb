"""Daemons that start in a tenth of the time: one process imports all of relayd, and is forked for each of them.

What a forked daemon does is what `python -m relayd` does once it has imported its modules; its environment, working
directory, session and standard error are its own.  The mother has one thread and nothing open but its socket, so
nothing of an earlier daemon is in a later one.  A nursery has one daemon at a time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from tests.support.process import ROOT, NotifySocket, wait_until

PATIENCE = 120.0  # seconds that a machine may need for anything that is busy with more than one sweep


class Daemon:
    """`relayd --config FILE ARGUMENTS`, forked; see `Nursery.daemon`."""

    def __init__(self, nursery: Nursery, config: Path, arguments: Sequence[str], log: Path) -> None:
        self.notify = NotifySocket()
        self._nursery = nursery
        self._log = log
        self._exit: int | None = None
        environment = {"NOTIFY_SOCKET": self.notify.address}
        words = ["--config", str(config), *arguments]
        nursery.ask({"arguments": words, "environment": environment, "log": str(log)})
        self.pid = int(nursery.answer(PATIENCE)["pid"])

    @property
    def log(self) -> str:
        """Standard error so far."""
        return self._log.read_text(errors="backslashreplace") if self._log.exists() else ""

    @property
    def lines(self) -> list[str]:
        """Its whole lines."""
        return self.log.split("\n")[:-1]

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        if self._exit is None and self._nursery.told():
            self._exit = int(self._nursery.answer(PATIENCE)["exit"])
        return self._exit is None

    def ready(self) -> Self:
        """Wait for READY=1; AssertionError if it ended instead."""
        wait_until(lambda: self.notify.received("READY=1") or not self.running, "READY=1", timeout=PATIENCE)
        assert self.notify.received("READY=1"), f"relayd ended with {self._exit} before it was ready:\n{self.log}"
        return self

    def terminate(self) -> None:
        """SIGTERM, if it still runs."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and its workers, if it still runs; see its end."""
        self._signal(signal.SIGKILL)
        self.wait()

    def _signal(self, number: signal.Signals) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return the exit code, negative for a signal."""
        wait_until(lambda: not self.running, f"the end of relayd; it said:\n{self.log}", timeout=timeout)
        assert self._exit is not None
        return self._exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()
        self.notify.close()
        if isinstance(error, Exception):
            error.add_note(f"relayd (exit {self._exit}) said:\n{self.log}")


class Nursery:
    """See the module; a context manager."""

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            self._mother = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                cwd="/",
            )
        self._socket = ours
        self._lines = ours.makefile("r")
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()
        self._mother.wait(PATIENCE)

    def daemon(self, config: Path, *arguments: str, log: Path) -> Daemon:
        """Start a daemon whose standard error is added to the file `log`; the one before must have ended."""
        return Daemon(self, config, arguments, log)

    def ask(self, request: Mapping[str, Any]) -> None:
        """Say a line to the mother."""
        self._socket.settimeout(None)
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def told(self) -> bool:
        """Whether the mother has said something."""
        self._socket.settimeout(0)
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def answer(self, timeout: float) -> Any:
        """Return the next line that the mother says."""
        self._socket.settimeout(timeout)
        return json.loads(self._lines.readline())


def _mother(channel: socket.socket) -> None:
    """Fork a daemon for each line that comes; say its process id, then how it ended."""
    gc.freeze()
    with channel.makefile("r") as lines, channel.makefile("w") as answers:
        while line := lines.readline():
            request = json.loads(line)
            child = os.fork()
            if child == 0:
                _become(request, [channel.fileno()])
            _say(answers, {"pid": child})
            _, status = os.waitpid(child, 0)
            _say(answers, {"exit": os.waitstatus_to_exitcode(status)})


def _say(answers: IO[str], what: Mapping[str, int]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _become(request: Mapping[str, Any], close: Sequence[int]) -> None:
    """Be relayd, and end as it does."""
    from relayd.__main__ import run

    code = 70
    try:
        os.setsid()
        for descriptor in close:
            os.close(descriptor)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for target, source in ((0, os.open(os.devnull, os.O_RDWR)), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(request["environment"])
        code = run(request["arguments"])
    finally:
        os._exit(code)


if __name__ == "__main__":
    import relayd.__main__
    import relayd.daemon  # noqa: F401

    _mother(socket.socket(fileno=int(sys.argv[1])))
