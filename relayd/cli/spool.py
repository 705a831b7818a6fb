"""The spool as the commands use it: beside the daemon, if one runs."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from relayd.config import load
from relayd.mail.errors import QueueError
from relayd.ownership import act_as_owner
from relayd.sections import Config
from relayd.spool.sqlite import SqliteQueue


@dataclass(frozen=True)
class SpoolBeside:
    """The spool of a configuration, which is read by the commands that need it, not for their `--help`."""

    config_path: Path

    @cached_property
    def config(self) -> Config:
        """The configuration; ConfigError if it has mistakes.  Root, who can read it, acts as the spool's owner then."""
        config = load(self.config_path, unit=False)
        act_as_owner(config.spool)
        return config

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.config.spool

    @property
    def control(self) -> Path:
        """The daemon's socket."""
        return self.path / "control"

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[SqliteQueue]:
        """Open the queue beside the daemon, if one runs."""
        database = self.path / "queue.db"
        if not database.exists():
            raise QueueError(f"there is no queue at {self.path}: has relayd run there?")
        if not os.access(database, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, "only root and relayd's own user may use it", str(database))
        queue = await SqliteQueue.open(database, owner=None)
        try:
            yield queue
        finally:
            await queue.close()


@contextmanager
def printing() -> Iterator[None]:
    """Let who reads our output have enough of it, as head(1) does."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
