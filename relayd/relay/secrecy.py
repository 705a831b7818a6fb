"""A server's words without our password, should it say that back to us: replies go into the log, the queue and notices.

Pure.  Masked wherever they stand, in any case of letters: the password, and what AUTH PLAIN and LOGIN send of it, in
base64.  What a server makes of them otherwise (another encoding, a part of them) cannot be known.
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

    def __init__(self, credentials: Credentials | None) -> None:
        self._secret = re.compile("|".join(map(re.escape, _forms(credentials))), re.IGNORECASE) if credentials else None

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
        return replace(failure, reply=reply, reason=self._secret.sub(MASK, failure.reason))

    def of_reply(self, reply: Reply) -> Reply:
        """Return a reply, the password masked in its text."""
        return reply if self._secret is None else replace(reply, text=self._secret.sub(MASK, reply.text))


def _forms(credentials: Credentials) -> list[str]:
    """Return what is not to be seen, the longest first."""
    name, password = credentials.username.encode(), credentials.password.encode()
    sent = (b"\0" + name + b"\0" + password, password)
    return [*(b64encode(octets).decode("ascii").rstrip("=") for octets in sent), credentials.password]
