"""The token of one run at a site whose credentials are OAuth's: asked for when it is first needed.

A server that refuses it gets another, once in a run, since a token may have been revoked before its time.  More than
that would be guessing: a server that refuses two wants something else.
"""

from __future__ import annotations

from relayd.mail.outcome import Deferred
from relayd.mail.route import Site
from relayd.relay.ports import Tokens
from relayd.relay.secrecy import Secrecy
from relayd.relay.stirring import Stirring


class RunToken:
    """See the module.  `text` is empty until `obtain` has been called, and for a site without OAuth."""

    def __init__(self, site: Site, tokens: Tokens, secrecy: Secrecy, stirring: Stirring) -> None:
        self.text = ""
        self._site = site.key
        self._oauth = site.credentials is not None and site.credentials.oauth
        self._tokens = tokens
        self._secrecy = secrecy
        self._stirring = stirring
        self._renewed = False

    @property
    def renewable(self) -> bool:
        """Whether there may be another one in this run."""
        return self._oauth and not self._renewed

    async def obtain(self) -> Deferred | None:
        """Have a token, if the site wants one; return why there is none."""
        return await self._ask("") if self._oauth else None

    async def renew(self) -> Deferred | None:
        """Have another one than this, which a server refused; return why there is none."""
        self._renewed = True
        return await self._ask(self.text)

    async def _ask(self, rejected: str) -> Deferred | None:
        with self._stirring.waiting_for_us():
            token = await self._tokens.token(self._site, rejected=rejected)
        if isinstance(token, Deferred):
            return token
        if token != self.text:
            self._secrecy.learn(token)
        self.text = token
        return None
