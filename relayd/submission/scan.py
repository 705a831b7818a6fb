"""Going through the drop directory a few names at a time.

A directory of 200,000 names is read as the calls come; between them only the directory stream is kept.  Names that
appear while it is being read are found by the next scan at the latest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_LEFT_ALONE = (".tmp", ".part", "~")


def is_candidate(name: str) -> bool:
    """Whether a name in `new/` is to be taken: writers use the others for what is not complete."""
    return not name.startswith(".") and not name.endswith(_LEFT_ALONE)


def is_root_candidate(name: str) -> bool:
    """Whether a name in the spool directory itself is to be taken: the others there are relayd's own."""
    return name.endswith(".eml") and not name.startswith(".")


class Scan:
    """One pass over `new/` and the spool directory.  `errors` are the directories that could not be read."""

    def __init__(self, spool: Path) -> None:
        self.finished = False
        self.errors: list[OSError] = []
        self._todo = [(spool, is_root_candidate), (spool / "new", is_candidate)]
        self._entries: os._ScandirIterator[str] | None = None

    def paths(self, budget: int) -> Iterator[Path]:
        """Yield candidates, reading at most `budget` names; sets `finished` at the end of the last directory."""
        while budget > 0 and self._todo:
            directory, wanted = self._todo[-1]
            try:
                if self._entries is None:
                    self._entries = os.scandir(directory)
                entry = next(self._entries, None)
            except OSError as error:
                self.errors.append(error)
                entry = None
            if entry is None:
                self.close()
                self._todo.pop()
                continue
            budget -= 1
            if wanted(entry.name):
                yield directory / entry.name
        self.finished = not self._todo

    def close(self) -> None:
        """Close the directory that is being read."""
        if self._entries is not None:
            self._entries.close()
            self._entries = None
