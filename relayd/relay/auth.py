"""SMTP AUTH (RFC 4954): which mechanism, and the exchange.

Sans-IO: a generator that yields what to say and is sent the replies.  A route with credentials never sends without
them, and a password does not go over clear text, unless the operator said of this very route that it has no TLS.
"""

from __future__ import annotations

from collections.abc import Generator

from relayd.mail.errors import SessionError
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials
from relayd.relay import connection
from relayd.relay.saying import Say, Talk

_OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
_IN_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")  # where nothing else protects the password
_REFUSED = EnhancedStatus(4, 7, 8)  # RFC 4954 section 6: authentication credentials invalid
_UNAVAILABLE = EnhancedStatus(4, 7, 4)  # RFC 3463 section 3.8: security features not supported
_CONTINUE = 334


def choose(offered: frozenset[str], *, encrypted: bool) -> str | None:
    """Return the mechanism to use, None if the server has none that we speak."""
    return next((name for name in (_OVER_TLS if encrypted else _IN_CLEAR) if name in offered), None)


def authentication(
    offered: frozenset[str], credentials: Credentials, *, encrypted: bool, clear_allowed: bool
) -> Generator[Talk, Reply, Deferred | None]:
    """Authenticate; return None once the server has accepted us, else why there can be no mail."""
    if not encrypted and not clear_allowed:
        return _deferred("the route has a password, and there is no TLS to protect it", _UNAVAILABLE)
    mechanism = choose(offered, encrypted=encrypted)
    if mechanism is None:
        names = ", ".join(sorted(offered)) or "none"
        return _deferred(
            f"the route has a password, and the server offers no AUTH that we speak ({names})", _UNAVAILABLE
        )
    answers = _answers(mechanism, credentials)
    name = f"AUTH {mechanism}"
    reply = yield Say(b"AUTH " + next(answers) + b"\r\n", name)
    try:
        while reply.code == _CONTINUE:
            reply = yield Say(answers.send(reply.text.strip()) + b"\r\n", name)
    except (StopIteration, SessionError):
        return _deferred(f"{name}: the server asks for more than the mechanism has: {reply}", _REFUSED)
    if reply.positive:
        return None
    return Deferred(reply, Scope.HOST, reason=f"{name}: {reply}", status=_REFUSED)


def _answers(mechanism: str, credentials: Credentials) -> Generator[bytes, str, None]:
    """Yield what we say, first with the command itself; each is sent the challenge that came for it."""
    user, password = credentials.username, credentials.password
    if mechanism == "PLAIN":
        yield b"PLAIN " + connection.plain(user, password)
    elif mechanism == "LOGIN":
        yield b"LOGIN"
        name, secret = connection.login(user, password)
        yield name
        yield secret
    else:
        challenge = yield b"CRAM-MD5"
        yield connection.cram_md5(user, password, challenge)


def _deferred(reason: str, status: EnhancedStatus) -> Deferred:
    return Deferred(scope=Scope.HOST, reason=reason, status=status)
