"""Root goes on as the user to whom a spool belongs.

That user could put a link, or another file, in the place of any file of the spool at any time, so root must not write
there, nor believe what it reads.  Nothing that the commands do needs root: `queue/` and all beside it are the owner's.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def act_as_owner(spool: Path) -> None:
    """If we are root, become for good the user to whom the spool's bodies belong; as whom else nothing changes."""
    if os.geteuid() != 0:
        return
    try:
        owner = os.lstat(spool / "queue")
    except OSError:
        return  # there is nothing to be done there
    if owner.st_uid == 0:
        return
    try:
        account = pwd.getpwuid(owner.st_uid)
    except KeyError:
        os.setgroups([])
        os.setgid(owner.st_gid)
    else:
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
    os.setuid(owner.st_uid)
