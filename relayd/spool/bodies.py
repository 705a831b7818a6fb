"""The bodies: one file each, `<spool>/queue/ab/<id>`, where `ab` are the last two characters of the id.

The end of an id is chance, so 1,024 directories fill evenly.  Small bodies are read many in one hop to a thread,
since a hop costs more than the read; large ones are streamed.  Names that begin with a dot are half-made and mean
nothing.  What makes a body durable is `sync`, once for a batch.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

import aiofiles

from relayd.mail.delivery import Delivery
from relayd.mail.errors import QueueError
from relayd.mail.message import arrival_of

SMALL = 256 * 1024  # octets; also the size of a piece of a large body
FEW = 4  # files: up to here a sync for each is quicker than one of the file system


class MissingBody(QueueError):
    """Bodies are gone, or not as long as they were when they were examined.  `ids` names their messages."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(f"missing or damaged: the body of {', '.join(ids)}")
        self.ids = tuple(ids)


class Bodies:
    """See the module.  `root` is `<spool>/queue`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._durable: set[str] = set()  # names of directories that are known to be on the disk

    def path(self, message_id: str) -> Path:
        """Return where a body is."""
        return self._root / message_id[-2:] / message_id

    def exists(self, message_id: str) -> bool:
        """Whether a body is there."""
        return self.path(message_id).exists()

    def _name(self, message_id: str) -> str:
        return f"{self._root}/{message_id[-2:]}/{message_id}"

    # reading

    async def read(self, deliveries: Sequence[Delivery]) -> list[bytes]:
        """Return the whole files of deliveries whose bodies are small, in their order.

        Raises:
            MissingBody: names every one that is not there in full; the others can be read without it.
        """
        contents = await asyncio.to_thread(lambda: [self._content(each.id, each.body.size) for each in deliveries])
        missing = [d.id for d, content in zip(deliveries, contents, strict=True) if len(content or b"") != d.body.size]
        if missing:
            raise MissingBody(missing)
        return [content or b"" for content in contents]

    def _content(self, message_id: str, size: int) -> bytes | None:
        """Return the octets of a body, one too many if it is longer: in half the system calls of a file object."""
        try:
            descriptor = os.open(self._name(message_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return os.read(descriptor, size + 1)
        finally:
            os.close(descriptor)

    async def chunks(self, message_id: str, size: int = SMALL) -> AsyncIterator[bytes]:
        """Yield a body in pieces of `size` octets.

        Raises:
            MissingBody: before the first piece.
        """
        try:
            async with aiofiles.open(self.path(message_id), "rb", buffering=0) as file:
                while chunk := await file.read(size):
                    yield chunk
        except FileNotFoundError:
            raise MissingBody([message_id]) from None

    async def head(self, message_id: str, limit: int) -> bytes:
        """Return the first `limit` octets of a body, fewer if it is shorter, none if it is gone."""
        try:
            async with aiofiles.open(self.path(message_id), "rb") as file:
                return await file.read(limit)
        except FileNotFoundError:
            return b""

    # writing; these block and are called in a thread

    def scratch(self) -> BinaryIO:
        """Return an unnamed file beside the bodies."""
        return cast("BinaryIO", tempfile.TemporaryFile(dir=self._root))

    def place(self, path: Path, identity: tuple[int, int], message_id: str) -> bool:
        """Rename the file at `path` to the body's place; False if it is not the file `identity` any more.

        Whoever examined it has it open still, so that no other file can have its number.

        Raises:
            OSError: it is where it was.
        """
        if _identity(path) != identity:
            return False
        self._make_directory(message_id)
        name = self._name(message_id)
        os.rename(path, name)
        if _identity(name) != identity:
            # It was replaced between the two looks: what we have got nobody has examined.  Its name may be taken again.
            os.rename(name, self._root.parent / "new" / message_id)
            return False
        return True

    def write(self, message_id: str, content: bytes) -> None:
        """Write a body that we made ourselves, durably; one that is there is replaced."""
        self._make_directory(message_id)
        path = self.path(message_id)
        _write_synced(path, content)
        self.sync([message_id], [])

    def rewrite(self, message_id: str) -> None:
        """Write a body anew whose sync failed: the old pages may count as clean without being on the disk."""
        path = self.path(message_id)
        beside = path.with_name(f".{message_id}")
        with open(path, "rb") as source, open(beside, "wb") as target:
            shutil.copyfileobj(source, target, SMALL)
            target.flush()
            os.fsync(target.fileno())
        os.rename(beside, path)
        _sync_directory(path.parent)

    def sync(self, message_ids: Sequence[str], sources: Iterable[Path]) -> None:
        """Make bodies and their names durable, and that names in the directories `sources`, wherever, are gone.

        Raises:
            OSError: nobody knows what is on the disk; the sync must not be tried again on the same pages.
        """
        made = {message_id[-2:] for message_id in message_ids} - self._durable
        if len(message_ids) > FEW:
            sync_file_system(self._root)
            here = os.stat(self._root).st_dev
            for source in sources:
                if os.stat(source).st_dev != here:
                    _sync_directory(source)
        else:
            self._sync_each(message_ids, sources)
            if made:
                _sync_directory(self._root)
        self._durable |= made

    def _sync_each(self, message_ids: Sequence[str], sources: Iterable[Path]) -> None:
        for message_id in message_ids:
            descriptor = os.open(self._name(message_id), os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        directories = {self.path(message_id).parent for message_id in message_ids}
        sync_directories(directories.union(sources))

    def unlink(self, message_ids: Iterable[str]) -> list[str]:
        """Unlink bodies; return the ids of those that are gone now."""
        gone = []
        for message_id in message_ids:
            with suppress(FileNotFoundError):
                try:
                    os.unlink(self._name(message_id))
                except PermissionError:  # an immutable file: stays until somebody looks
                    continue
            gone.append(message_id)
        return gone

    def listed(self, at_once: int = 1) -> Iterator[list[str]]:
        """Yield the ids of all bodies, so many directories at a time that there are at least `at_once`."""
        return _gathered(map(_ids_in, self._directories()), at_once)

    def scan(self, at_once: int = 1) -> Iterator[list[str]]:
        """Yield as `listed` does; half-made bodies are unlinked on the way, so none may be in the making."""
        return _gathered(map(_cleared, self._directories()), at_once)

    def _directories(self) -> Collection[str]:
        return sorted(entry.path for entry in os.scandir(self._root) if len(entry.name) == 2 and entry.is_dir())

    def _make_directory(self, message_id: str) -> None:
        """Make sure that there is a directory for a body; `sync` makes it durable."""
        if message_id[-2:] not in self._durable:
            with suppress(FileExistsError):
                os.mkdir(self._root / message_id[-2:], 0o700)


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _gathered(directories: Iterable[list[str]], at_once: int) -> Iterator[list[str]]:
    gathered: list[str] = []
    for ids in directories:
        gathered += ids
        if len(gathered) >= at_once:
            yield gathered
            gathered = []
    if gathered:
        yield gathered


def _ids_in(directory: str) -> list[str]:
    return sorted(entry.name for entry in os.scandir(directory) if _is_id(entry.name))


def _cleared(directory: str) -> list[str]:
    for entry in os.scandir(directory):
        if entry.name.startswith("."):
            os.unlink(entry.path)
    return _ids_in(directory)


def _is_id(name: str) -> bool:
    try:
        arrival_of(name)
    except (ValueError, OverflowError, OSError):
        return False
    return True


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=_private) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_LIBC = ctypes.CDLL(None, use_errno=True)


def sync_directories(directories: Iterable[Path]) -> None:
    """Make durable which names are in directories.

    Raises:
        OSError: nobody knows which are on the disk.
    """
    for directory in directories:
        _sync_directory(directory)


def sync_file_system(path: Path) -> None:
    """Write out all that is dirty on the file system of `path` (syncfs(2), which Python's `os` lacks)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(path))
    finally:
        os.close(descriptor)
