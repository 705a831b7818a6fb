"""Files that stay where they are, each told of once.

`leave` and `forget` belong to the thread that takes files; `files` may be asked for by any.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from relayd.mail.events import Events, FileLeft
from relayd.submission.settling import Identity, identity_of

MAX_LEFT = 10_000  # remembered; of more than these nothing is told


class Left:
    """What was left, by identity.  A regular file whose ctime has changed (chmod) is told of again."""

    def __init__(self, tell: Events) -> None:
        self._tell = tell
        self._files: dict[Identity, tuple[int, FileLeft]] = {}
        self._seen: set[Identity] = set()
        self._rests: dict[Identity, tuple[int, float]] = {}  # ctime in ns, until when

    @property
    def files(self) -> tuple[FileLeft, ...]:
        """The files that are left now, for `doctor`."""
        return tuple(event for _, event in list(self._files.values()))

    def leave(self, path: Path, status: os.stat_result, reason: str) -> bool:
        """Remember that a file is left, and tell so if that is news; whether it was."""
        identity = identity_of(status)
        changed = status.st_ctime_ns if stat.S_ISREG(status.st_mode) else 0
        known = self._files.get(identity)
        if (known is not None and known[0] == changed) or (known is None and len(self._files) >= MAX_LEFT):
            return False
        self._seen.add(identity)
        event = FileLeft(file=path.name, reason=reason)
        self._files[identity] = (changed, event)
        self._tell(event)
        return True

    def still_there(self, identity: Identity) -> None:
        """The scan has seen that file, whatever becomes of it."""
        if identity in self._files:
            self._seen.add(identity)

    def rest(self, status: os.stat_result, until: float) -> None:
        """Do not try a file that is left before `until`, unless it changes."""
        if identity_of(status) in self._files:
            self._rests[identity_of(status)] = (status.st_ctime_ns, until)

    def is_resting(self, status: os.stat_result, now: float) -> bool:
        """Whether that file is not to be tried yet."""
        ctime, until = self._rests.get(identity_of(status), (0, now))
        return now < until and ctime == status.st_ctime_ns

    def is_unchanged(self, status: os.stat_result) -> bool:
        """Whether that file was left and has not changed since."""
        known = self._files.get(identity_of(status))
        return known is not None and known[0] == status.st_ctime_ns

    def forget(self, identity: Identity) -> None:
        """It is not left any more."""
        self._files.pop(identity, None)
        self._rests.pop(identity, None)

    def begin_scan(self) -> None:
        """A scan of the whole directory begins."""
        self._seen.clear()

    def forget_unseen(self) -> None:
        """The scan is complete: what it has not seen is gone."""
        for identity in self._files.keys() - self._seen:
            self.forget(identity)
