"""The drop directory: from files to submissions.

`take` is called when something was heard and once in each period; each call does a bounded piece of work in a
thread.  Whoever calls it owns what it returns: each submission must be added to the queue (and so leave the drop
directory) or given back before `take` is called again, since a file that is still there is found again.  What could
not be placed at all stays where it is, and is released.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from relayd.mail.events import Degraded, Event, Events, FileLeft, Restored
from relayd.mail.message import Message
from relayd.mail.submission import Submission
from relayd.submission.envelope import Domains
from relayd.submission.examine import Examiner
from relayd.submission.heard import Change, Heard
from relayd.submission.refusal import Refused
from relayd.submission.scan import is_candidate, is_root_candidate
from relayd.submission.settings import SubmissionSettings
from relayd.submission.taker import Taken, Taker
from relayd.submission.watch import WatchUnavailable, watch

WATCH = "watch"  # a part, in events
WATCH_AGAIN = 10.0  # seconds until the kernel is asked again for a watch that it did not give


class Pickup:
    """See the module.

    `clock` gives the time of arrival that goes into a queue id, `monotonic` seconds for everything that waits.
    """

    def __init__(
        self,
        settings: SubmissionSettings,
        *,
        clock: Callable[[], datetime],
        events: Events,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._events = events
        self._examiner = _examiner(settings)
        self._heard = Heard()
        self._taker = Taker(settings, self._examiner, self._heard, clock=clock, monotonic=monotonic)
        self._lock = asyncio.Lock()
        self._rescan = True  # nothing was looked at yet
        self._deaf = False  # the kernel gave no watch when it was asked last

    @property
    def left(self) -> tuple[FileLeft, ...]:
        """The files that stay in the drop directory because they cannot be taken."""
        return self._taker.left.files

    async def take(self, limit: int) -> list[Submission]:
        """Return up to `limit` new messages that are complete now; see the module for what is owed for them."""
        async with self._lock:
            work = asyncio.ensure_future(asyncio.to_thread(self._take, limit))
            try:
                taken = await asyncio.shield(work)
            except asyncio.CancelledError:
                # A second cancellation leaves it to `restore_incoming` at the next start.
                await asyncio.wait([work])
                taken = work.result()
                self._pass_on(taken.events + self._taker.give_back(taken.submissions, ""))
                self._rescan = True  # a scan that goes on has passed them
                raise
        self._pass_on(taken.events)
        return taken.submissions

    def release(self) -> None:
        """Close the files that `take` holds open so that no other has their number."""
        self._taker.release()

    async def give_back(self, submissions: Sequence[Submission], *, reason: str = "") -> None:
        """Put back what could not be added; it will be taken again, with a new id.

        With `reason` (the file cannot be moved) it is told of as left, once.
        """
        async with self._lock:
            events = await asyncio.to_thread(self._taker.give_back, list(submissions), reason)
        self._pass_on(events)

    @property
    def degraded(self) -> bool:
        """Whether files could not be looked at, or taken, for a reason that is not their own."""
        return self._taker.is_degraded

    def waiting(self) -> bool:
        """Whether there is more to look at: a file that settles, a scan that has not ended, an event.

        While the system lacks something for all files, none of them can become ready: then `degraded` tells.
        """
        taker = self._taker
        if taker.paused_until is not None:
            return False
        return self._rescan or taker.is_scanning or len(self._heard) > 0 or len(taker.settling) > 0

    def next_look(self) -> float | None:
        """Return the monotonic time at which to call `take` again, None if only an event or the period calls."""
        if self._taker.paused_until is not None:
            return self._taker.paused_until
        if self._rescan or self._taker.is_scanning or len(self._heard):
            return self._monotonic()
        return self._taker.settling.next_look()

    def reload(self, settings: SubmissionSettings) -> None:
        """Use other settings from the next call on; the spool stays the one it was."""
        self._settings = settings
        self._examiner = _examiner(settings)
        self._taker.reload(settings, self._examiner)

    async def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a file may be there to take, until cancelled.

        Where the kernel gives no watch, which is told once, files are found by the periodic scan only; it is asked
        again now and then, since what it lacks may be file descriptors, or watches that others have.
        """
        wanted = {self._settings.spool / "new": is_candidate, self._settings.spool: is_root_candidate}
        while True:
            try:
                await watch(wanted, _Listener(self._heard, self._heard_of_something, wake))
            except WatchUnavailable as unavailable:
                self._doubt()
                if not self._deaf:
                    reason = f"files are found by the periodic scan only: {unavailable}"
                    self._events(Degraded(part=WATCH, reason=reason))
                self._deaf = True
            await asyncio.sleep(WATCH_AGAIN)

    def _heard_of_something(self) -> None:
        self._doubt()
        if self._deaf:
            self._deaf = False
            self._events(Restored(part=WATCH))

    async def examine_body(self, path: Path, queue_id: str) -> Message | str:
        """Read a body that is already ours as the message `queue_id`; returns why not if it is none.

        Its key is the file's owner's: the producer's, of a file that was moved here.

        Raises:
            OSError: it could not be read.
            ValueError: `queue_id` is not a queue id.
        """
        return await asyncio.to_thread(self._examine_body, path, queue_id)

    async def restore_incoming(self, known: Callable[[str], bool]) -> int:
        """Clean up what a crash left of claimed files; returns how many went back to `new/`.

        To be called at the start, before anything is taken: `known` tells whether the queue, or its history, has a
        message of that id.
        """
        incoming = self._taker.acceptance.incoming
        restored = 0
        for leftover in await asyncio.to_thread(lambda: list(incoming.leftovers())):
            restored += incoming.restore(leftover, known=known(leftover.id))
        if restored:
            await asyncio.to_thread(incoming.sync)
        return restored

    def close(self) -> None:
        """Close what is open between calls."""
        self._taker.close()

    def _take(self, limit: int) -> Taken:
        if limit > 0 and not self._taker.is_scanning:  # this call begins a scan
            self._rescan = False
        return self._taker.take(limit)

    def _pass_on(self, events: Sequence[Event]) -> None:
        for event in events:
            self._events(event)

    def _doubt(self) -> None:
        self._heard.doubt()
        self._rescan = True

    def _examine_body(self, path: Path, queue_id: str) -> Message | str:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            try:
                status = os.fstat(file.fileno())
                return self._examiner.examine(
                    lambda size: os.read(descriptor, size), queue_id, expected=status.st_size, owner=status.st_uid
                )
            except Refused as refusal:
                return str(refusal)


def _examiner(settings: SubmissionSettings) -> Examiner:
    aliases = {alias.lower(): targets for alias, targets in settings.aliases.items()}
    return Examiner(
        hostname=settings.hostname,
        domains=Domains(origin=settings.origin, aliases=aliases),
        max_message_size=settings.max_message_size,
    )


class _Listener:
    """Passes on what the watch hears."""

    def __init__(self, heard: Heard, doubt: Callable[[], None], wake: Callable[[], None]) -> None:
        self._heard = heard
        self._doubt = doubt
        self._wake = wake

    def changed(self, path: Path, change: Change) -> None:
        if self._heard.note(path, change):
            self._wake()

    def doubt(self) -> None:
        self._doubt()
        self._wake()
