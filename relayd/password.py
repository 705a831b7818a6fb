"""A file with a secret: one line, for relayd to read, not for everybody, and not for those who may drop mail either.

Whoever drops mail is in the group of `<spool>/new`, as a rule relayd's own, so a file that this group can read is one
that every application on the machine can.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

LONGEST = 4096  # octets
CREDENTIALS = "$CREDENTIALS_DIRECTORY"  # where systemd puts what a unit's LoadCredential= names (systemd.exec(5))


def secret_path(name: str, base: Path) -> Path:
    """Return the path that the configuration names; a relative one is beside it, at `base`.

    Raises:
        ValueError: it is in $CREDENTIALS_DIRECTORY, and there is none.
    """
    first, _, rest = name.partition("/")
    if first != CREDENTIALS:
        return base / name
    directory = os.environ.get(CREDENTIALS[1:])
    if not directory:
        raise ValueError(f"there is no {CREDENTIALS}: systemd sets it for a unit with LoadCredential=")
    return Path(directory) / rest


def is_out_of_sight(name: str) -> bool:
    """Whether a secret is one of the unit's credentials, and we do not run in the unit."""
    return name.split("/")[0] == CREDENTIALS and not os.environ.get(CREDENTIALS[1:])


def read_password(path: Path, spool: Path) -> str:
    """Return the password, or whatever secret it is.

    Raises:
        OSError: it cannot be read.
        ValueError: it should not be used, or is none; in words.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        _check(os.fstat(descriptor), path, spool)
        octets = file.read(LONGEST + 1)
    try:
        password = octets.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:  # whose text has the octets in it
        raise ValueError(f"{path} is not in UTF-8") from None
    if not password or len(octets) > LONGEST or any(character in password for character in "\r\n\0"):
        raise ValueError(f"{path} must hold the secret, on one line of at most {LONGEST} octets")
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
