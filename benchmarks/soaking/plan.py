"""What is dropped: each message, its recipients, its size and its body, all of them by its number and the seed.

Pure.  Message `m` has the recipients numbered `4m` and on, one to four of them, so that nothing has to be kept to know
what a number means: `r<number>@d<domain>.test`, sent by `s<m>@back<n>.test` or, seldom, by `<>`.  The body begins with
the number of its message, and has lines that begin with dots.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST = 4  # recipients of a message
BACKS = 4  # domains of senders
KIB = 1024
USUAL = (1, 2, 4, 4, 4, 8, 8, 16)  # KiB of a body
LARGE, HUGE = 1024 * KIB, 8 * 1024 * KIB
ONE_LARGE_OF, ONE_HUGE_OF = 4000, 60_000  # messages
ONE_NULL_OF = 100
LINE = b"The quick brown fox jumps over the lazy dog, and so on to the end.\r\n..a line with dots\r\n.\t\r\n"
END = b"The end.\r\n"

_MASK = (1 << 64) - 1


def draw(seed: int, kind: int, number: int) -> int:
    """Return 64 bits that look like chance, always the same for the same arguments (splitmix64)."""
    x = (seed * 0x9E3779B97F4A7C15 + kind * 0xD1B54A32D192ED03 + number + 1) * 0x9E3779B97F4A7C15 & _MASK
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _MASK
    return x ^ (x >> 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """See the module."""

    seed: int
    domains: int
    sites: int

    @property
    def names(self) -> dict[str, tuple[int, ...]]:
        """The hosts of each domain, the preferred one first: numbers of `mx<number>.test`."""
        hosts = {f"d{number}.test": self._hosts(number % self.sites) for number in range(self.domains)}
        return hosts | {f"back{number}.test": (self.sites + number,) for number in range(BACKS)}

    @property
    def hosts(self) -> tuple[int, ...]:
        """All hosts; those from `sites` on are the senders' and the backups."""
        return tuple(sorted({host for hosts in self.names.values() for host in hosts}))

    def is_back(self, host: int) -> bool:
        """Whether a host serves senders."""
        return self.sites <= host < self.sites + BACKS

    def recipients(self, message: int) -> range:
        """Return the numbers of a message's recipients."""
        chance = draw(self.seed, 1, message) % 100
        count = 1 if chance < 90 else 2 if chance < 97 else 3 if chance < 99 else 4
        return range(MOST * message, MOST * message + count)

    def recipient(self, number: int) -> str:
        """Return the address of a recipient."""
        return f"r{number}@d{self._domain(number)}.test"

    def is_null(self, message: int) -> bool:
        """Whether a message is sent by `<>`."""
        return draw(self.seed, 3, message) % ONE_NULL_OF == 0

    def sender(self, message: int) -> str:
        """Return the address of a sender; empty: `<>`."""
        return "" if self.is_null(message) else f"s{message}@back{message % BACKS}.test"

    def size(self, message: int) -> int:
        """Return about how many octets the body has."""
        chance = draw(self.seed, 4, message)
        if chance % ONE_HUGE_OF == 0:
            return HUGE
        return LARGE if chance % ONE_LARGE_OF == 1 else USUAL[chance % len(USUAL)] * KIB

    def file(self, message: int) -> bytes:
        """Return what is dropped."""
        envelope = [f"X-Sender: <{self.sender(message)}>"]
        envelope += [f"X-Receiver: <{self.recipient(number)}>" for number in self.recipients(message)]
        head = (
            "From: ann@example.org\r\nTo: bob@example.net\r\nSubject: soak\r\n"
            f"Date: Sun, 22 Nov 2026 08:00:00 +0000\r\nMessage-ID: <{message}@soak.test>\r\n\r\n"
        )
        return ("\r\n".join(envelope) + "\r\n" + head).encode() + self.body(message)

    def body(self, message: int) -> bytes:
        """Return what has to arrive, octet by octet, after the header."""
        return b"%d\r\n" % message + _text(self.size(message))

    def _domain(self, number: int) -> int:
        return draw(self.seed, 2, number) % self.domains

    def _hosts(self, site: int) -> tuple[int, ...]:
        """Every fourth site has a second host."""
        return (site, self.sites + BACKS + site) if site % 4 == 1 else (site,)


def host_name(host: int) -> str:
    """Return the name of a mail exchanger."""
    return f"mx{host}.test"


def address(host: int) -> str:
    """Return where it listens."""
    return f"127.1.{host // 200}.{host % 200 + 1}"


_texts: dict[int, bytes] = {}


def _text(size: int) -> bytes:
    """There are few sizes, and each is made once."""
    if size not in _texts:
        _texts[size] = LINE * (size // len(LINE)) + END
    return _texts[size]
