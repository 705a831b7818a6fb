"""Stories of mail, each a small batch: what is dropped, how the servers answer, and what has to come of it.

A recipient's local part says what becomes of it, and whose it is: `ok0.<uuid>@...`.  `ok` is taken, `late` is
deferred once and then taken, `no` is refused for good.  Mail to DEAD finds nobody who listens until `revived`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace

MAIL = "mail.kills.test"
OTHER = "other.kills.test"  # another site
DEAD = "dead.kills.test"
HOME = "sender.kills.test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One file that is dropped.  `own` ones belong to relayd's user; `sender` is "" for <>; one with a key is dropped
    `twice`."""

    name: str
    sender: str
    recipients: tuple[str, ...]
    own: bool = True
    notify: str = ""
    twice: bool = False

    @property
    def body(self) -> str:
        """What it says, which no other says."""
        return f"This is letter {self.name}.\n.\nIts second line was a dot.\n"

    @property
    def octets(self) -> bytes:
        """The file."""
        lines = [f"X-Sender: <{self.sender}>", *([f"X-Relayd-Key: {self.name}"] if self.twice else [])]
        lines += [f"X-Receiver: <{each}>{self.notify}" for each in self.recipients]
        lines += [f"Message-ID: <{self.name}@kills.test>", "From: <ann@sender.kills.test>", "Subject: kills"]
        return ("\n".join([*lines, "", ""]) + self.body).encode()

    @property
    def refused(self) -> frozenset[str]:
        """Those of the recipients that are refused for good."""
        return frozenset(each for each in self.recipients if each.startswith("no"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What is dropped.  It is told when all is accepted, and, if it `ends`, when every recipient is final."""

    name: str
    letters: tuple[Letter, ...]
    ends: bool = True

    @property
    def final(self) -> int:
        """How many recipients are final when it is told."""
        return sum(len(each.recipients) for each in self.letters) if self.ends else 0

    @property
    def names(self) -> frozenset[str]:
        """The names of its letters."""
        return frozenset(each.name for each in self.letters)


def letter(
    *kinds: str, domain: str = MAIL, own: bool = True, null: bool = False, notify: str = "", number: int = 0
) -> Letter:
    """Return a letter to recipients of these kinds, or at other domains than `domain`."""
    name = uuid.uuid4().hex
    addresses = (kind if "@" in kind else f"{kind}@{domain}" for kind in kinds)
    recipients = tuple(address.replace("@", f".{name}@", 1) for address in addresses)
    sender = "" if null else f"from.{name}@{HOME}"
    return Letter(name=name, sender=sender, recipients=recipients, own=own, notify=notify)


def accept() -> Story:
    """Files of our own user and of others are accepted; they wait, since nobody listens where they go."""
    letters = tuple(letter("ok0", "ok1", domain=DEAD, own=own) for own in (True, False, True, False))
    return Story(name="accept", letters=letters, ends=False)


def many() -> Story:
    """More files than are synced one by one, then delivered."""
    return Story(name="many", letters=tuple(letter("ok0", own=number % 2 > 0) for number in range(6)))


def deliver() -> Story:
    """Delivered at once, to two sites."""
    letters = (
        letter("ok0", "ok1"),
        letter("ok0", f"ok1@{OTHER}", own=False),
        letter("ok0", notify=" NOTIFY=SUCCESS"),
    )
    return Story(name="deliver", letters=letters)


def defer() -> Story:
    """Deferred once, by recipient or at the end of the message, then delivered."""
    letters = (letter("late0", "ok1"), letter("late0", own=False), letter("later0", domain=OTHER))
    return Story(name="defer", letters=letters)


def bounce() -> Story:
    """Refused: the sender is told, but for <>."""
    letters = (letter("no0", "ok1"), letter("no0", "no1", own=False), letter("no0", null=True))
    return Story(name="bounce", letters=letters)


def repeat() -> Story:
    """Dropped twice, under a key, by our own user and by others: a message each, delivered."""
    letters = tuple(replace(letter("ok0", own=own), twice=True) for own in (True, False))
    return Story(name="repeat", letters=letters)


STORIES = {each.__name__: each for each in (accept, many, deliver, defer, bounce, repeat)}
