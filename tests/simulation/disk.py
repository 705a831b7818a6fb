"""What outlives a daemon: the files of its spool, the tables of its queue, its notes.

A kill leaves all that was done.  A power cut leaves what was synced, and of the rest the first part: names in the order
in which they changed, as a file system with a journal keeps them; of contents that were not synced perhaps the half.
The notes, which nobody syncs, are gone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.reading import tables_of
from tests.simulation.tables import Tables

SPOOL = "/spool"
NEW = f"{SPOOL}/new"
INCOMING = f"{SPOOL}/queue/incoming"
REJECTED = f"{SPOOL}/rejected"


@dataclass(slots=True, eq=False)
class File:
    """A file, whatever its name is.  `foreign`: its owner is not ours."""

    content: bytes
    identity: tuple[int, int]
    durable: bool = True  # its content is on the disk
    foreign: bool = False


_Change = tuple[int, str, File | None]  # which one it was, the name, and what was there before


class Files:
    """The files, by directory."""

    def __init__(self) -> None:
        self.directories: dict[str, dict[str, File]] = {}
        self._unsynced: dict[str, list[_Change]] = {}
        self._undurable: set[File] = set()
        self._numbers = itertools.count()

    def names(self, directory: str) -> Collection[str]:
        """Return the names in a directory, in the order in which they came."""
        return self.directories.get(directory, {}).keys()

    def find(self, path: str) -> File | None:
        """Return a file, None if there is none."""
        directory, _, name = path.rpartition("/")
        return self.directories.get(directory, {}).get(name)

    def read(self, path: str) -> bytes:
        """Return what is in a file.

        Raises:
            FileNotFoundError: there is none.
        """
        file = self.find(path)
        if file is None:
            raise FileNotFoundError(path)
        return file.content

    def write(self, path: str, content: bytes, *, durable: bool = False, foreign: bool = False) -> None:
        """Write a new file; one that is there is replaced."""
        number = next(self._numbers)
        file = File(content, (1, number), durable=durable, foreign=foreign)
        if not durable:
            self._undurable.add(file)
        self._put(number, path, file)

    def rename(self, source: str, target: str) -> None:
        """Give a file another name.

        Raises:
            FileNotFoundError: there is none.
        """
        file = self.find(source)
        if file is None:
            raise FileNotFoundError(source)
        number = next(self._numbers)
        self._put(number, source, None)
        self._put(number, target, file)

    def unlink(self, path: str) -> None:
        """Remove a name, if it is there."""
        if self.find(path) is not None:
            self._put(next(self._numbers), path, None)

    def _put(self, number: int, path: str, file: File | None) -> None:
        directory, _, name = path.rpartition("/")
        names = self.directories.setdefault(directory, {})
        self._unsynced.setdefault(directory, []).append((number, name, names.pop(name, None)))
        if file is not None:
            names[name] = file

    # what is on the disk

    def sync(self, paths: Iterable[str], directories: Iterable[str]) -> None:
        """Write out the contents of files, and the names in directories."""
        for path in paths:
            file = self.find(path)
            if file is not None and not file.durable:
                file.durable = True
                self._undurable.discard(file)
        for directory in directories:
            self._unsynced.pop(directory, None)

    def sync_all(self) -> None:
        """Write out everything."""
        for file in self._undurable:
            file.durable = True
        self._undurable.clear()
        self._unsynced.clear()

    def power_cut(self, chance: random.Random) -> None:
        """Forget what was not synced, or its last part."""
        changes = [(number, where, name, was) for where, each in self._unsynced.items() for number, name, was in each]
        numbers = sorted({number for number, *_ in changes})
        first_lost = chance.choice([*numbers, 1 << 62])
        for number, where, name, was in sorted(changes, key=lambda change: change[0], reverse=True):
            if number >= first_lost:
                self.directories[where].pop(name, None)
                if was is not None:
                    self.directories[where][name] = was
        for file in sorted(self._undurable, key=lambda file: file.identity):
            if chance.random() < 0.5:
                file.content = file.content[: len(file.content) // 2]
        self.sync_all()


@dataclass(slots=True, eq=False)
class NoteFile:
    """The notes of one start of the daemon: pairs of a lease and a message."""

    boot: int
    begun: set[tuple[int, str]]
    ending: set[tuple[int, str]]


class Disk:
    """See the module.  `heard` hears of dropped files.  The queue is in `database`, a file, else in memory."""

    def __init__(self, database: Path | None = None) -> None:
        self.database = database
        self._tables = Tables()
        self.files = Files()
        self.notes: dict[str, NoteFile] = {}  # by owner
        self.boot = 0
        self.locked = False
        self.heard: Callable[[], None] = lambda: None

    @property
    def tables(self) -> Tables:
        """What is durable of the queue."""
        return self._tables if self.database is None else tables_of(self.database)

    def drop(self, name: str, content: bytes, *, foreign: bool = False) -> None:
        """An application renames a file into `new/`, synced; `foreign`: one of another user."""
        self.files.write(f"{NEW}/{name}", content, durable=True, foreign=foreign)
        self.files.sync([], [NEW])
        self.heard()

    @property
    def dropped(self) -> Collection[str]:
        """The names of what was dropped and not taken."""
        return self.files.names(NEW)

    def kill(self) -> None:
        """The daemon is killed."""
        self.locked = False
        self.heard = lambda: None

    def power_cut(self, chance: random.Random) -> None:
        """The machine loses its power."""
        self.kill()
        self.files.power_cut(chance)
        self.boot += 1  # notes of another boot are not believed
