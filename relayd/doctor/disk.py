"""Room for more mail: octets and inodes of the spool's file system."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd.doctor.finding import Finding, error, warning

MEBIBYTE = 1024 * 1024
FEW, LITTLE = 100 * MEBIBYTE, 1024 * MEBIBYTE  # octets
FEW_INODES, SOME_INODES = 1_000, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left on a file system; `inodes` is None where they are made as needed."""

    octets: int
    inodes: int | None


def room_of(spool: Path) -> Room:
    """Return what is left for the spool."""
    found = os.statvfs(spool)
    return Room(octets=found.f_bavail * found.f_frsize, inodes=found.f_favail if found.f_files else None)


def of_room(spool: Path, room: Room) -> Iterator[Finding]:
    """Say whether there is enough.  Pure."""
    advice = f"make room on the file system of {spool}; relayd goes on by itself"
    if room.octets < LITTLE:
        kind = error if room.octets < FEW else warning
        yield kind("disk", f"{room.octets // MEBIBYTE} MiB are free for the spool", advice)
    if room.inodes is not None and room.inodes < SOME_INODES:
        kind = error if room.inodes < FEW_INODES else warning
        yield kind("inodes", f"{room.inodes} more files can be made in the spool; each message is one", advice)
