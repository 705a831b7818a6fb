"""`rejected/`: files that are no message, each beside a sentence that says why.  Nothing is ever deleted there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

_REASON = b".reason.txt"
_MAX_NAME = 255  # octets, NAME_MAX


class Rejected:
    """The directory of rejected files; made when it is first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def move_in(self, path: Path, name: str, reason: str, unique: str) -> None:
        """Move `path` to `rejected/<name>`, with `unique` behind the name where it is taken; write the reason.

        The name keeps its octets, but for a name too long to have `.reason.txt` behind it.

        Raises:
            OSError: the file could not be moved, and is where it was.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        target = self._free(os.fsencode(name), unique.encode("ascii"))
        _move(path, target)
        self._write_reason(target + _REASON, reason)

    def _free(self, name: bytes, unique: bytes) -> bytes:
        directory = os.fsencode(self._directory)
        target = os.path.join(directory, name[: _MAX_NAME - len(_REASON)])
        if os.path.lexists(target) or os.path.lexists(target + _REASON):
            target = os.path.join(directory, name[: _MAX_NAME - len(_REASON) - len(unique) - 1] + b"." + unique)
        return target

    @staticmethod
    def _write_reason(path: bytes, reason: str) -> None:
        # Where the disk is full the file is safe in rejected/ all the same, and the log has the reason.
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(reason + "\n")


def _move(path: Path, target: bytes) -> None:
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_far(path, target)


def _move_far(path: Path, target: bytes) -> None:
    """Move a file to another file system: it is never nowhere."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as source:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        try:
            with open(descriptor, "wb") as copy:
                shutil.copyfileobj(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            os.unlink(path)
        except BaseException:
            os.unlink(target)
            raise
