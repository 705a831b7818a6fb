"""From a complete, open file to a submission: in place, by a copy, or into `rejected/`.

What was examined is what becomes the body: our own user's file is moved later, if it is still the same one; another
owner's, and one on another file system, is claimed by a rename first (what cannot be moved away is not delivered: it
would be again and again), and its message is our private copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from relayd.mail.errors import RelaydError
from relayd.mail.events import Events, FileRejected
from relayd.mail.message import Message, new_id
from relayd.mail.submission import Submission
from relayd.submission.examine import Examiner, Read, too_large
from relayd.submission.incoming import Incoming
from relayd.submission.left import Left
from relayd.submission.refusal import Refused
from relayd.submission.rejected import Rejected
from relayd.submission.settings import SubmissionSettings
from relayd.submission.settling import Identity, identity_of

# Not of one file, but of the system: nothing can be taken for a while.
SYSTEM_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Torn(RelaydError):
    """The file changed while it was read, so it was not complete: never leaves the taker."""


class Acceptance:
    """See the module.  `left` and `tell` learn what did not become a message."""

    def __init__(
        self,
        settings: SubmissionSettings,
        examiner: Examiner,
        left: Left,
        *,
        clock: Callable[[], datetime],
        tell: Events,
        ours: Callable[[Path], None],
    ) -> None:
        self.incoming = Incoming(settings.spool, ours=ours)
        self._settings = settings
        self._examiner = examiner
        self._left = left
        self._clock = clock
        self._tell = tell
        self._rejected = Rejected(settings.spool / "rejected")

    def reload(self, settings: SubmissionSettings, examiner: Examiner) -> None:
        """Use other settings from now on."""
        self._settings, self._examiner = settings, examiner

    def accept(self, path: Path, descriptor: int, status: os.stat_result) -> Submission | None:
        """Accept a complete file, None if it was rejected or left.

        Raises:
            Torn: it is still being written; it is where it was.
            OSError: the system lacks something; the file is where it was.
        """
        near = self.incoming.is_near(path)
        queue_id = new_id(self._clock())
        if status.st_size > self._settings.max_message_size:
            reason = str(too_large(status.st_size, self._settings.max_message_size))
            if near:
                self._reject(path, path, status, reason, queue_id)
            else:  # to move it would be to copy it
                self._left.leave(path, status, reason)
            return None
        trusted = self._settings.trust_producers or status.st_uid == os.geteuid()
        if trusted and near:
            return self._in_place(path, descriptor, status, queue_id)
        return self._copied(path, descriptor, status, queue_id)

    def give_back(self, submission: Submission, reason: str) -> None:
        """Put a file that did not become a message where it can be taken again; with a reason, say so."""
        path = submission.path
        if submission.original is not None:
            submission.path.unlink(missing_ok=True)
            path = self.incoming.put_back(submission.original, None, submission.message.id)
        if reason:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(path)
                if submission.original or identity_of(status) == submission.identity:
                    self._left.leave(path, status, reason)  # else another one is there by now, and is taken next

    def _in_place(self, path: Path, descriptor: int, status: os.stat_result, queue_id: str) -> Submission | None:
        found = self._examined(_reader(descriptor), queue_id, status)
        _check_unchanged(descriptor, status, found)
        if isinstance(found, str):
            self._reject(path, path, status, found, queue_id)
            return None
        return Submission(message=found, path=path, identity=identity_of(status), file=path.name)

    def _copied(self, path: Path, descriptor: int, status: os.stat_result, queue_id: str) -> Submission | None:
        try:
            original = self.incoming.claim(path, queue_id)
        except OSError as error:
            if error.errno == errno.ENOENT or error.errno in SYSTEM_ERRORS:
                raise
            self._left.leave(path, status, f"it cannot be moved, so it is not sent: {error.strerror}")
            return None
        try:
            copy, found, identity = self._copy(original, descriptor, status, queue_id)
        except BaseException:
            self.incoming.put_back(original, path, queue_id)
            raise
        if isinstance(found, Message):
            return Submission(message=found, path=copy, identity=identity, original=original, file=path.name)
        copy.unlink()
        self._reject(original, path, status, found, queue_id)
        return None

    def _copy(
        self, original: Path, descriptor: int, status: os.stat_result, queue_id: str
    ) -> tuple[Path, Message | str, Identity]:
        """Copy the file and examine what was copied."""
        path, target = self.incoming.create_copy(queue_id)
        try:
            found = self._examined(_reader(descriptor, target), queue_id, status)
            if identity_of(os.lstat(original)) != identity_of(status):
                raise Torn
            _check_unchanged(descriptor, status, found)
            if not self.incoming.is_near(original):
                # It may be out of sight at a start after a crash, which then must find all of it in the copy.
                os.fsync(target)
            return path, found, identity_of(os.fstat(target))
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(target)

    def _examined(self, read: Read, queue_id: str, status: os.stat_result) -> Message | str:
        try:
            return self._examiner.examine(read, queue_id, expected=status.st_size, owner=status.st_uid)
        except Refused as refusal:
            return str(refusal)

    def _reject(self, path: Path, dropped: Path, status: os.stat_result, reason: str, queue_id: str) -> None:
        """Move `path` to `rejected/` under the name it was dropped as; if that fails it is left there."""
        try:
            self._rejected.move_in(path, dropped.name, reason, queue_id)
        except OSError as error:
            if path != dropped:
                self.incoming.put_back(path, dropped, queue_id)
            if error.errno == errno.ENOENT or error.errno in SYSTEM_ERRORS:
                raise
            self._left.leave(dropped, status, f"{reason} It cannot be moved to rejected/: {error.strerror}.")
            return
        self._tell(FileRejected(file=dropped.name, reason=reason))


def _reader(descriptor: int, copy_to: int | None = None) -> Read:
    """Return how to read the file, each octet once; what is read is written to `copy_to`."""

    def read(size: int) -> bytes:
        octets = os.read(descriptor, size)
        if copy_to is not None:
            rest = memoryview(octets)
            while rest:
                rest = rest[os.write(copy_to, rest) :]
        return octets

    return read


def _check_unchanged(descriptor: int, before: os.stat_result, found: Message | str) -> None:
    """Raise Torn if the file changed while it was read.  (ctime does not count: our own rename changes it.)"""
    after = os.fstat(descriptor)
    size = found.body.size if isinstance(found, Message) else before.st_size
    if (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
        raise Torn
