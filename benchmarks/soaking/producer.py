"""Drops the messages of a plan by a schedule, in a process of its own, whether or not relayd keeps up."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from benchmarks.soaking.plan import Plan

TICK = 0.02  # seconds between two batches


def produce(pipe: Connection, plan: Plan, spool: Path, rate: float, messages: int, dropped: Synchronized[int]) -> None:
    """Wait for a word, then drop; at the end say by how many seconds that was late at most."""
    pipe.send("ready")
    began, late, done, tick = pipe.recv(), 0.0, 0, 0
    while done < messages:
        tick += 1
        batch = range(done, min(round(tick * TICK * rate), messages))
        for message in batch:
            _write(f"{spool}/tmp/{message}.eml", plan.file(message))
        early = began + tick * TICK - time.monotonic()
        time.sleep(max(early, 0))
        late = max(late, -early)
        for message in batch:
            os.rename(f"{spool}/tmp/{message}.eml", f"{spool}/new/{message}.eml")
        done += len(batch)
        dropped.value = done
    pipe.send(late)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)
