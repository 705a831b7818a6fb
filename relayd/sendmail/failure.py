"""Why the command fails, with its exit code: those of sysexits(3), as callers of sendmail expect them."""

from __future__ import annotations

from relayd.mail.errors import RelaydError

EX_USAGE = 64  # the command line
EX_DATAERR = 65  # an address, or the message, cannot be used
EX_UNAVAILABLE = 69  # it is too large; nobody answers
EX_OSERR = 71
EX_CANTCREAT = 73  # the caller may not drop
EX_TEMPFAIL = 75  # try again later
EX_PROTOCOL = 76  # SMTP broken off
EX_CONFIG = 78


class Failure(RelaydError):
    """The command ends without having dropped anything; `code` is its exit code, the text one sentence or more."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
