"""The spool: bodies on disk, their rows in the queue, and the order of operations between the two.

docs/spool.md has the table of a message's states on disk.  What the reader must not break:

    A row is committed only after its body is durable under its final name.
    A copy gets its final name only after it is durable that its original has left the drop directory.
    A producer's own file is unlinked only after the row of our copy is durable.
    A body is unlinked only after its history row is durable, and that dropped only after the unlinking is.
    What repeats a message is unlinked only after the row of that message is durable.
    Whatever a crash leaves is either adopted or cleaned up at the next start, never both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from errno import EPERM
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from relayd.mail.errors import QueueError
from relayd.mail.events import Events, HeldAfterDeaths, Marked
from relayd.mail.key import KEPT
from relayd.mail.message import Message, new_id
from relayd.mail.submission import Submission
from relayd.spool.directories import make_directories
from relayd.spool.disk import Disk
from relayd.spool.ground import Ground, Held, NoteBook, SpoolQueue
from relayd.spool.takeover import TakenOver

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 500  # bodies unlinked, or history rows forgotten, at once
FORGET_INTERVAL = timedelta(minutes=1)
KEYS_FORGOTTEN = 2 * KEPT  # what a crash left of a repetition is recognised by when it arrived


class Spool:
    """See the module.  Open it with `Spool.open`.  `owner` names this start of the daemon in its leases; `away` is for
    how long nobody had the spool before it, negative if the clock was set back."""

    def __init__(
        self,
        ground: Ground,
        lock: Held,
        owner: str,
        queue: SpoolQueue,
        notes: NoteBook,
        taken_over: TakenOver,
        history: timedelta,
        away: timedelta,
    ) -> None:
        self.root = ground.root
        self.owner = owner
        self.queue = queue
        self.bodies = ground.bodies
        self.notes = notes
        self.taken_over = taken_over
        self.away = away
        self._ground = ground
        self._lock = lock
        self._history = history
        self._accepting = asyncio.Lock()
        self._unplaced: list[Submission] = []  # our copies, which nobody else would find again
        self._unsynced: list[Submission] = []  # in their place, but nobody knows whether on the disk
        self._uncommitted: list[Submission] = []  # durable bodies whose rows could not be written
        self._forget_at: datetime | None = None

    @classmethod
    async def open(cls, root: Path, *, now: datetime, history: timedelta, events: Events) -> Self:
        """Lock the spool at `root`, creating what is missing, and take over what the last start left.

        What is marked or held by that is told to `events`.

        Raises:
            SpoolLocked: another daemon has it.
            QueueError: the queue is corrupt, of a newer version, or missing although there are bodies.
            OSError: a directory cannot be made or written.
        """
        make_directories(root)
        return await cls.on(Disk(root), owner=new_id(now), now=now, history=history, events=events)

    @classmethod
    async def on(cls, ground: Ground, *, owner: str, now: datetime, history: timedelta, events: Events) -> Self:
        """Do as `open` does, on any ground, under the name `owner`."""
        lock = await ground.lock()
        notes: NoteBook | None = None
        queue: SpoolQueue | None = None
        try:
            ground.require_queue()
            earlier = ground.earlier_notes()
            notes = ground.begin_notes(owner)
            queue = await ground.open_queue(owner, events, notes.over)
            taken_over = await queue.take_over(now, earlier.noted)
            half_made = await queue.unmade()  # notifications: made anew, or not at all
            await asyncio.to_thread(ground.bodies.unlink, half_made)
        except BaseException:
            if queue is not None:
                await queue.close()
            if notes is not None:
                notes.close()
            lock.release()
            raise
        earlier.forget()
        for message_id, address in taken_over.marked:
            events(Marked(id=message_id, address=address))
        for message_id, deaths in taken_over.held:
            events(HeldAfterDeaths(id=message_id, deaths=deaths))
        away = now - lock.last_held if lock.last_held else timedelta(0)
        return cls(ground, lock, owner, queue, notes, taken_over, history, away)

    async def close(self) -> None:
        """Write what has gathered and let go of the spool."""
        await self.queue.close()
        self.notes.close()
        self._lock.release()

    @property
    def lock_descriptor(self) -> int:
        """For the workers: while one of them lives, no other daemon has this spool."""
        return self._lock.descriptor

    # arrival

    @property
    def unfinished(self) -> bool:
        """Whether files are left that could not be made durable; the next `accept` offers them again."""
        return bool(self._unplaced or self._unsynced or self._uncommitted)

    async def accept(self, submissions: Sequence[Submission]) -> list[Submission]:
        """Take files into the queue, in order; return those whose messages are ours from now on, and those that repeat
        one that is, which are gone.

        A file that has changed or vanished since it was examined, or that may not be moved, is left out.  What could
        not be made durable, here or in an earlier call, stays in `queue/` and is offered again by the next call; after
        a crash it is found as an orphan.  Its id stays the same, so it cannot be queued twice.

        Raises:
            QueueError: nothing could be accepted now.
        """
        async with self._accepting:
            self._unplaced += [each for each in submissions if each.original]
            accepted = await self._commit()  # before more is taken on: what waits in core stays bounded
            ours = [each for each in submissions if not each.original]
            try:
                await asyncio.to_thread(self._place, [*self._take(self._unplaced), *ours])
                accepted += await self._commit()
            except QueueError:
                if not accepted:  # what is ours already must be told of; the trouble comes again
                    raise
            return accepted

    async def _commit(self) -> list[Submission]:
        if not self._uncommitted:
            return []
        repeats = await self.queue.add([submission.message for submission in self._uncommitted])
        accepted = self._take(self._uncommitted)
        kept = repeats.keys() - await self._drop(list(repeats))
        originals = [each.original for each in accepted if each.original and each.message.id not in kept]
        if originals:
            await asyncio.to_thread(self._ground.remove, originals)
        return [replace(each, repeats=repeats.get(each.message.id, "")) for each in accepted]

    async def _drop(self, message_ids: Sequence[str]) -> set[str]:
        """Unlink, durably, the bodies of repetitions; return which are gone.

        What is not is found by the next start: as an orphan, or by its original, which has to stay for that, because
        our copy does not tell whose key it has.
        """
        if not message_ids:
            return set()
        try:
            gone = await self._on_disk(self.bodies.unlink, message_ids)
            await self._on_disk(self._ground.sync_all)
        except QueueError:
            return set()
        return set(gone)

    def _place(self, submissions: Sequence[Submission]) -> None:
        failure = self._rewrite()
        placed: list[Submission] = []
        copies = [each for each in submissions if each.original]
        try:
            self._sync_claims(copies)
        except OSError as error:
            failure, self._unplaced = error, copies
            submissions = [each for each in submissions if not each.original]
        for submission in submissions:
            try:
                if self.bodies.place(submission.path, submission.identity, submission.message.id):
                    placed.append(submission)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno == EPERM and not submission.original:
                    continue  # this file is immutable or append-only, or its directory is sticky: others may be moved
                failure = error
                if submission.original:
                    self._unplaced.append(submission)
        if placed:
            failure = self._sync(placed) or failure
        if failure and not self._uncommitted:
            raise QueueError(f"{self.root}: {failure}") from failure

    def _sync_claims(self, copies: Sequence[Submission]) -> None:
        """Make durable that the files which we copied are out of the drop directory: a power cut must not bring one
        back and leave its copy in its place."""
        if copies:
            parents = {path.parent for each in copies for path in (each.path, each.original) if path}
            self._ground.sync_directories({self.root / "new", self.root, *parents})

    def _sync(self, placed: list[Submission]) -> OSError | None:
        try:
            sources = {path.parent for each in placed for path in (each.path, each.original) if path}
            self.bodies.sync([each.message.id for each in placed], sources)
        except OSError as error:
            self._unsynced += placed
            return error
        self._uncommitted += placed
        return None

    def _rewrite(self) -> OSError | None:
        """Try again to make durable what a failed sync left in doubt."""
        failure: OSError | None = None
        rewritten: list[Submission] = []
        for submission in self._take(self._unsynced):
            try:
                self.bodies.rewrite(submission.message.id)
            except OSError as error:
                self._unsynced.append(submission)
                failure = error
            else:
                rewritten.append(submission)
        if rewritten:  # the names that they were dropped under have to be gone from the disk as well
            failure = self._sync(rewritten) or failure
        return failure

    @staticmethod
    def _take(waiting: list[Submission]) -> list[Submission]:
        taken = waiting.copy()
        waiting.clear()
        return taken

    async def add_notification(self, message: Message, content: bytes) -> None:
        """Queue a message that we made ourselves; one that was begun before a crash is made again."""
        await self._on_disk(self.bodies.write, message.id, content)
        await self.queue.add([message])

    async def read_original(self, message_id: str, limit: int) -> bytes:
        """Return the first `limit` octets of a body: what a notification returns of it."""
        return await self.bodies.head(message_id, limit)

    # the end

    async def sweep(self, now: datetime) -> None:
        """Unlink the bodies of finished messages, forget old history; make what room can be made on a full disk.

        Raises:
            QueueError: the queue or the disk does not allow it now.
        """
        if self.queue.degraded:
            with suppress(QueueError):  # the bodies may make enough
                await self.queue.make_room()
        while finished := await self.queue.finished_bodies(now, BATCH):
            gone = await self._on_disk(self.bodies.unlink, finished)
            await self.queue.bodies_gone(gone)
            if len(gone) < BATCH:
                break
        if self._forget_at is None or not now < self._forget_at <= now + FORGET_INTERVAL:  # a clock may be set
            self._forget_at = now + FORGET_INTERVAL
            self._lock.touch()
            await self._forget(now - self._history)
            while await self.queue.forget_keys(now - KEYS_FORGOTTEN, BATCH) == BATCH:
                pass

    async def _forget(self, finished_before: datetime) -> None:
        if not await self.queue.any_to_forget(finished_before):
            return
        # A body whose unlinking is not on the disk would come back after a power cut, with no row to say it is over.
        await self._on_disk(self._ground.sync_all)
        while await self.queue.forget(finished_before, BATCH):
            pass

    async def _on_disk(self, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Do in a thread what blocks; QueueError if the disk does not allow it."""
        try:
            return await asyncio.to_thread(work, *arguments, **options)
        except OSError as error:
            raise QueueError(f"{self.root}: {error}") from error

    # what a crash left

    async def orphans(self) -> AsyncIterator[list[tuple[str, Path]]]:
        """Yield bodies without any row, to be examined and adopted; look at all bodies for that, some at a time.

        It may be done while files are accepted and notifications made: what is between its body and its row is not
        among them.  A body whose history row says that it was unlinked came back by a power cut, and goes again.
        """
        scan = self.bodies.scan(BATCH)
        while True:
            async with self._accepting:
                ids = await asyncio.to_thread(next, scan, None)
                if ids is None:
                    return
                ours = {each.message.id for each in (*self._unsynced, *self._uncommitted)}
                strays = await self.queue.strays([each for each in ids if each not in ours])
            await asyncio.to_thread(self.bodies.unlink, strays.revived)
            yield [(each, self.bodies.path(each)) for each in strays.orphans]

    async def adopt(self, message: Message) -> str | None:
        """Queue a message whose body is in its place already; return the id of the one that it repeats, if it does:
        then it is gone."""
        await self._on_disk(self.bodies.sync, [message.id], [])
        repeats = await self.queue.add([message])
        await self._drop(list(repeats))
        return repeats.get(message.id)

    async def reject(self, message_id: str, reason: str) -> Path:
        """Move a body that cannot be read as a message to `rejected/`, with the reason beside it."""
        return self._ground.set_aside(message_id, reason)

    async def incoming_known(self) -> frozenset[str]:
        """Return which of the files that were being taken in are messages of ours already: in the queue, or finished.

        A copy that was placed and has no row is unlinked, since nobody knows whether all of it is on the disk; its
        original is there.  To be called before anything is accepted, or looked at as an orphan.
        """
        names = await asyncio.to_thread(self._ground.incoming)
        originals = {name.removesuffix(".orig") for name in names if name.endswith(".orig")}
        known = await self.queue.known({name.removesuffix(".orig") for name in names})
        if placed := [each for each in originals - known if self.bodies.exists(each)]:
            await asyncio.to_thread(self.bodies.unlink, placed)
            await asyncio.to_thread(self._ground.sync_all)  # before the original is a dropped file again
        return frozenset(known)
