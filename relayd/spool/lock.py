"""One daemon per spool: a flock on `<spool>/lock`.

The kernel drops it when its holders die, however that happens, so it proves that every older owner of a lease is dead.
Holders are the daemon and those of its children that inherit the descriptor: whoever may send mail.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from relayd.mail.errors import SpoolLocked

INSTANT = 0.05  # seconds; whoever only looks has let go again after it


class Lock:
    """The lock, held.  The file names the holder's process for people; nothing is decided by that.

    `last_held` is when somebody had it before, to the minute, None if nobody ever had.
    """

    def __init__(self, descriptor: int, last_held: datetime | None) -> None:
        self._descriptor = descriptor
        self.last_held = last_held

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock without waiting.

        Raises:
            SpoolLocked: a daemon has it.
            OSError: the file cannot be opened.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _lock(descriptor)
            found = os.fstat(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            told = _told(descriptor)
            os.close(descriptor)
            raise SpoolLocked(f"{path.parent}: process {told} has this spool") from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, datetime.fromtimestamp(found.st_mtime, UTC) if found.st_size else None)

    @property
    def descriptor(self) -> int:
        """For children that share the lock: it is held until the last of them has ended."""
        return self._descriptor

    def touch(self) -> None:
        """Let the file tell that somebody had the spool now; where that cannot be written it does not matter."""
        with suppress(OSError):
            os.utime(self._descriptor)

    def release(self) -> None:
        """Let go of our share.  The file stays, since removing it would let two have it."""
        os.close(self._descriptor)


def holder(path: Path) -> str | None:
    """Return which process has the lock, as its file names it; None if none has.

    To know it, the lock is shared for an instant.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _told(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # by a daemon, or by somebody who looks for one
        time.sleep(INSTANT)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _told(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
