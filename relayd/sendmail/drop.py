"""One file on its way into the drop directory.  States:

    nothing          not begun, or failed, or interrupted
    tmp/<name>       being written; nobody takes it
    new/<name>       dropped, durably before `commit` returns; from now on it is relayd's

Whatever ends the program before the rename, short of SIGKILL, removes the file in tmp/; from the rename on a signal has
no effect, since the caller must not be told that nothing was sent.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from relayd.sendmail.failure import EX_CANTCREAT, EX_CONFIG, EX_TEMPFAIL, EX_UNAVAILABLE, Failure

MODE = 0o640  # the daemon reads what others drop as a member of the group of new/
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REFUSALS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class DropFile:
    """See the module.  A context manager: what was not committed when it ends is removed."""

    def __init__(self, spool: Path, max_size: int) -> None:
        self._spool = spool
        self._max_size = max_size
        self._size = 0
        self.name = f"{secrets.token_hex(16)}.sendmail"
        self._path = spool / "tmp" / self.name
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._open()
        except OSError as error:
            raise _cannot(self._spool, error) from None
        return self

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, MODE)
        try:
            os.fchmod(self._descriptor, MODE)  # whatever the umask is
            self._check_readable()
        except BaseException:
            self._discard()
            raise

    def _check_readable(self) -> None:
        """Refuse to drop what the daemon could not read: it would lie there for ever."""
        ours, new = os.fstat(self._descriptor), os.stat(self._spool / "new")
        if ours.st_gid != new.st_gid and new.st_uid not in (0, ours.st_uid):
            raise Failure(
                EX_CONFIG, f"{self._path.parent} lacks its set-gid bit, so relayd could not read the message; chmod g+s"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._descriptor >= 0:
            with suppress(FileNotFoundError):  # it was committed
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, octets: bytes) -> None:
        """Append octets.

        Raises:
            Failure: there is no room, or the message is too large.
        """
        self._size += len(octets)
        if self._size > self._max_size:
            raise Failure(EX_UNAVAILABLE, f"the message is larger than {self._max_size} octets")
        left = memoryview(octets)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise _cannot(self._spool, error) from None

    def read_again(self) -> int:
        """Return a descriptor that is at the beginning of what was written."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        return self._descriptor

    def commit(self) -> None:
        """Drop the file, durably.

        Raises:
            Failure: it is not dropped.
        """
        try:
            os.fsync(self._descriptor)
            for each in _SIGNALS:
                signal.signal(each, signal.SIG_IGN)
            os.rename(self._path, self._spool / "new" / self.name)
        except OSError as error:
            raise _cannot(self._spool, error) from None
        try:
            self._sync_name()
        except OSError as error:
            self._withdraw(error)

    def _sync_name(self) -> None:
        try:
            directory = os.open(self._spool / "new", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            # Who may drop, but not list what others drop.  A file system that has a journal writes the rename with
            # the file, whose time it changed.
            os.fsync(self._descriptor)
            return
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _withdraw(self, error: OSError) -> None:
        """Take back a file whose name may not be on the disk, unless relayd has it already, and made it durable."""
        with suppress(FileNotFoundError):
            os.unlink(self._spool / "new" / self.name)
            raise _cannot(self._spool, error) from None


def interrupting() -> tuple[signal.Signals, ...]:
    """Return the signals that may end the program: a caller may have them ignored, as nohup(1) does."""
    return tuple(each for each in _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN)


def fail_on(signals: Iterable[signal.Signals]) -> None:
    """Let these end the program as any failure does, by an exception."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        raise Failure(EX_TEMPFAIL, f"interrupted by {signal.Signals(number).name}")

    for each in signals:
        signal.signal(each, interrupted)


def _cannot(spool: Path, error: OSError) -> Failure:
    words = f"nothing can be dropped into {spool}: {error.strerror}"
    if error.errno in _REFUSALS:
        member = "; is the user in relayd's group?" if error.errno == errno.EACCES else ""
        return Failure(EX_CANTCREAT, words + member)
    return Failure(EX_TEMPFAIL, words)
