"""The cheap notes of what a relayer does: which deliveries were begun, and whose end may have left, should we die.

Two lines a delivery, `begun lease id` and `ending lease id`, into a mapped file of this start of the daemon: no system
call, no sync.  The page cache outlives a killed process, so after that only what was ending is marked as a possible
duplicate, and only what was begun counts as having been in hand.  It does not outlive the machine: the first line is
the boot's id, and notes of another boot are not believed.  Nor need the disk have what the cache had, where an error
made it read-only: notes that would have to be read from it are not believed either.  The file's blocks are allocated
when it is made, so that a full disk cannot make a note fail in the middle.  A full file is begun anew, with what is
still in flight.

A worker has a file of its own, `notes.<owner>.<number>`: the daemon reads it when the worker has died, or the next
start with all others.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from relayd.mail.errors import QueueError

SIZE = 1024 * 1024  # octets
PREFIX = "notes."

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

BEGUN, ENDING = "begun", "ending"
_NOTE = re.compile(r"(begun|ending) ([0-9]{1,18}) ([!-~]+)")

Claimed = tuple[int, str]  # a lease's number and a message's id


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """What earlier starts noted and cannot have settled since: what is ending was begun, too."""

    begun: frozenset[Claimed] = frozenset()
    ending: frozenset[Claimed] = frozenset()


def boot_id() -> str:
    """Return the id of this boot of the machine; one that is equal to no other where it is not told."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"


class Notes:
    """The notes of one start of the daemon, or of one worker.  In core it keeps what is noted and not over."""

    def __init__(self, path: Path, boot: str, *, size: int = SIZE) -> None:
        self._path = path
        self.boot = boot
        self._size = size
        self._in_hand: dict[Claimed, str] = {}
        self._file: mmap.mmap | None = None
        self._begin()

    @classmethod
    def open(cls, directory: Path, owner: str) -> Self:
        """Begin the notes of a start of the daemon in `directory`."""
        return cls(directory / f"{PREFIX}{owner}", boot_id())

    def of_worker(self, number: int) -> Path:
        """Return where a worker of this start, that no other has the number of, is to keep its notes."""
        return self._path.with_name(f"{self._path.name}.{number}")

    def beginning(self, lease: int, message_id: str) -> None:
        """Note that a delivery is in hand from now on.

        Raises:
            QueueError: it could not be written.
        """
        self._note(BEGUN, lease, message_id)

    def ending(self, lease: int, message_id: str) -> None:
        """Note that the end of a message is about to leave.

        Raises:
            QueueError: it could not be written; then the end must not leave either.
        """
        self._note(ENDING, lease, message_id)

    def over(self, claimed: Iterable[Claimed]) -> None:
        """Forget what is durably settled, or given back."""
        for each in claimed:
            self._in_hand.pop(each, None)

    def close(self) -> None:
        """Stop writing.  The file stays for the next start, which removes it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _note(self, what: str, lease: int, message_id: str) -> None:
        line = f"{what} {lease} {message_id}\n".encode()
        if self._file is None or self._file.tell() + len(line) > self._size:
            self._begin(line)
        else:
            self._file.write(line)
        self._in_hand[lease, message_id] = what  # only now: what could not be noted does not leave

    def _begin(self, line: bytes = b"") -> None:
        """Write a new file, with all that is in hand and `line`, beside the old one and put it in its place, so that
        there is a whole one at any time."""
        lines = [self.boot, *(f"{what} {lease} {each}" for (lease, each), what in self._in_hand.items())]
        content = "".join(f"{each}\n" for each in lines).encode() + line
        # What is in hand alone must not make every note begin a new file.
        size = max(self._size, 4 * len(content))
        beside = self._path.with_name(f".{self._path.name}")
        try:
            file = _allocated(beside, size)
            file.write(content)
            try:
                os.rename(beside, self._path)
            except OSError:
                file.close()
                raise
        except OSError as error:
            raise QueueError(f"{self._path}: {error.strerror}") from error
        self.close()
        self._file, self._size = file, size


def _allocated(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def read(path: Path, boot: str) -> Noted | None:
    """Return what a file notes, None if it is not to be believed: it is not in core, not of this boot, or damaged.

    What follows the last end of a line is a note that was not finished, so what it was to tell did not happen.
    """
    with path.open("rb", buffering=0) as file:
        if not _is_in_core(file.fileno()):
            return None
        octets = file.read()
    first, *lines = octets.partition(b"\0")[0].rpartition(b"\n")[0].decode("ascii", "replace").split("\n")
    if first != boot:
        return None
    begun, ending = set(), set()
    for line in lines:
        note = _NOTE.fullmatch(line)
        if note is None:
            return None
        claimed = int(note[2]), note[3]
        begun.add(claimed)
        if note[1] == ENDING:
            ending.add(claimed)
    return Noted(begun=frozenset(begun), ending=frozenset(ending))


def _is_in_core(descriptor: int) -> bool:
    """Whether the first page of a file is in the page cache, which nothing is read into for that (mincore(2)); True
    where nobody tells.

    Where it is not, the disk may have an older version: a file system that an error made read-only keeps what comes
    after it in core alone, until it is unmounted.
    """
    address = _LIBC.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return True
    try:
        pages = (ctypes.c_ubyte * 1)(1)
        _LIBC.mincore(address, mmap.PAGESIZE, pages)  # leaves them as they are if it fails
        return bool(pages[0] & 1)
    finally:
        _LIBC.munmap(address, mmap.PAGESIZE)


_LIBC = ctypes.CDLL(None)
_LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *3 * (ctypes.c_int,), ctypes.c_long)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.POINTER(ctypes.c_ubyte))
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


def earlier(directory: Path) -> list[Path]:
    """Return the notes of earlier starts."""
    return sorted(path for path in directory.glob(f"*{PREFIX}*") if path.is_file())


def noted_by(paths: Collection[Path], boot: str) -> Noted | None:
    """Return what earlier starts noted, None if that cannot be known."""
    found = [read(path, boot) for path in paths if path.name.startswith(PREFIX)]
    known = [each for each in found if each is not None]
    if not found or len(known) < len(found):
        return None
    return Noted(
        begun=frozenset().union(*(each.begun for each in known)),
        ending=frozenset().union(*(each.ending for each in known)),
    )
