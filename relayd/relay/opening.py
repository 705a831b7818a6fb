"""From the greeting to the first MAIL: EHLO or HELO, STARTTLS, EHLO again, AUTH.

Sans-IO: a generator that yields what to do, is sent the replies, and returns the server's capabilities, or why it
cannot be used.  Rules: RFC 5321 sections 3.2 and 4.1.4 (HELO only if EHLO is refused for good), RFC 3207 section 4
(220 required; everything known before TLS is forgotten; never twice), RFC.md R9, R19, R20.

A mail exchanger that calls itself as we do is ourselves, by another address or through a tunnel: what it got would come
back (RFC 5321 section 6.3).  A smart host may be called what it likes.

Invariant: where TLS is enforced it returns capabilities only on an encrypted connection; with credentials only after
they were accepted.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TypeAlias

from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Site
from relayd.mail.tls import Demand, TlsPolicy, TlsResult
from relayd.relay.auth import authentication
from relayd.relay.capabilities import Capabilities
from relayd.relay.commands import STARTTLS, line
from relayd.relay.saying import Encrypt, Patience, Say, Talk, TlsFailed

_TLS_NEEDED = EnhancedStatus(4, 7, 4)  # RFC 3463 section 3.8: security features not supported
_PROTOCOL = EnhancedStatus(4, 5, 0)
_LOOP = EnhancedStatus(5, 4, 6)  # RFC 3463 section 3.5: routing loop detected


@dataclass(frozen=True, slots=True)
class Opened:
    """The server waits for MAIL."""

    capabilities: Capabilities
    encrypted: bool


Opening: TypeAlias = Generator[Talk, Reply, Opened | Deferred | Failed | TlsFailed]


def opening(hostname: str, site: Site, demand: Demand, *, encrypted: bool, starttls: bool, token: str = "") -> Opening:
    """Open the conversation on a connection that has its greeting.

    `encrypted`: TLS is there from the first octet.  `starttls` False: not to be tried, since it failed before.  `token`
    is for credentials with `oauth`.
    """
    offered = yield from _hello(hostname, site)
    if isinstance(offered, Deferred | Failed):
        return offered
    if not encrypted and demand.level is not TlsPolicy.NONE and starttls:
        upgraded = yield from _upgrade(offered, required=demand.enforced)
        if isinstance(upgraded, Deferred | TlsFailed):
            return upgraded
        if upgraded:
            encrypted = True
            offered = yield from _hello(hostname, site)
            if isinstance(offered, Deferred | Failed):
                return offered
    if not encrypted and demand.enforced:
        return _lacking(Deferred(scope=Scope.HOST, reason="TLS is required, and there is none", status=_TLS_NEEDED))
    if not encrypted:
        offered = replace(offered, require_tls=False)  # RFC 8689 section 2: of no meaning there
    if site.credentials is not None:
        clear_allowed = site.configured and demand.level is TlsPolicy.NONE
        failure = yield from authentication(
            offered.auth, site.credentials, encrypted=encrypted, clear_allowed=clear_allowed, token=token
        )
        if failure is not None:
            return failure
    return Opened(offered, encrypted)


def _hello(hostname: str, site: Site) -> Generator[Talk, Reply, Capabilities | Deferred | Failed]:
    reply = yield Say(line(f"EHLO {hostname}"), "EHLO")
    offered = Capabilities.parse(reply)
    if reply.permanent:
        reply = yield Say(line(f"HELO {hostname}"), "HELO")
        offered = Capabilities()
    if not reply.positive:
        return _refused(reply, "EHLO")
    if not site.configured and reply.text.lower().split(maxsplit=1)[:1] == [hostname.lower()]:
        reason = f"the server calls itself {hostname}, as we do: mail for it loops back to us"
        return Failed(scope=Scope.HOST, reason=reason, status=_LOOP)
    return offered


def _upgrade(offered: Capabilities, *, required: bool) -> Generator[Talk, Reply, Deferred | TlsFailed | bool]:
    """Try STARTTLS; return whether the connection is encrypted now, or why it cannot be used."""
    if not offered.starttls:
        if required:
            reason = "TLS is required, and the server does not offer STARTTLS"
            return _lacking(Deferred(scope=Scope.HOST, reason=reason, status=_TLS_NEEDED))
        return False
    reply = yield Say(STARTTLS, "STARTTLS", Patience.STARTTLS)
    if reply.code == 220:
        yield Encrypt()
        return True
    if reply.code == 421:
        return _refused(reply, "STARTTLS")
    if reply.permanent or reply.transient:
        if required:
            reason = f"TLS is required; STARTTLS: {reply}"
            return _lacking(Deferred(reply, Scope.HOST, reason=reason, status=_TLS_NEEDED))
        return False
    # Neither yes nor no: whether the server waits for a handshake now is anybody's guess.
    return TlsFailed(_refused(reply, "STARTTLS"))


def _lacking(outcome: Deferred) -> TlsFailed:
    return TlsFailed(outcome, TlsResult.STARTTLS_NOT_SUPPORTED, clean=True)


def _refused(reply: Reply, command: str) -> Deferred:
    if reply.permanent or reply.transient:
        return Deferred(reply, Scope.HOST)
    return Deferred(reply, Scope.HOST, reason=f"protocol error: {reply} to {command}", status=_PROTOCOL)
