"""Why a dropped file is no message."""

from __future__ import annotations

from relayd.mail.errors import RelaydError

_SHOWN = 120  # characters of a producer's text in a reason


class Refused(RelaydError):
    """The file cannot become a message.  Its text is one plain sentence that ends with what to do.

    Raised by the pure readers, never leaves `submission/`.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}; {remedy}.")
        self.problem = problem


def shown(text: str | bytes) -> str:
    """Return `text` quoted on one line, shortened, every control character escaped."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN]) + ("..." if len(text) > _SHOWN else "")
