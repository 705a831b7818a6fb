"""One route's token: got when it is first asked for, renewed before it expires, by one request at a time.

What the reader must not break:

    However many ask, one request is under way; all of them get what came of it.
    A token that is due and not expired is given out while another is got: nobody waits for that, and a token server
    that is down for a while stops no mail.
    After a failure the server is left alone for a while, longer each time; who asks meanwhile is told of that failure.
    A refresh token that the server replaces is used from then on, and written to its file.  What somebody else wrote
    there is used from the next request on.
    No secret is in what is told: it is masked before it is cut.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime, timedelta

from relayd.mail.events import Degraded, Events, Restored, Trouble
from relayd.mail.https import HttpsError
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.tokens.exchange import (
    CONTENT_TYPE,
    MAX_SAID,
    Answer,
    Granted,
    Refused,
    Unavailable,
    form,
    secrets_in,
    understood,
)
from relayd.tokens.keeping import keep
from relayd.tokens.ports import Poster, ReadSecret
from relayd.tokens.settings import TokenRule
from relayd.tokens.token import Token

TIMEOUT = timedelta(seconds=30)  # for one request, names and all
MAX_ANSWER = 64 * 1024  # octets
PASSING = timedelta(seconds=5), timedelta(minutes=10)  # first and longest wait after what may pass by itself
LASTING = timedelta(minutes=1), timedelta(hours=1)  # after what takes the operator; a reload ends it
NO_TOKEN = EnhancedStatus(4, 7, 0)  # RFC 4954 section 6: temporary authentication failure
MASK = "[secret]"

_SIGN_IN = "sign in and consent again, put the new refresh token into {refresh}, and reload relayd"
_CLIENT = "see to oauth_client_id and {secret}, and reload relayd"
_ADVICE = {"invalid_grant": _SIGN_IN, "invalid_client": _CLIENT, "unauthorized_client": _CLIENT}


class Source:
    """See the module."""

    def __init__(
        self,
        rule: TokenRule,
        *,
        https: Poster,
        read_secret: ReadSecret,
        clock: Callable[[], datetime],
        events: Events,
    ) -> None:
        self.rule = rule
        self._https = https
        self._read_secret = read_secret
        self._clock = clock
        self._events = events
        self._token: Token | None = None
        self._refresh_token = rule.refresh_token
        self._in_file = rule.refresh_token  # what the file was last known to hold
        self._request: asyncio.Task[None] | None = None
        self._failures = 0
        self._failure: tuple[datetime, str] | None = None  # when to ask again, and why there is nothing
        self._parts: dict[str, str] = {}  # that are told of as degraded, and why

    async def token(self, rejected: str = "") -> str | Deferred:
        """Return the token, or why there is none; `rejected` is dropped before."""
        if self._token is not None and rejected and rejected == self._token.text:
            self._token = None
        now = self._clock()
        if self._token is None or self._token.expired(now):
            await self._requested(now)
        elif self._token.due(now):
            self._begin_request(now)
        if self._token is not None and not self._token.expired(self._clock()):
            return self._token.text
        _, why = self._failure or (now, "no token was got")
        reason = f"no OAuth token for the route {self.rule.route}: {why}"
        return Deferred(scope=Scope.HOST, reason=reason, status=NO_TOKEN)

    def reload(self, rule: TokenRule) -> None:
        """Use another rule for the same route; a failure is forgotten, so that what the operator mended is tried."""
        if rule.refresh_token != self._in_file:
            self._refresh_token = self._in_file = rule.refresh_token
        changed = (rule.url, rule.client_id, rule.scope) != (self.rule.url, self.rule.client_id, self.rule.scope)
        if changed:
            self._token = None
        self.rule = rule
        self._failures, self._failure = 0, None

    async def close(self) -> None:
        """End the request that is under way; nothing is degraded any more."""
        for part in list(self._parts):
            self._restored(part)
        if self._request is not None:
            self._request.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._request

    # requests

    async def _requested(self, now: datetime) -> None:
        request = self._begin_request(now)
        if request is not None:
            await asyncio.wait([request])

    def _begin_request(self, now: datetime) -> asyncio.Task[None] | None:
        """Return the request that is under way, begun if need be; None while the server is left alone."""
        if self._request is None:
            if self._failure is not None and now < self._failure[0]:
                return None
            self._request = asyncio.create_task(self._make_request())
        return self._request

    async def _make_request(self) -> None:
        try:
            rule, answer = None, None
            while rule is not self.rule:  # once more if the configuration has changed meanwhile
                rule = self.rule
                answer = await self._exchange(rule)
            match answer:
                case Granted():
                    self._token = answer.token
                    self._failures, self._failure = 0, None
                    self._restored(self._tokens_part)
                case Refused():
                    self._fail(_refusal(self.rule, answer, self._masked), *LASTING)
                case Unavailable():
                    self._fail(self._masked(answer.why)[:MAX_SAID], *PASSING)
        except Exception as error:  # our own trouble: its text may have anything in it
            self._events(Trouble(part=self._tokens_part, detail=type(error).__name__))
            self._fail(f"internal error: {type(error).__name__}", *PASSING)
        finally:
            self._request = None

    async def _exchange(self, rule: TokenRule) -> Answer:
        """Ask once, and keep the refresh token that the server gives in place of the one that was used."""
        await self._look_at_file(rule)
        used = self._refresh_token
        answer = await self._ask(rule, used)
        new = answer.refresh_token if isinstance(answer, Granted) else ""
        if used and new and new != used and self._refresh_token == used:
            self._refresh_token = new
            await self._keep(rule, new)
        return answer

    async def _ask(self, rule: TokenRule, refresh_token: str) -> Answer:
        body, headers = form(rule, refresh_token)
        try:
            response = await self._https.post(
                rule.url,
                body,
                content_type=CONTENT_TYPE,
                headers=headers,
                timeout=TIMEOUT,
                limit=MAX_ANSWER,
                configured=True,
            )
        except HttpsError as error:
            return Unavailable(why=f"no answer from {rule.url}: {error.reason}")
        return understood(response, self._clock())

    def _fail(self, why: str, first: timedelta, longest: timedelta) -> None:
        wait = min(first * 2 ** min(self._failures, 16), longest)
        self._failures += 1
        self._failure = self._clock() + wait, why
        self._degraded(self._tokens_part, why)

    # the file of the refresh token

    async def _look_at_file(self, rule: TokenRule) -> None:
        """Use what was put there meanwhile.  One that cannot be read is told of by a reload, and no reason to stop."""
        if rule.refresh_token_file is None:
            return
        with contextlib.suppress(OSError, ValueError):
            found = await asyncio.to_thread(self._read_secret, rule.refresh_token_file)
            if found != self._in_file:
                self._refresh_token = self._in_file = found

    async def _keep(self, rule: TokenRule, new: str) -> None:
        path, old = rule.refresh_token_file, self._in_file
        assert path is not None
        try:
            await asyncio.to_thread(keep, path, old, new)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            reason = f"the server has replaced the refresh token, and the new one cannot be written to {path} ({why}): "
            self._degraded(self._file_part, reason + "it is lost with the next restart")
        else:
            if self._in_file == old:
                self._in_file = new
            self._restored(self._file_part)

    # telling

    @property
    def _tokens_part(self) -> str:
        return f"tokens of route {self.rule.route}"

    @property
    def _file_part(self) -> str:
        return f"refresh token file of route {self.rule.route}"

    def _masked(self, text: str) -> str:
        """A server may say back what it was told."""
        for secret in secrets_in(self.rule, self._refresh_token):
            text = text.replace(secret, MASK)
        return text

    def _degraded(self, part: str, why: str) -> None:
        if self._parts.get(part) != why:
            self._parts[part] = why
            self._events(Degraded(part=part, reason=why))

    def _restored(self, part: str) -> None:
        if self._parts.pop(part, None) is not None:
            self._events(Restored(part=part))


def _refusal(rule: TokenRule, refused: Refused, masked: Callable[[str], str]) -> str:
    """Return what was refused, and what to do about it."""
    said = masked(refused.detail)[:MAX_SAID]
    detail = f" ({said})" if said and said != refused.error else ""
    asks_the_user = "consent" in refused.error or "interaction" in refused.error  # Microsoft's, among others
    advice = _ADVICE.get(refused.error, _SIGN_IN if asks_the_user else "")
    if not advice or (advice == _SIGN_IN and rule.refresh_token_file is None):
        advice = "see to the oauth_ settings of the route, and reload relayd"
    secret = rule.client_secret_file or "oauth_client_secret_file"
    words = advice.format(refresh=rule.refresh_token_file, secret=secret)
    return f"the token server says {refused.error}{detail}: {words}"
