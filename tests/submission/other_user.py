"""Run as a program by test_other_user.py: the pickup as `nobody`, with files of other users.

Root prepares, a child gives up its privileges and takes.  Prints what became of the files as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from tests.submission.support import SIMPLE, Drop, a_drop, make_spool, watched

NOBODY = 65534
DAEMON = 1


def prepare(spool: Path) -> None:
    make_spool(spool)
    for directory in (spool, *spool.iterdir()):
        os.chown(directory, NOBODY, NOBODY)
        directory.chmod(0o777)
    (spool / "queue").chmod(0o700)


def put(path: Path, octets: bytes, *, owner: int, mode: int = 0o644) -> None:
    """Appear under the final name at once, as by a rename."""
    staged = path.parent.parent / "tmp" / path.name
    staged.write_bytes(octets)
    os.chown(staged, owner, owner)
    staged.chmod(mode)
    staged.rename(path)


async def settles(drop: Drop) -> dict[str, object]:
    """Files that were there before we started, of three owners."""
    submissions = await drop.pickup.take(10)
    first = sorted(submission.file for submission in submissions)
    for submission in submissions:
        submission.path.rename(drop.spool / "queue" / submission.message.id)
    found: list[tuple[str, bool, bool]] = []
    deadline = time.monotonic() + 20
    while drop.pickup.waiting() and time.monotonic() < deadline:
        for submission in await drop.pickup.take(10):
            private = submission.path.stat()
            mine = private.st_uid == NOBODY and private.st_mode & 0o777 == 0o600
            same = submission.path.read_bytes() == SIMPLE and submission.identity == (private.st_dev, private.st_ino)
            found.append((submission.file, mine, same))
            submission.path.rename(drop.spool / "queue" / submission.message.id)
            assert submission.original is not None
            submission.original.unlink()
        await drop.pause()
    return {
        "first": first,
        "later": sorted(found),
        "left": sorted(event.file for event in drop.left()),
        "rejected": sorted(path.name for path in drop.rejected.iterdir()),
        "incoming": sorted(path.name for path in (drop.spool / "queue" / "incoming").iterdir()),
    }


async def writes_slowly(drop: Drop) -> dict[str, object]:
    """A writer of another user pauses in the middle, far longer than `settle_time`; root lets it go on."""
    async with watched(drop):
        print("watching", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # it has written a half
        early = 0
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            early += len(await drop.take_once())
            await drop.pause()
        print("paused", flush=True)
        [submission] = await drop.taken()
        return {"early": early, "size": submission.message.body.size, "owner": drop.spool.stat().st_uid}


async def is_sticky(drop: Drop) -> dict[str, object]:
    """A directory that does not let us rename what others own."""
    found = [await drop.at_rest() for _ in range(3)]
    return {"found": sum(map(len, found)), "left": [event.reason for event in drop.left()]}


def main() -> None:
    scenario, spool = sys.argv[1], Path(sys.argv[2])
    asyncio.run(asyncio.to_thread(os.getpid))  # imports what is imported late: it may lie where only root can read
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    os.chdir("/")  # and not back: nobody may not enter where root has its work tree
    print(json.dumps(asyncio.run(globals()[scenario](a_drop(spool)))))


if __name__ == "__main__":
    main()
