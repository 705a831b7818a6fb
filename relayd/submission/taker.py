"""Which files of the drop directory are complete: what the pickup's thread does.

One call at a time.  Invariants:

    A file is taken only when it is complete: an event said so, or no writer holds it, or it has settled.
    Only regular files are opened, and none of them twice in a call.
    No file is deleted, but for the second link that a Maildir writer left in `tmp/`.
    A file that is to be moved stays open until the next call: a file system gives the number of one that is gone to
    the next that is made, and that one, under the same name, would pass for the one that was examined.

A file that cannot be taken harms no other: it is left and told of once, or goes to `rejected/`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from relayd.mail.events import Degraded, Event, Restored, Trouble
from relayd.mail.submission import Submission
from relayd.submission.acceptance import SYSTEM_ERRORS, Acceptance, Torn
from relayd.submission.examine import Examiner
from relayd.submission.heard import Heard
from relayd.submission.lease import has_writer, may_lease_any
from relayd.submission.left import Left
from relayd.submission.scan import Scan
from relayd.submission.settings import SubmissionSettings
from relayd.submission.settling import Identity, Settling, identity_of

NAMES_AT_ONCE = 2_000  # of a directory, per call
SECONDS_AT_ONCE = 0.25  # of work per call
PAUSE = 1.0  # seconds, when the system lacks something for all files
STUCK_PAUSE = 10.0  # seconds, before a file is tried again that could not be moved into the queue
LINK_PAUSE = 0.1  # seconds until a file with two links is looked at again
NAMES_OF_TMP = 20_000  # looked through for a second link
MOST_HELD = 1_000  # files of one call that are held open

PART = "pickup"  # in events

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(slots=True)
class Taken:
    """What one call found, and what there is to tell."""

    submissions: list[Submission] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


class Taker:
    """See the module."""

    def __init__(
        self,
        settings: SubmissionSettings,
        examiner: Examiner,
        heard: Heard,
        *,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self.settling = Settling(settings.settle_time.total_seconds())
        self.left = Left(self._tell)
        self.acceptance = Acceptance(
            settings, examiner, self.left, clock=clock, tell=self._tell, ours=heard.expect_ours
        )
        self.paused_until: float | None = None
        self._spool = settings.spool
        self._settle_time = settings.settle_time.total_seconds()
        self._heard = heard
        self._monotonic = monotonic
        self._scan: Scan | None = None
        self._asks_for_others = may_lease_any()
        self._degraded = False
        self._taken = Taken()
        self._identities: set[Identity] = set()  # of this call's submissions
        self._held: list[int] = []  # descriptors of this call's submissions
        self._may_hold = _share_of_descriptors()

    def reload(self, settings: SubmissionSettings, examiner: Examiner) -> None:
        """Use other settings for the files that are taken from now on."""
        self._settle_time = settings.settle_time.total_seconds()
        self.settling.settle_time = self._settle_time
        self.acceptance.reload(settings, examiner)

    @property
    def is_scanning(self) -> bool:
        """Whether a scan has begun and not ended."""
        return self._scan is not None

    @property
    def is_degraded(self) -> bool:
        """Whether the system lacked something when files were last looked at."""
        return self._degraded

    def close(self) -> None:
        """Close the directory that is being scanned, and what is held open."""
        self.release()
        self._end_early()

    def _end_early(self) -> None:
        """End the scan: the file that met the trouble is to be seen again."""
        if self._scan is not None:
            self._scan.close()
            self._scan = None

    def release(self) -> None:
        """Close what is held open of the submissions of the last call."""
        held, self._held = self._held, []
        for descriptor in held:
            os.close(descriptor)

    def take(self, limit: int) -> Taken:
        """Take up to `limit` messages: first what events told of, then what the scan finds.

        Bounded: NAMES_AT_ONCE names, a quarter of our descriptors, and about SECONDS_AT_ONCE and one file.
        """
        self.release()
        self._taken, self._identities = Taken(), set()
        now = self._monotonic()
        if limit <= 0 or (self.paused_until is not None and now < self.paused_until):
            return self._taken
        self.paused_until = None
        try:
            self.acceptance.incoming.prepare()
            for path, complete in self._candidates():
                self._look_at(path, complete)
                if (
                    len(self._taken.submissions) >= min(limit, self._may_hold)
                    or self._monotonic() - now > SECONDS_AT_ONCE
                ):
                    break
            self._end_scan()
        except OSError as error:
            self._pause(str(error))
        return self._taken

    def give_back(self, submissions: list[Submission], reason: str) -> list[Event]:
        """Put files that did not become messages where they can be taken again."""
        self._taken = Taken()
        for submission in submissions:
            try:
                self.acceptance.give_back(submission, reason)
                if reason:
                    self._rest(submission.path)
            except OSError as error:
                self._tell(Trouble(part=PART, detail=f"{submission.path}: {error}"))
        return self._taken.events

    def _rest(self, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.left.rest(os.lstat(path), self._monotonic() + STUCK_PAUSE)

    def _candidates(self) -> Iterator[tuple[Path, bool]]:
        while (path := self._heard.next_complete()) is not None:
            yield path, True
        if self._scan is None:
            self._scan = Scan(self._spool)
            self.settling.begin_scan()
            self.left.begin_scan()
        for path in self._scan.paths(NAMES_AT_ONCE):
            yield path, False

    def _end_scan(self) -> None:
        if self._scan is None or not self._scan.finished:
            return
        errors, self._scan = self._scan.errors, None
        if errors:
            full = any(error.errno in SYSTEM_ERRORS for error in errors)
            (self._pause if full else self._degrade)(str(errors[0]))
            return
        self.settling.forget_unseen()
        self.left.forget_unseen()
        if self._degraded:
            self._degraded = False
            self._tell(Restored(part=PART))

    def _pause(self, reason: str) -> None:
        self.paused_until = self._monotonic() + PAUSE
        self._end_early()
        self._degrade(reason)

    def _degrade(self, reason: str) -> None:
        if not self._degraded:
            self._tell(Degraded(part=PART, reason=reason))
        self._degraded = True

    def _tell(self, event: Event) -> None:
        self._taken.events.append(event)

    # One file

    def _look_at(self, path: Path, complete: bool) -> None:
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            self._heard.forget(path)
            return
        self.left.still_there(identity_of(status))
        if self.left.is_resting(status, self._monotonic()):
            return
        submission = self._harmless(path, status, complete)
        if submission is not None:
            self._taken.submissions.append(submission)
            self._identities.add(identity_of(status))

    def _harmless(self, path: Path, status: os.stat_result, complete: bool) -> Submission | None:
        """Look at a file; whatever is wrong with it stays its own trouble."""
        try:
            return self._look(path, status, complete)
        except Torn:
            self.settling.wait(status, self._monotonic(), self._settle_time)
        except FileNotFoundError:
            self._heard.forget(path)
        except OSError as error:
            if error.errno in SYSTEM_ERRORS:
                raise
            self._leave(path, status, f"it cannot be read: {error.strerror}")
        except Exception as error:  # one file must not stop the others
            if self._leave(path, status, "it made relayd fail; remove it, and report this"):
                self._tell(Trouble(part=PART, detail=f"{path.name!r}: {error!r}"))
        return None

    def _look(self, path: Path, status: os.stat_result, complete: bool) -> Submission | None:
        if not stat.S_ISREG(status.st_mode):
            self._leave(path, status, "it is not a regular file; remove it")
            return None
        if identity_of(status) in self._identities:
            return None
        if not complete and self.settling.is_early(status, self._monotonic()):
            return None
        if status.st_nlink > 1 and not self._is_only_name(path, status):
            return None
        if not complete and not self._may_ask(status):
            if not self._has_settled(path, status):
                return None
            complete = True
        return self._open(path, status, complete)

    def _leave(self, path: Path, status: os.stat_result, reason: str) -> bool:
        self.settling.forget(identity_of(status))
        return self.left.leave(path, status, reason)

    def _is_only_name(self, path: Path, status: os.stat_result) -> bool:
        """Whether a file with several links can be taken: the other one is a Maildir writer's, and it left it."""
        if self.left.is_unchanged(status):
            return False
        now = self._monotonic()
        if status.st_nlink == 2:
            if not self.settling.settled(status, now):
                self.settling.wait(status, now, min(LINK_PAUSE, self._settle_time))
                return False
            other = self._link_in_tmp(status)
            if other is not None:
                other.unlink(missing_ok=True)
                return True
        self._leave(path, status, f"it has {status.st_nlink} links; copy it, and drop the copy")
        return False

    def _link_in_tmp(self, status: os.stat_result) -> Path | None:
        tmp = self._spool / "tmp"
        with contextlib.suppress(FileNotFoundError), os.scandir(tmp) as entries:
            for _, entry in zip(range(NAMES_OF_TMP), entries, strict=False):
                if entry.inode() == status.st_ino and identity_of(entry.stat(follow_symlinks=False)) == identity_of(
                    status
                ):
                    return tmp / entry.name
        return None

    def _may_ask(self, status: os.stat_result) -> bool:
        return self._asks_for_others or status.st_uid == os.geteuid()

    def _has_settled(self, path: Path, status: os.stat_result) -> bool:
        now = self._monotonic()
        if self._heard.is_writing(path):
            self.settling.wait(status, now, self._settle_time)
            return False
        return self.settling.settled(status, now)

    def _open(self, path: Path, status: os.stat_result, complete: bool) -> Submission | None:
        try:
            descriptor = os.open(path, _OPEN)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in SYSTEM_ERRORS:
                raise
            self._leave(path, status, f"it cannot be opened: {error.strerror}; let relayd read it")
            return None
        held = False
        try:
            opened = os.fstat(descriptor)
            if identity_of(opened) != identity_of(status):
                return None  # replaced meanwhile: the next scan finds the new one
            if not complete and not self._is_complete(path, descriptor, opened):
                return None
            self.settling.forget(identity_of(opened))
            self._heard.forget(path)
            submission = self.acceptance.accept(path, descriptor, opened)
            held = submission is not None and submission.original is None
            return submission
        finally:
            if held:
                self._held.append(descriptor)
            else:
                os.close(descriptor)

    def _is_complete(self, path: Path, descriptor: int, status: os.stat_result) -> bool:
        writer = has_writer(descriptor)
        if writer is None:
            self._asks_for_others = False
            return self._has_settled(path, status)
        if writer:
            self.settling.wait(status, self._monotonic(), self._settle_time)
        return not writer


def _share_of_descriptors() -> int:
    """Return how many files may be held open: a quarter of what we may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_HELD if soft == resource.RLIM_INFINITY else max(1, min(soft // 4, MOST_HELD))
