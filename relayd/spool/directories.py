"""The directories of a spool: which there are, who may write in them, and that they are there.

Whoever may write in the spool itself may put another queue there, so nobody else may, whatever the umask is.
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from relayd.spool.bodies import sync_directories

ROOT_MODE = 0o755
PUBLIC = ("new", "tmp", "cur")
PUBLIC_MODE = 0o3770  # the group may drop; its members cannot touch each other's files, and new ones get its group
PRIVATE = ("queue", "queue/incoming", "rejected")
PRIVATE_MODE = 0o700


def make_directories(root: Path) -> None:
    """Create what is missing of a spool, durably; modes that somebody chose otherwise are left alone.

    Whoever may write in the spool itself may put another queue there, so nobody else may, whatever the umask is.

    Raises:
        OSError: in words that name the spool, and whom it refuses.
    """
    try:
        _make_directories(root)
    except OSError as error:
        raise OSError(f"the spool {root} cannot be used as user {_user()}: {error}") from error


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _make_directories(root: Path) -> None:
    made = set()
    if not root.is_dir():
        root.mkdir(parents=True, exist_ok=True, mode=ROOT_MODE)
        made.add(root.parent)
    for names, mode in ((PUBLIC, PUBLIC_MODE), (PRIVATE, PRIVATE_MODE)):
        for name in names:
            with suppress(FileExistsError):
                (root / name).mkdir(mode & 0o777)  # set-id bits may be forbidden, even where there is nothing to make
                (root / name).chmod(mode)  # whatever the umask is
                made.add((root / name).parent)
    sync_directories(made)
