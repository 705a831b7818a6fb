"""What is sent: N messages of a size over D domains on S sites, numbered.

Message `number` goes to `r<number>@d<number modulo D>.test`, so that a sink can tell which came, and neighbours in the
queue go to different domains.  All have the same content.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.zone import Zone, domains

SENDER = "ann@example.org"
LINE = b"The quick brown fox jumps over the lazy dog, and so on to the end of the line.\r\n"
HEAD = (
    b"From: ann@example.org\r\nTo: bob@example.net\r\nSubject: bench\r\nDate: Sun, 22 Nov 2026 08:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n\r\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """See the module.  `size` is in octets, header included; `prefix` begins the names of domains and exchangers,
    `first` is the number of the first message, `address` where all exchangers are."""

    messages: int
    size: int = 4096
    domains: int = 1
    sites: int = 1
    prefix: str = ""
    first: int = 0
    address: str = "127.0.0.1"

    @property
    def numbers(self) -> range:
        """The numbers of its messages."""
        return range(self.first, self.first + self.messages)

    @property
    def zone(self) -> Zone:
        """Its domains."""
        return domains(self.domains, self.sites, prefix=self.prefix, address=self.address)

    @property
    def content(self) -> bytes:
        """The file of each message, CRLF at the end of each line."""
        text = LINE * ((self.size - len(HEAD)) // len(LINE) + 1)
        return HEAD + text[: max(self.size - len(HEAD) - 2, 0)] + b"\r\n"

    def domain(self, number: int) -> str:
        """Return where a message goes."""
        return f"{self.prefix}d{number % self.domains}.test"

    def recipient(self, number: int) -> str:
        """Return to whom a message goes."""
        return f"r{number}@{self.domain(number)}"
