"""How long the event loop of a daemon is kept from its work, seen from outside, by its control socket.

Every 20 ms a process of its own connects to `<spool>/control`, says a word that the daemon does not know, and waits for
the end of the connection: the loop has to turn three times for that, and nothing else is done for it.  The longest wait
is thus an upper bound of the longest stall since there was a socket.  The prober's own lateness, which is the machine's
share, stands beside: by how much it woke after its time, at most.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

INTERVAL = 0.020  # seconds between two words
WORD = b"?\n"
PATIENCE = 30.0  # seconds for an answer


@dataclass(slots=True)
class Probed:
    """What was seen, in seconds; `answers` is how many there were."""

    answers: int = 0
    longest: float = 0.0
    late: float = 0.0


class Prober:
    """Probes the daemon of a spool, for the time of a `with`; then `probed` is what it saw."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self.probed = Probed()

    def __enter__(self) -> Self:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_probe, args=(theirs, self._spool), daemon=True
        )
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send("enough")
        if self._pipe.poll(PATIENCE):
            self.probed = self._pipe.recv()
        self._process.kill()
        self._process.join()


def _probe(pipe: Connection, spool: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is killed with the others
    os.chdir(spool)  # the kernel takes 107 octets for the name of a socket
    probed, due = Probed(), time.monotonic()
    while not pipe.poll(max(due - time.monotonic(), 0)):
        began = time.monotonic()
        probed.late = max(probed.late, began - due)
        if _answered():
            probed.answers += 1
            probed.longest = max(probed.longest, time.monotonic() - began)
        due = max(due + INTERVAL, time.monotonic())
    pipe.send(probed)


def _answered() -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        try:
            connection.connect("control")
            connection.sendall(WORD)
            return connection.recv(1) == b""
        except TimeoutError:
            return True  # as long as patience lasts
        except OSError:  # not there yet, or not any more
            return False
