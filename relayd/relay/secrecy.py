"""A server's words without our password, should it say that back to us: replies go into the log, the queue and notices.

Pure.  Masked wherever they stand, in any case of letters: the password, and what AUTH PLAIN and LOGIN send of it, in
base64; a token, and whatever in base64 has it inside, as AUTH XOAUTH2 and OAUTHBEARER send it.  What a server makes of
them otherwise (another encoding, a part of them) cannot be known.
"""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import replace

from relayd.mail.outcome import Deferred, Delivered, Failed, Outcome
from relayd.mail.reply import Reply
from relayd.mail.route import Credentials

MASK = "[password]"


class Secrecy:
    """For what the hosts of one site say.  Without credentials all is passed on as it is."""

    def __init__(self, credentials: Credentials | None, token: str = "") -> None:
        self._credentials = credentials
        self._forms = _of_password(credentials) if credentials and credentials.password else []
        self._secret: re.Pattern[str] | None = None
        self.learn(token)

    def learn(self, token: str) -> None:
        """Mask this one, too."""
        if token and self._credentials:
            self._forms += _of_token(token, self._credentials.username)
        longest_first = sorted(self._forms, key=len, reverse=True)
        self._secret = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if self._forms else None

    def of_outcome(self, outcome: Outcome) -> Outcome:
        """Return an outcome, the password masked in what was said and in what we made of it."""
        if isinstance(outcome, Delivered):
            return outcome if self._secret is None else replace(outcome, reply=self.of_reply(outcome.reply))
        return self.of_failure(outcome)

    def of_failure(self, failure: Deferred | Failed) -> Deferred | Failed:
        """Do so for what cannot be Delivered."""
        if self._secret is None:
            return failure
        reply = None if failure.reply is None else self.of_reply(failure.reply)
        return replace(failure, reply=reply, reason=self.of_text(failure.reason))

    def of_reply(self, reply: Reply) -> Reply:
        """Return a reply, the password masked in its text."""
        return reply if self._secret is None else replace(reply, text=self.of_text(reply.text))

    def of_text(self, text: str) -> str:
        """Do so for words."""
        return text if self._secret is None else self._secret.sub(MASK, text)


def _of_token(token: str, username: str) -> list[str]:
    """Return a token's forms: as it is, as it is sent, and what base64 makes of it inside anything longer, which
    depends on where it stands there."""
    octets = token.encode()
    xoauth2 = b64encode(b"user=" + username.encode() + b"\x01auth=Bearer " + octets + b"\x01\x01")
    inside = []
    for before, lost in ((0, 0), (1, 2), (2, 3)):  # octets before it in its first group; the letters they touch
        whole = (before + len(octets)) * 8 // 6  # letters that no octet after it touches
        inside.append(b64encode(bytes(before) + octets).decode("ascii")[lost:whole])
    return [token, xoauth2.decode("ascii").rstrip("="), *filter(None, inside)]


def _of_password(credentials: Credentials) -> list[str]:
    """Return a password's forms."""
    name, password = credentials.username.encode(), credentials.password.encode()
    sent = (b"\0" + name + b"\0" + password, password)
    return [*(b64encode(octets).decode("ascii").rstrip("=") for octets in sent), credentials.password]
