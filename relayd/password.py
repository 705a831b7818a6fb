"""A password file: one line, for relayd to read, not for everybody, and not for those who may drop mail either.

Whoever drops mail is in the group of `<spool>/new`, as a rule relayd's own, so a file that this group can read is one
that every application on the machine can.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

LONGEST = 4096  # octets


def read_password(path: Path, spool: Path) -> str:
    """Return the password.

    Raises:
        OSError: it cannot be read.
        ValueError: it should not be used, or is none; in words.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor), path, spool)
        password = file.read(LONGEST).decode("utf-8").rstrip("\r\n")
    if not password or any(character in password for character in "\r\n\0"):
        raise ValueError(f"{path} must hold the password, on one line")
    return password


def check_secret(path: Path, spool: Path) -> None:
    """See that a file with a secret is for relayd to read alone.

    Raises:
        OSError: it cannot be read.
        ValueError: it should not be used; in words.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(os.fstat(descriptor), path, spool)
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, path: Path, spool: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if status.st_mode & 0o007:
        raise ValueError(f"{path} can be read by everybody: chmod o= it")
    if status.st_mode & 0o070 and status.st_gid == _dropping_group(spool):
        raise ValueError(f"{path} can be read by all who may drop mail: chown it to relayd's user, and chmod 0400 it")


def _dropping_group(spool: Path) -> int | None:
    try:
        status = os.stat(spool / "new")
    except OSError:  # nobody drops anything yet
        return None
    return status.st_gid if status.st_mode & stat.S_IWGRP else None
