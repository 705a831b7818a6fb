"""Hearing of files at once: inotify(7) on the drop directory.  The only file that imports asyncinotify.

A lost event costs at most one period, so everything uncertain (an overflow, a directory that went and came back) is
answered by one word to the listener: doubt.  Directories are checked now and then, because a mount over one of them
makes no event.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from asyncinotify import Event, Inotify, Mask, Watch

from relayd.mail.errors import RelaydError
from relayd.submission.heard import Change

CHECK = 2.0  # seconds between two checks that the watched directories are still the ones of their names
RETRY = 0.2  # seconds, while one of them is missing
_CACHE = 16  # events with the longest of names that are read at once: some 150, a millisecond

_MASK = (
    Mask.CREATE
    | Mask.OPEN
    | Mask.CLOSE_WRITE
    | Mask.CLOSE_NOWRITE
    | Mask.MOVED_TO
    | Mask.DELETE_SELF
    | Mask.MOVE_SELF
    | Mask.ONLYDIR
)
# Plain numbers: every file that the pickup opens makes two events, and operations on flags are slow.
_OVERFLOW = int(Mask.Q_OVERFLOW)
_GONE = int(Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.IGNORED | Mask.UNMOUNT)
_DIRECTORY = int(Mask.ISDIR)
_CHANGES = (
    (int(Mask.MOVED_TO | Mask.CLOSE_WRITE), Change.COMPLETED),
    (int(Mask.CREATE), Change.CREATED),
    (int(Mask.OPEN), Change.OPENED),
    (int(Mask.CLOSE_NOWRITE), Change.CLOSED_UNWRITTEN),
)
_UNAVAILABLE = frozenset({errno.ENOSYS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC})


class Listener(Protocol):
    """Who wants to hear."""

    def changed(self, path: Path, change: Change) -> None:
        """Something happened to that name."""

    def doubt(self) -> None:
        """Events may have been lost: look at everything."""


class WatchUnavailable(RelaydError):
    """The kernel gives us no watch; leaves `watch` only for the pickup, which says so once."""


async def watch(wanted: Mapping[Path, Callable[[str], bool]], listener: Listener) -> None:
    """Tell `listener` of the names in the directories of `wanted` that its predicates accept, until cancelled.

    Raises:
        WatchUnavailable: there is no inotify, or its limits are reached.
    """
    try:
        inotify = Inotify(cache_size=_CACHE)
    except OSError as error:
        raise WatchUnavailable(str(error)) from None
    with inotify:
        watched = _Watched(inotify, wanted, listener)
        keeper = asyncio.create_task(watched.keep())
        hearer = asyncio.create_task(watched.hear())
        try:
            done, _ = await asyncio.wait([keeper, hearer], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            keeper.cancel()
            hearer.cancel()
            await asyncio.gather(keeper, hearer, return_exceptions=True)


class _Watched:
    """The watches of one inotify instance."""

    def __init__(self, inotify: Inotify, wanted: Mapping[Path, Callable[[str], bool]], listener: Listener) -> None:
        self._inotify = inotify
        self._wanted = wanted
        self._listener = listener
        self._watches: dict[Path, tuple[Watch, tuple[int, int]]] = {}
        self._lost = asyncio.Event()

    async def keep(self) -> None:
        """Watch what is wanted, again and again."""
        while True:
            missing = [directory for directory in self._wanted if not self._keep(directory)]
            self._lost.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if missing else CHECK):
                    await self._lost.wait()

    async def hear(self) -> None:
        """Pass on what happens."""
        async for event in self._inotify:
            self._pass_on(event)

    def _keep(self, directory: Path) -> bool:
        """Make sure that the directory of that name is the one watched; whether there is one."""
        try:
            status = os.stat(directory)
            identity = (status.st_dev, status.st_ino)
            if directory in self._watches and self._watches[directory][1] == identity:
                return True
            self._drop(directory)
            self._watches[directory] = (self._inotify.add_watch(directory, _MASK), identity)
        except OSError as error:
            if error.errno in _UNAVAILABLE:
                raise WatchUnavailable(str(error)) from None
            self._drop(directory)
            return False
        self._listener.doubt()
        return True

    def _drop(self, directory: Path) -> None:
        watch_and_identity = self._watches.pop(directory, None)
        if watch_and_identity is not None:
            with contextlib.suppress(OSError):  # it went with its directory
                self._inotify.rm_watch(watch_and_identity[0])

    def _pass_on(self, event: Event) -> None:
        mask = int(event.mask)
        if mask & _OVERFLOW:
            self._listener.doubt()
            return
        directory = event.watch.path if event.watch is not None else None
        if directory is None or directory not in self._watches or self._watches[directory][0] is not event.watch:
            return
        if mask & _GONE:
            self._drop(directory)
            self._lost.set()
            self._listener.doubt()
        elif event.name is not None and not mask & _DIRECTORY:
            change = _change_of(mask)
            if change is not None and self._wanted[directory](str(event.name)):
                self._listener.changed(directory / event.name, change)


def _change_of(mask: int) -> Change | None:
    return next((change for bits, change in _CHANGES if mask & bits), None)
