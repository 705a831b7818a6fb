"""What befalls one connection, and one transaction on it: drawn when it begins.

About one connection in twenty and one transaction in forty has some.  A sender's exchanger never refuses for good, so
that every notification must arrive in the end.
"""

from __future__ import annotations

import random

AFTER = 12_000  # octets in, on average, before an end
AFTER_REPLIES = 500  # octets out
MOST_MESSAGES = 12  # before a 421
STAGES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", "final")
ENTERING = {
    "greeting": (b"421 4.3.2 not now\r\n", b"451 4.3.0 not now\r\n"),
    "EHLO": (b"421 4.3.2 not now\r\n", b"451 4.3.0 not now\r\n"),
}
TEMPORARY = {
    "MAIL": (b"451 4.3.0 later\r\n", b"452 4.3.1 no room\r\n", b"421 4.3.2 closing\r\n"),
    "RCPT": (b"450 4.2.1 busy\r\n", b"451 4.3.0 later\r\n", b"452 4.5.3 too many\r\n", b"421 4.3.2 closing\r\n"),
    "DATA": (b"451 4.3.0 later\r\n", b"421 4.3.2 closing\r\n"),
    "final": (b"451 4.3.0 later\r\n", b"452 4.2.2 full\r\n", b"421 4.3.2 closing\r\n"),
}
PERMANENT = {
    "MAIL": (b"550 5.7.1 not from you\r\n",),
    "RCPT": (b"550 5.1.1 no such user\r\n", b"552-5.2.2 the mailbox\r\n552 5.2.2 is full\r\n"),
    "DATA": (b"554 5.5.1 no\r\n",),
    "final": (b"554 5.6.0 not this\r\n", b"550 5.7.1 looks like spam\r\n"),
}
OF_CONNECTIONS, OF_TRANSACTIONS = 0.05, 0.025  # shares that have trouble
FOR_GOOD = 0.3  # share of the transactions' trouble


class Trouble:
    """See the module.  Where it is -1, what it is a limit of has none."""

    __slots__ = ("_chance", "_entering", "_permanent", "_share", "cut_in", "cut_out", "limit", "resets", "stall")

    def __init__(self, chance: random.Random, *, calm: bool, permanent: bool) -> None:
        self._chance = chance
        self._permanent = permanent
        self._share = 0.0 if calm else OF_TRANSACTIONS
        self.cut_in = self.cut_out = self.limit = -1
        self.resets = False
        self.stall = ""  # the stage
        self._entering = ""
        if not calm and chance.random() < OF_CONNECTIONS:
            self._draw()

    def at(self, stage: str) -> bytes:
        """Return what is answered to a client that comes in; empty: nothing but what is usual."""
        return self._chance.choice(ENTERING[stage]) if stage == self._entering else b""

    def transaction(self) -> tuple[str, bytes]:
        """Return at which stage a transaction is refused, and how."""
        if self._chance.random() >= self._share:
            return "", b""
        replies = PERMANENT if self._permanent and self._chance.random() < FOR_GOOD else TEMPORARY
        stage = self._chance.choice(tuple(replies))
        return stage, self._chance.choice(replies[stage])

    def seconds(self, least: float, most: float) -> float:
        """Return a time between these."""
        return self._chance.uniform(least, most)

    def _draw(self) -> None:
        chance = self._chance
        self.resets = chance.random() < 0.5
        match chance.randrange(8):
            case 0 | 1 | 2:
                self.cut_in = int(chance.expovariate(1 / AFTER))
            case 3 | 4:
                self.cut_out = int(chance.expovariate(1 / AFTER_REPLIES))
            case 5:
                self.limit = chance.randrange(MOST_MESSAGES)
            case 6:
                self._entering = chance.choice(tuple(ENTERING))
            case _:
                self.stall = chance.choice(STAGES)
