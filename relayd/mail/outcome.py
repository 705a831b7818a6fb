"""What became of a recipient in one attempt: Delivered, Deferred or Failed.

Pure.  A remote failure is a value with a scope, and the scope alone decides who suffers.  Either a server said
something (`reply`) or we did (`reason`, with our own `status`); `dsn` and `str()` serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from relayd.mail.reply import EnhancedStatus, Reply


class Scope(Enum):
    """Who suffers from a failure."""

    HOST = "host"  # connect, greeting, EHLO, TLS, AUTH, 421: ask the next host; the site may back off
    MESSAGE = "message"  # MAIL, DATA, final reply: all its recipients; the host is well
    RECIPIENT = "recipient"  # RCPT: this one only


@dataclass(frozen=True, slots=True)
class Delivered:
    """The server took responsibility: a 2yz to the end of the message, and to this recipient."""

    reply: Reply

    @property
    def dsn(self) -> EnhancedStatus:
        """The enhanced status of the reply, else 2.0.0."""
        return self.reply.status or EnhancedStatus(2, 0, 0)

    def __str__(self) -> str:
        return str(self.reply)


@dataclass(frozen=True, slots=True)
class Deferred:
    """Not now.  `possible_duplicate`: the end of the message may have reached the server, its answer did not reach
    us (RFC 1047)."""

    reply: Reply | None = None
    scope: Scope = Scope.MESSAGE
    reason: str = ""
    status: EnhancedStatus | None = None
    possible_duplicate: bool = False

    @property
    def dsn(self) -> EnhancedStatus:
        """Our own status, else that of the reply, else 4.0.0 (RFC.md R28: the class is the outcome's)."""
        return _dsn(4, self.reply, self.status)

    def __str__(self) -> str:
        return self.reason or str(self.reply or "")


@dataclass(frozen=True, slots=True)
class Failed:
    """Never.  The sender is told, where the RFCs allow it."""

    reply: Reply | None = None
    scope: Scope = Scope.MESSAGE
    reason: str = ""
    status: EnhancedStatus | None = None

    @property
    def dsn(self) -> EnhancedStatus:
        """Our own status, else that of the reply, else 5.0.0."""
        return _dsn(5, self.reply, self.status)

    def __str__(self) -> str:
        return self.reason or str(self.reply or "")


Outcome: TypeAlias = Delivered | Deferred | Failed


def _dsn(category: int, reply: Reply | None, ours: EnhancedStatus | None) -> EnhancedStatus:
    status = ours or (reply.status if reply else None)
    if status is None:
        return EnhancedStatus(category, 0, 0)
    return status if status.category == category else EnhancedStatus(category, status.subject, status.detail)
