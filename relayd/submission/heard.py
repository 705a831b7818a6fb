"""What the kernel told of the names in the drop directory.

Written by the event loop, read by the thread that takes files: each method holds the lock for a moment.  Bounded:
what does not fit is forgotten, and the next scan finds it.

    complete   its writer closed it, or it was renamed into place: it may be taken without waiting
    writing    it was created and opened while we watched, and not closed since: it may not
"""

from __future__ import annotations

import threading
from enum import Enum, auto
from pathlib import Path

MAX_NAMES = 20_000


class Change(Enum):
    """What happened to a name."""

    CREATED = auto()  # by open, link, mkfifo, ...
    OPENED = auto()
    CLOSED_UNWRITTEN = auto()
    COMPLETED = auto()  # closed by a writer, or renamed into place


class Heard:
    """The names that something was heard of.  Invariant: no name is both complete and writing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._complete: dict[Path, None] = {}
        self._created: set[Path] = set()
        self._writing: set[Path] = set()
        self._ours: set[Path] = set()

    def note(self, path: Path, change: Change) -> bool:
        """Record an event, in the order in which they came; whether there may be something to take."""
        with self._lock:
            if change is Change.COMPLETED and path in self._ours:
                self._ours.discard(path)
                return False
            match change:
                case Change.CREATED:
                    self._forget(path)
                    if len(self._created) < MAX_NAMES:
                        self._created.add(path)
                case Change.OPENED if path in self._created and path not in self._complete:
                    self._writing.add(path)
                case Change.CLOSED_UNWRITTEN:
                    # A hard link is created without being opened: whoever opened it was a reader.
                    self._writing.discard(path)
                case Change.COMPLETED:
                    self._forget(path)
                    if len(self._complete) < MAX_NAMES:
                        self._complete[path] = None
                case _:
                    pass
            return change in (Change.CREATED, Change.COMPLETED)

    def expect_ours(self, path: Path) -> None:
        """We are about to rename a file back to that path: that is no news, or a file that fails would come back
        at once, for ever."""
        with self._lock:
            if len(self._ours) < MAX_NAMES:
                self._ours.add(path)

    def doubt(self) -> None:
        """Forget everything: events were lost."""
        with self._lock:
            self._complete.clear()
            self._created.clear()
            self._writing.clear()
            self._ours.clear()

    def next_complete(self) -> Path | None:
        """Return the longest known complete name, once."""
        with self._lock:
            path = next(iter(self._complete), None)
            if path is not None:
                del self._complete[path]
            return path

    def is_writing(self, path: Path) -> bool:
        """Whether its creator has not closed it yet."""
        with self._lock:
            return path in self._writing

    def forget(self, path: Path) -> None:
        """The file of that name is gone."""
        with self._lock:
            self._forget(path)

    def __len__(self) -> int:
        return len(self._complete)

    def _forget(self, path: Path) -> None:
        self._complete.pop(path, None)
        self._created.discard(path)
        self._writing.discard(path)
