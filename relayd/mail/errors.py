"""Our own trouble, as exceptions.  What a server or a resolver says is a value (outcome.py), never one of these."""

from __future__ import annotations


class RelaydError(Exception):
    """The root of all exceptions that relayd raises on purpose."""


class InvalidAddress(RelaydError, ValueError):
    """A text that is not an address of RFC 5321 section 4.1.2."""


class ConfigError(RelaydError):
    """The configuration cannot be used.  `mistakes` has one sentence for each, every one naming its key."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class QueueError(RelaydError):
    """The queue cannot do what it was asked to: full, corrupt, of another version, or no such message."""


class SpoolLocked(RelaydError):
    """Another daemon owns this spool."""


class SessionError(RelaydError):
    """A connection failed: never leaves `relay/`."""


class ResolveError(RelaydError):
    """A look-up failed: never leaves `route/`."""
