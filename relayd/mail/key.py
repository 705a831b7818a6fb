"""The key by which a producer knows a submission, so that repeating it makes no second message.

Pure.  A key is its owner's: the user to whom the dropped file belongs.  Nobody can keep another's mail from being sent
by guessing his keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta

MAX_KEY = 255  # characters
KEPT = timedelta(hours=24)  # after the arrival of the first; then the same key is a new one

_TEXT = re.compile(rf"[!-~](?:[ -~]{{0,{MAX_KEY - 2}}}[!-~])?")


def is_key(text: str) -> bool:
    """Whether `text` can be a key: 1 to 255 printable characters of ASCII, no space at either end."""
    return _TEXT.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class SubmissionKey:
    """A key; `owner` is a user's number."""

    owner: int
    text: str

    def __post_init__(self) -> None:
        if not is_key(self.text):
            raise ValueError(f"not a key: {self.text!r}")
