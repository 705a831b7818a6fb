"""What runs beside a soak in processes of its own, and the pipe by which the sinks tell what they took."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from benchmarks.soaking.ledger import Ledger
from benchmarks.soaking.shared import NOTE

READ = 4096 * NOTE.size


@contextmanager
def beside(target: Callable[..., None], *words: object) -> Iterator[Connection]:
    """Run something in a process of its own; yield the pipe that it got as its first argument."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=target, args=(theirs, *words), daemon=True)
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


@contextmanager
def noting(notes: int, ledger: Ledger) -> Iterator[None]:
    """Enter what comes through a pipe into the ledger, until the last process that has its other end is gone."""
    thread = threading.Thread(target=_read, args=(notes, ledger), daemon=True)
    thread.start()
    yield


def _read(notes: int, ledger: Ledger) -> None:
    left = b""
    while octets := os.read(notes, READ):
        left += octets
        whole = len(left) // NOTE.size * NOTE.size
        for kind, number in NOTE.iter_unpack(left[:whole]):
            ledger.note(kind, number)
        left = left[whole:]
