"""A file system in core: what was done to it, and what of that is on the disk when the power fails.

The model is POSIX's, which promises less than journaling file systems keep (ext4 with data=ordered, XFS, btrfs):

    What was written to a file, its length included, is on the disk for sure after fsync, fdatasync or syncfs of it.
    A name made or removed in a directory is on the disk for sure after fsync or syncfs of the directory; fsync of the
    file does not help its name.
    Before that each change may be there or not, whatever came before or after it.  A write may be there in part.
    Blocks that were not written read as zeros (no stale octets of others, no damage to what was synced before).

In two things it follows what all of them promise, since without that nothing could be built:

    A rename happened or did not.  It is on the disk for sure when both its directories were synced.  A name that is
    replaced means the old file or the new one.
    What was made in a new directory is not there without the directory itself.

Mapped files are not followed: nothing that relayd maps is relied upon after a power cut (notes are of another boot
then, and SQLite makes its -shm anew).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, assert_never

ROOT = 0  # the inode of the spool itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """A file, or a directory."""

    number: int
    owner: int
    is_directory: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A name is made, or replaced."""

    directory: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unlink:
    """A name is removed, if it still means `inode`."""

    directory: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """Both at once."""

    old: Unlink
    new: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Octets are written to a file."""

    inode: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """A file gets a length."""

    inode: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """A file or directory is synced; all of the file system if `inode` is None."""

    inode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """No change: the end of a message went to its server, for these recipients."""

    recipients: tuple[str, ...]


Change: TypeAlias = Link | Unlink | Rename | Write | Resize
Effect: TypeAlias = Change | Sync | Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An effect, and when: places in the log of calls, which may overlap."""

    effect: Effect
    begun: int
    ended: int


@dataclass(slots=True)
class Image:
    """What is there: names by directory, octets by file."""

    inodes: dict[int, Inode] = field(default_factory=lambda: {ROOT: Inode(number=ROOT, owner=0, is_directory=True)})
    names: dict[int, dict[str, int]] = field(default_factory=lambda: {ROOT: {}})
    contents: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> Image:
        """Return an image that may be changed."""
        names = {inode: dict(names) for inode, names in self.names.items()}
        return Image(self.inodes, names, {inode: bytearray(octets) for inode, octets in self.contents.items()})

    def apply(self, effect: Effect) -> None:
        """Let a change happen."""
        match effect:
            case Link():
                self.names.setdefault(effect.directory, {})[effect.name] = effect.inode
            case Unlink():
                names = self.names.get(effect.directory, {})
                if names.get(effect.name) == effect.inode:
                    del names[effect.name]
            case Rename():
                self.apply(effect.old)
                self.apply(effect.new)
            case Write():
                self._write(effect)
            case Resize():
                self._resize(effect)
            case Sync() | Sent():
                pass

    def _write(self, write: Write) -> None:
        octets = self.contents.setdefault(write.inode, bytearray())
        if len(octets) < write.offset:
            octets.extend(bytes(write.offset - len(octets)))
        octets[write.offset : write.offset + len(write.content)] = write.content

    def _resize(self, resize: Resize) -> None:
        octets = self.contents.setdefault(resize.inode, bytearray())
        if len(octets) < resize.size:
            octets.extend(bytes(resize.size - len(octets)))
        else:
            del octets[resize.size :]

    def files(self) -> Iterable[tuple[str, Inode]]:
        """Yield what can be reached, directories before what is in them."""
        waiting = [("", ROOT)]
        while waiting:
            path, directory = waiting.pop()
            for name, number in sorted(self.names.get(directory, {}).items()):
                inode = self.inodes[number]
                yield f"{path}{name}", inode
                if inode.is_directory:
                    waiting.append((f"{path}{name}/", number))


def pending(steps: Sequence[Step], count: int) -> list[int]:
    """Return which of the first `count` steps are changes that may not be on the disk after them."""
    unsynced: dict[int, set[int]] = {}  # which inodes each waits for
    for place in range(count):
        effect = steps[place].effect
        match effect:
            case Sync():
                for each in [each for each in unsynced if steps[each].ended < steps[place].begun]:
                    unsynced[each] -= unsynced[each] if effect.inode is None else {effect.inode}
                    if not unsynced[each]:
                        del unsynced[each]
            case Sent():
                pass
            case _:
                unsynced[place] = _touched(effect)
    return list(unsynced)


def _touched(change: Change) -> set[int]:
    """Return what must be synced for a change to be on the disk."""
    match change:
        case Link() | Unlink():
            return {change.directory}
        case Rename():
            return {change.old.directory, change.new.directory}
        case Write() | Resize():
            return {change.inode}
        case _:
            assert_never(change)


def survived(initial: Image, steps: Sequence[Step], count: int, torn: Mapping[int, int | None]) -> Image:
    """Return what is there after `count` steps, of which some did not happen (None) or only in their first octets."""
    image, missing = initial.copy(), set[int]()
    for place, step in enumerate(steps[:count]):
        effect = step.effect
        if place in torn and isinstance(effect, Write) and (kept := torn[place]) is not None:
            effect = Write(inode=effect.inode, offset=effect.offset, content=effect.content[:kept])
        elif place in torn or _made_in(effect) in missing:
            if isinstance(effect, Link):
                missing.add(effect.inode)
            continue
        image.apply(effect)
    return image


def _made_in(effect: Effect) -> int | None:
    """Return in which directory something is made."""
    match effect:
        case Link():
            return effect.directory
        case Rename():
            return effect.new.directory
        case _:
            return None


def rebuilt(image: Image, spool: Path) -> None:
    """Write an image to real files."""
    spool.mkdir()
    for name, inode in image.files():
        path = spool / name
        if inode.is_directory:
            path.mkdir()
        else:
            path.write_bytes(image.contents.get(inode.number, b""))
        if inode.owner:
            os.chown(path, inode.owner, inode.owner)
