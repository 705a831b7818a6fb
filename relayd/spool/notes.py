"""The cheap note before the end of a message leaves: which deliveries may have arrived, should this process die.

A line `lease id` is written, not synced, to a file of this start of the daemon just before the bytes that end a
message.  The page cache outlives a killed process, so after that only what is noted is marked as a possible
duplicate.  It does not outlive the machine: the first line is the boot's id, and notes of another boot are not
believed.  The file is begun anew, with what is still in flight, when it has grown.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Self

from relayd.mail.errors import QueueError
from relayd.mail.settlement import Settlement

MAX_SIZE = 4 * 1024 * 1024  # octets
PREFIX = "notes."

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Return the id of this boot of the machine; one that is equal to no other where it is not told."""
    try:
        return BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"unknown-{os.urandom(8).hex()}"


class Notes:
    """The notes of one start of the daemon.  In core it keeps what is noted and not settled."""

    def __init__(self, path: Path, boot: str, *, max_size: int = MAX_SIZE) -> None:
        self._path = path
        self._boot = boot
        self._max_size = max_size
        self._noted: set[tuple[int, str]] = set()
        self._descriptor = -1
        self._size = 0
        self._begin()

    @classmethod
    def open(cls, directory: Path, owner: str) -> Self:
        """Begin the notes of a start of the daemon in `directory`."""
        return cls(directory / f"{PREFIX}{owner}", boot_id())

    def ending(self, lease: int, message_id: str) -> None:
        """Note that the end of a message is about to leave.

        Raises:
            QueueError: it could not be written; then the end must not leave either.
        """
        self._noted.add((lease, message_id))
        self._append(f"{lease} {message_id}\n".encode())
        if self._size > self._max_size:
            self._begin()

    def settled(self, settlements: Sequence[Settlement]) -> None:
        """Forget what is durably settled."""
        self._noted.difference_update((each.delivery.lease, each.delivery.id) for each in settlements)

    def close(self) -> None:
        """Stop writing.  The file stays for the next start, which removes it."""
        os.close(self._descriptor)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            raise QueueError(f"{self._path}: {error.strerror}") from error
        if written < len(line):
            raise QueueError(f"{self._path}: the disk is full")
        self._size += written

    def _begin(self) -> None:
        """Write a new file beside the old one and put it in its place, so that there is a whole one at any time."""
        lines = [self._boot, *(f"{lease} {message_id}" for lease, message_id in sorted(self._noted))]
        content = "".join(f"{line}\n" for line in lines).encode()
        beside = self._path.with_name(f".{self._path.name}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        previous, self._descriptor = self._descriptor, descriptor
        self._size = 0
        try:
            self._append(content)
            os.rename(beside, self._path)
        except (OSError, QueueError):
            os.close(descriptor)
            self._descriptor = previous
            raise
        # What is in flight alone must not make every note begin a new file.
        self._max_size = max(self._max_size, 4 * self._size)
        if previous >= 0:
            os.close(previous)


def read(path: Path, boot: str) -> frozenset[tuple[int, str]] | None:
    """Return the (lease, message id) that a file notes, None if it is not of this boot and so not to be believed."""
    first, *lines = path.read_text("ascii", "replace").splitlines() or [""]
    if first != boot:
        return None
    noted = (line.partition(" ") for line in lines)
    return frozenset((int(lease), message_id) for lease, _, message_id in noted if lease.isdigit())


def earlier(directory: Path) -> list[Path]:
    """Return the notes of earlier starts."""
    return sorted(path for path in directory.glob(f"*{PREFIX}*") if path.is_file())


def noted_by(paths: Collection[Path], boot: str) -> Callable[[int, str], bool] | None:
    """Return what earlier starts noted, as a predicate of lease and message id; None if that cannot be known."""
    read_notes = [read(path, boot) for path in paths if path.name.startswith(PREFIX)]
    if not read_notes or None in read_notes:
        return None
    noted = frozenset[tuple[int, str]]().union(*(each for each in read_notes if each is not None))
    return lambda lease, message_id: (lease, message_id) in noted
