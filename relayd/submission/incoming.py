"""`queue/incoming/`: files of other owners, claimed by a rename and copied before they are believed.

Whoever holds such a file open could change it after it was accepted, so the message is our copy.  States:

    <id>.orig              claimed: the producer's file, out of the drop directory
    <id>.orig and <id>     copied, or being copied; the copy becomes the body when the message is committed
    <id>.orig, a row       committed: the original is to be removed

A file on another file system than the queue's cannot be renamed into it: it is claimed where it is, as `.<id>.orig`,
a name that nobody takes, and copied whoever owns it.

A crash leaves any of these; `leftovers` finds them at the next start.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from relayd.mail.message import arrival_of

_ORIGINAL = ".orig"
_RENAME_NOREPLACE = 1  # renameat2(2), which Python's `os` lacks
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """What a crash left: a claimed original, or a copy."""

    id: str
    path: Path
    is_original: bool


class Incoming:
    """The directory; made when it is first needed."""

    def __init__(self, spool: Path, *, ours: Callable[[Path], None]) -> None:
        self._ours = ours  # is told where a file goes back to, just before
        self._new = spool / "new"
        self._drop = (self._new, spool)
        self._directory = spool / "queue" / "incoming"
        self._near: frozenset[Path] = frozenset()

    def prepare(self) -> None:
        """Make the directory; find out from where files can be renamed into it."""
        self._directory.parent.mkdir(mode=0o700, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        place = _mount_of(self._directory)
        self._near = frozenset(each for each in self._drop if _mount_of(each) == place) | {self._directory}

    def is_near(self, path: Path) -> bool:
        """Whether a file can be renamed into the queue: its directory is in the same mounted file system."""
        return path.parent in self._near

    def claim(self, path: Path, queue_id: str) -> Path:
        """Take a file out of sight of those who look for dropped files; returns where it is now.

        Raises:
            OSError: it could not be renamed, and so must not be delivered: it would be again and again.
        """
        target = self._directory / (queue_id + _ORIGINAL)
        if not self.is_near(path):
            target = path.with_name(f".{queue_id}{_ORIGINAL}")
        os.rename(path, target)
        return target

    def create_copy(self, queue_id: str) -> tuple[Path, int]:
        """Create the file for the copy; returns its path and a descriptor to write to."""
        path = self._directory / queue_id
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return path, os.open(path, flags, 0o600)

    def put_back(self, original: Path, path: Path | None, queue_id: str) -> Path:
        """Undo `claim`, under its old name `path`, or if that is not known or taken by now, under its id; returns the
        name."""
        target = self._by_id(original, queue_id) if path is None or os.path.lexists(path) else path
        self._ours(target)
        if not _renamed_to_free(original, target):
            target = self._by_id(original, queue_id)
            os.rename(original, target)
        return target

    def _by_id(self, original: Path, queue_id: str) -> Path:
        """Return the name by which a claimed file is a dropped one again: in `new/`, or where it is if that is far."""
        if original.parent == self._directory:
            return self._new / queue_id
        return original.with_name(queue_id if original.parent == self._new else f"{queue_id}.eml")

    def leftovers(self) -> Iterator[Leftover]:
        """Yield what is there, originals first: a copy must not go while nothing else has the message."""
        found = [*self._in_directory(), *self._far()]
        yield from sorted(found, key=lambda leftover: not leftover.is_original)

    def restore(self, leftover: Leftover, *, known: bool) -> bool:
        """Clean up after a crash; returns whether a file went back to `new/`.  `known`: the message is committed."""
        if not leftover.is_original:
            if not known:
                leftover.path.unlink()
        elif known:
            leftover.path.unlink()
        else:
            os.rename(leftover.path, self._by_id(leftover.path, leftover.id))
            return True
        return False

    def sync(self) -> None:
        """Make durable what went back, before it is claimed anew: else the next power cut could leave the file under
        its old claim and the new one, and each would be a message."""
        for directory in (self._directory, *self._drop):
            with suppress(FileNotFoundError):
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _far(self) -> Iterator[Leftover]:
        for directory in self._drop:
            for name in _names(directory):
                stem = name.removeprefix(".").removesuffix(_ORIGINAL)
                if name == f".{stem}{_ORIGINAL}" and _is_id(stem):
                    yield Leftover(id=stem, path=directory / name, is_original=True)

    def _in_directory(self) -> Iterator[Leftover]:
        for name in _names(self._directory):
            stem = name.removesuffix(_ORIGINAL)
            if _is_id(stem):
                yield Leftover(id=stem, path=self._directory / name, is_original=stem != name)


def _renamed_to_free(source: Path, target: Path) -> bool:
    """Rename unless there is something at `target`, in one step: what a producer dropped meanwhile must not go."""
    arguments = (_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
    if _LIBC.renameat2(*arguments) == 0:
        return True
    error = ctypes.get_errno()
    if error == errno.EEXIST:
        return False
    if error in (errno.EINVAL, errno.ENOSYS):  # the file system, or the kernel, cannot: look first, then
        if os.path.lexists(target):
            return False
        os.rename(source, target)
        return True
    raise OSError(error, os.strerror(error), str(source), None, str(target))


def _mount_of(directory: Path) -> tuple[int, bytes] | None:
    """Return what two directories have in common between which files can be renamed, None if it is not there.

    A device is not enough: one file system may be mounted twice, and then refuses as two would.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.fstat(descriptor).st_dev, _mount_id(descriptor)
    finally:
        os.close(descriptor)


def _mount_id(descriptor: int) -> bytes:
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().splitlines()
    except OSError:  # no /proc: the device has to do
        return b""
    return next((line for line in lines if line.startswith(b"mnt_id:")), b"")


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _is_id(name: str) -> bool:
    try:
        arrival_of(name)
    except ValueError:
        return False
    return True
