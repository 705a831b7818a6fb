"""SMTP AUTH (RFC 4954): which mechanism, and the exchange.

Sans-IO: a generator that yields what to say and is sent the replies.  A route with credentials never sends without
them, and neither a password nor a token goes over clear text, unless the operator said of this very route that it has
no TLS.

A token may be longer than a command line is allowed to be.  RFC 4954 section 4 leaves that limit as it is: then AUTH
goes without the initial response, which follows on a line of its own, where 12288 octets are usual.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Generator, Sequence

from relayd.mail.errors import SessionError
from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials
from relayd.relay import connection
from relayd.relay.saying import Say, Talk
from relayd.relay.secrecy import Secrecy

REFUSED = 535  # RFC 4954 section 6: authentication credentials invalid
MAX_COMMAND = 512  # octets, CRLF included (RFC 5321 section 4.5.3.1.4)
MAX_RESPONSE = 12288  # octets (RFC 4954 section 4), CRLF not included
MAX_SAID = 200  # characters of what a server says of a token

_OVER_TLS = ("PLAIN", "LOGIN", "CRAM-MD5")
_IN_CLEAR = ("CRAM-MD5", "PLAIN", "LOGIN")  # where nothing else protects the password
_WITH_TOKEN = ("OAUTHBEARER", "XOAUTH2")  # the standard before what was there before it
_INVALID = EnhancedStatus(4, 7, 8)  # RFC 4954 section 6: authentication credentials invalid
_UNAVAILABLE = EnhancedStatus(4, 7, 4)  # RFC 3463 section 3.8: security features not supported
_CONTINUE = 334


def choose(offered: frozenset[str], credentials: Credentials, *, encrypted: bool) -> str | None:
    """Return the mechanism to use, None if the server has none that we speak."""
    return next((name for name in _wanted(credentials, encrypted=encrypted) if name in offered), None)


def authentication(
    offered: frozenset[str], credentials: Credentials, *, encrypted: bool, clear_allowed: bool, token: str = ""
) -> Generator[Talk, Reply, Deferred | None]:
    """Authenticate; return None once the server has accepted us, else why there can be no mail.

    `token` is what credentials with `oauth` have in place of a password.
    """
    what = "token" if credentials.oauth else "password"
    if not encrypted and not clear_allowed:
        return _deferred(f"the route has a {what}, and there is no TLS to protect it", _UNAVAILABLE)
    mechanism = choose(offered, credentials, encrypted=encrypted)
    if mechanism is None:
        return _deferred(_without_mechanism(what, offered, credentials), _UNAVAILABLE)
    name = f"AUTH {mechanism}"
    answers = _answers(mechanism, credentials, token)
    first = next(answers)
    if len(first) > MAX_RESPONSE:
        return _deferred(f"{name}: the {what} is too long: {len(first)} octets", _INVALID)
    reply = yield from _begin(mechanism, first, name)
    said = ""
    try:
        while reply.code == _CONTINUE:
            said = reply.text.strip()
            reply = yield Say(answers.send(said) + b"\r\n", name)
    except (StopIteration, SessionError):
        return _deferred(f"{name}: the server asks for more than the mechanism has: {reply}", _INVALID)
    if reply.positive:
        return None
    detail = _error(said, Secrecy(credentials, token)) if credentials.oauth and said else ""
    return Deferred(reply, Scope.HOST, reason=f"{name}: {reply}{detail}", status=_INVALID)


def _wanted(credentials: Credentials, *, encrypted: bool) -> Sequence[str]:
    if credentials.mechanisms:
        return credentials.mechanisms
    if credentials.oauth:
        return _WITH_TOKEN
    return _OVER_TLS if encrypted else _IN_CLEAR


def _without_mechanism(what: str, offered: frozenset[str], credentials: Credentials) -> str:
    names = ", ".join(sorted(offered)) or "none"
    if credentials.mechanisms:
        return f"the route has a {what} for AUTH {' or '.join(credentials.mechanisms)}, the server offers: {names}"
    return f"the route has a {what}, and the server offers no AUTH that we speak for it ({names})"


def _begin(mechanism: str, response: bytes, name: str) -> Generator[Talk, Reply, Reply]:
    """Say AUTH with the initial response, if there is one; return the reply to that."""
    command = b" ".join((b"AUTH", mechanism.encode("ascii"), response)).rstrip() + b"\r\n"
    if len(command) <= MAX_COMMAND:
        return (yield Say(command, name))
    reply = yield Say(f"AUTH {mechanism}\r\n".encode("ascii"), name)
    if reply.code == _CONTINUE:
        reply = yield Say(response + b"\r\n", name)
    return reply


def _answers(mechanism: str, credentials: Credentials, token: str) -> Generator[bytes, str, None]:
    """Yield what we say, first the initial response, empty where there is none; each is sent the challenge for it."""
    user, password = credentials.username, credentials.password
    match mechanism:
        case "PLAIN":
            yield connection.plain(user, password)
        case "LOGIN":
            name, secret = connection.login(user, password)
            yield b""
            yield name
            yield secret
        case "CRAM-MD5":
            challenge = yield b""
            yield connection.cram_md5(user, password, challenge)
        case "XOAUTH2":
            yield b64encode(f"user={user}\x01auth=Bearer {token}\x01\x01".encode())
            yield b""  # to what is wrong with the token: then the server says its last word
        case "OAUTHBEARER":
            yield b64encode(f"n,a={_saslname(user)},\x01auth=Bearer {token}\x01\x01".encode())  # RFC 7628 section 3.1
            yield b"AQ=="  # likewise (RFC 7628 section 3.2.3)
        case _:
            raise ValueError(mechanism)


def _saslname(user: str) -> str:
    """RFC 5801 section 4."""
    return user.replace("=", "=3D").replace(",", "=2C")


def _error(challenge: str, secrecy: Secrecy) -> str:
    """Return what a server says is wrong with a token, in JSON (RFC 7628 section 3.2.2): a stranger's words, so on one
    line, without what is secret, and cut."""
    try:
        text = b64decode(challenge, validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        text = challenge
    plain = "".join(character if character.isprintable() else " " for character in text)
    said = " ".join(secrecy.of_text(plain).split())[:MAX_SAID]
    return f" (it says of the token: {said})" if said else ""


def _deferred(reason: str, status: EnhancedStatus) -> Deferred:
    return Deferred(scope=Scope.HOST, reason=reason, status=status)
