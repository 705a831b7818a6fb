"""How long to wait for a server, phase by phase (RFC 5321 section 4.5.3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Each is a total deadline for one reply: octets of it that drip in do not extend it.

    The exception is what we send: as long as octets of ours are leaving, and not too slowly, nobody is late.
    """

    connect: timedelta = timedelta(seconds=30)  # for the TCP connection
    greeting: timedelta = timedelta(minutes=5)  # section 4.5.3.2.1
    ehlo: timedelta = timedelta(minutes=5)  # EHLO, HELO and AUTH
    starttls: timedelta = timedelta(seconds=60)  # for the reply, and again for the handshake
    mail: timedelta = timedelta(minutes=5)  # section 4.5.3.2.2; RSET too
    rcpt: timedelta = timedelta(minutes=5)  # section 4.5.3.2.3
    data: timedelta = timedelta(minutes=2)  # section 4.5.3.2.4, for the 354
    block: timedelta = timedelta(minutes=3)  # section 4.5.3.2.5, for each block of the body to leave
    final: timedelta = timedelta(minutes=10)  # section 4.5.3.2.6; less makes duplicates (RFC 1047)
    quit: timedelta = timedelta(seconds=5)
    min_data_rate: int = 500  # octets a second that a server takes of what waits for it, as Postfix has it

    @property
    def shortest(self) -> timedelta:
        """The shortest of the waits for a transaction."""
        return min(self.mail, self.rcpt, self.data, self.block, self.final)

    @property
    def longest_silence(self) -> timedelta:
        """The longest wait for a server in which nothing need happen (stirring.py); QUIT is not waited for."""
        return max(
            self.connect,
            self.greeting,
            self.ehlo,
            self.starttls,
            self.mail,
            self.rcpt,
            self.data,
            self.block,
            self.final,
        )

    def __post_init__(self) -> None:
        lengths = [getattr(self, name) for name in self.__slots__ if name != "min_data_rate"]
        if any(length <= timedelta(0) for length in lengths):
            raise ValueError("a timeout must be longer than nothing")
        if self.min_data_rate < 0:
            raise ValueError("a rate cannot be negative")
