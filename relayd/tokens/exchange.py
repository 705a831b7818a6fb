"""What is said to a token server, and what it answers (RFC 6749 sections 4.4, 5 and 6).

Pure: `now` is an argument.  An answer is a stranger's: of the wrong type, cut short or with control characters in it.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeAlias
from urllib.parse import quote_plus, urlencode

from relayd.mail.https import Response
from relayd.tokens.settings import ClientAuth, TokenRule
from relayd.tokens.token import Token

CONTENT_TYPE = "application/x-www-form-urlencoded"
MAX_TOKEN = 8192  # characters: in base64, with a name, it still fits the 12288 octets of RFC 4954 section 4
MAX_SAID = 200  # characters of what a server says
UNSTATED = timedelta(hours=1)  # the life of a token of which the server does not say it
LONGEST_LIFE = timedelta(days=30)

_TOKEN = re.compile(r"[\x21-\x7e]+")  # RFC 6749 appendix A.12, without the blank, which ends a Bearer token
_ERROR = re.compile(r"[\w.-]{1,64}", re.ASCII)
_PASSING = {"temporarily_unavailable", "server_error", "slow_down"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A token; `refresh_token` replaces the one we have, if it is not empty."""

    token: Token
    refresh_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """No, and it takes the operator to change that: `error` is the code of RFC 6749 section 5.2, `detail` words."""

    error: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Not now; `why` in words."""

    why: str


Answer: TypeAlias = Granted | Refused | Unavailable


def form(rule: TokenRule, refresh_token: str) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request."""
    fields = {"grant_type": "client_credentials"}
    if refresh_token:
        fields = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    if rule.scope:
        fields["scope"] = rule.scope
    headers = {"Accept": "application/json"}
    if rule.client_auth is ClientAuth.BASIC:
        headers["Authorization"] = "Basic " + _pair(rule)
    else:
        fields["client_id"] = rule.client_id
        if rule.client_secret:
            fields["client_secret"] = rule.client_secret
    return urlencode(fields).encode("ascii"), headers


def secrets_in(rule: TokenRule, refresh_token: str) -> list[str]:
    """Return what of a request is not to be seen, in every form in which it is sent, the longest first."""
    plain = [secret for secret in (rule.client_secret, refresh_token) if secret]
    forms = {*plain, *map(quote_plus, plain), *([_pair(rule)] if rule.client_secret else [])}
    return sorted(forms, key=len, reverse=True)


def _pair(rule: TokenRule) -> str:
    return b64encode(f"{quote_plus(rule.client_id)}:{quote_plus(rule.client_secret)}".encode()).decode("ascii")


def understood(response: Response, now: datetime) -> Answer:
    """Return what an answer means."""
    members = _members(response.body)
    if response.status == 200:
        return _granted(members, now)
    error = members.get("error")
    if isinstance(error, str) and 400 <= response.status < 500 and response.status != 429 and error not in _PASSING:
        return Refused(error=error if _ERROR.fullmatch(error) else "an error", detail=_text(members))
    said = f": {told}" if (told := _text(members)) else ""
    return Unavailable(why=f"the token server answers with status {response.status}{said}")


def _members(body: bytes) -> dict[str, Any]:
    try:
        members = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}


def _granted(members: dict[str, Any], now: datetime) -> Answer:
    text, kind = members.get("access_token"), members.get("token_type", "Bearer")
    if not _usable(text):
        return Unavailable(why="the token server's answer has no token that can be used")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        return Unavailable(why="the token server's token is not of the type Bearer")
    refresh_token = members.get("refresh_token")
    token = Token(text=str(text), obtained=now, expires=now + _life(members.get("expires_in")))
    return Granted(token=token, refresh_token=str(refresh_token) if _usable(refresh_token) else "")


def _usable(text: Any) -> bool:
    return isinstance(text, str) and len(text) <= MAX_TOKEN and _TOKEN.fullmatch(text) is not None


def _life(seconds: Any) -> timedelta:
    """Some servers write the number as a text."""
    try:
        life = timedelta(seconds=float(seconds))
    except (TypeError, ValueError, OverflowError):
        return UNSTATED
    return min(max(life, timedelta(seconds=1)), LONGEST_LIFE)


def _text(members: dict[str, Any]) -> str:
    """Return what the server says to people, on one line; not cut yet, since what is secret is masked before."""
    said = members.get("error_description") or members.get("error") or ""
    text = said if isinstance(said, str) else ""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
