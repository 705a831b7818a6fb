"""The file of a refresh token, when the server replaces it (RFC 6749 section 6): the old one may be worth nothing then.

What the reader must not break:

    At every instant the file holds one token, whole: a new file is made durable and renamed over it.
    Owner, group and mode stay, or nothing is written.
    What somebody else has put there meanwhile is not overwritten.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def keep(path: Path, old: str, new: str) -> None:
    """Put `new` in the place of `old`; on return it is durable.

    Raises:
        OSError: that cannot be done; the file is as it was.
        ValueError: it does not hold `old`; in words.
    """
    path = path.resolve()  # a link to it stays one
    with open(path, "r+b") as file:  # for writing, too: what may not be written is not replaced
        status = os.fstat(file.fileno())
        if file.read().decode("utf-8").rstrip("\r\n") != old:
            raise ValueError(f"{path} has changed meanwhile")
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchown(descriptor, status.st_uid, status.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
            file.write(new.encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        os.rename(beside, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
