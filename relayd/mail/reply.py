"""What a server said: a code, an enhanced status, a text.

Pure.  Judged by the first digit of the code alone (RFC 5321 section 4.2.1): `252` accepts a recipient as `250` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?=\s|$)")


@dataclass(frozen=True, slots=True)
class EnhancedStatus:
    """RFC 3463's `class.subject.detail`, as `5.1.1`."""

    category: int
    subject: int
    detail: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse a text that begins with a status; None if it does not."""
        if match := _STATUS.match(text):
            return cls(int(match[1]), int(match[2]), int(match[3]))
        return None

    def __str__(self) -> str:
        return f"{self.category}.{self.subject}.{self.detail}"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.  `text` has its lines joined by newlines, without codes and without the enhanced status.

    `status` is None where the server gave none that agrees with `code`.
    """

    code: int
    text: str = ""
    status: EnhancedStatus | None = None

    @classmethod
    def parse(cls, code: int, text: str) -> Self:
        """Split off the enhanced status, on every line, if there is one that agrees with `code`.

        Where they disagree the reply code wins: it is the one the protocol acts on (RFC 5321 section 4.2.1), so the
        odd status stays in `text`.
        """
        status = EnhancedStatus.parse(text)
        if status is None or status.category != code // 100:
            return cls(code, text)
        mark = f"{status}"
        lines = (line.removeprefix(mark).lstrip(" ") for line in text.split("\n"))
        return cls(code, "\n".join(lines), status)

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return self.code // 100 == 2

    @property
    def intermediate(self) -> bool:
        """3yz: go on."""
        return self.code // 100 == 3

    @property
    def transient(self) -> bool:
        """4yz: not now."""
        return self.code // 100 == 4

    @property
    def permanent(self) -> bool:
        """5yz: never."""
        return self.code // 100 == 5

    def __str__(self) -> str:
        text = self.text.replace("\n", " ")
        return " ".join(part for part in (str(self.code), str(self.status or ""), text) if part)
