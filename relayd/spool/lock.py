"""One daemon per spool: a flock on `<spool>/lock`.

The kernel drops it when its holders die, however that happens, so it proves that every older owner of a lease is dead.
Holders are the daemon and those of its children that inherit the descriptor: whoever may send mail.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from relayd.mail.errors import SpoolLocked


class Lock:
    """The lock, held.  The file names the holder's process for people; nothing is decided by that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self:
        """Take the lock without waiting.

        Raises:
            SpoolLocked: a daemon has it.
            OSError: the file cannot be opened.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise SpoolLocked(f"{path.parent}: process {holder or 'unknown'} has this spool") from None
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor)

    @property
    def descriptor(self) -> int:
        """For children that share the lock: it is held until the last of them has ended."""
        return self._descriptor

    def release(self) -> None:
        """Let go of our share.  The file stays, since removing it would let two have it."""
        os.close(self._descriptor)
