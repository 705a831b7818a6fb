"""TLS: the contexts for each policy, the sessions to resume, and the servers whose handshakes fail.

A resumed session saves work on both sides, a round trip with TLS 1.2, and the check of the certificate.  So a session
belongs to one context, which is one policy with its authorities, and to the name that the peer proved under it, or did
not: what nobody authenticated is never resumed where a proof is demanded, nor one host's session for another.
"""

from __future__ import annotations

import ssl
import sys
import time
from collections import OrderedDict
from datetime import datetime, timedelta
from pathlib import Path

from relayd.mail.route import Target
from relayd.mail.tls import TlsPolicy
from relayd.relay.remembered import Remembered

SESSION_AGE = timedelta(hours=1)  # RFC 8446 section 4.6.1 allows seven days; a revoked certificate should not last
MAX_SESSIONS = 1000  # of one context; each holds the peer's certificates
# Asking a connection for its session leaks a copy of it, 5 KB and more, in Python before 3.12.8 and in 3.13.0
# (https://github.com/python/cpython/issues/116810).  There a host is asked once in a SESSION_AGE, and all hosts
# together MOST_ASKED times in the life of the process: then those that have no session shake hands in full.
ASKING_LEAKS = sys.version_info < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)
MOST_ASKED = 3000  # by one context


class ResumingContext(ssl.SSLContext):
    """A client's context that resumes sessions by host name: asyncio has no way to name one, but calls `wrap_bio`."""

    def __new__(cls) -> ResumingContext:
        """TLS 1.2 is the least (RFC 8996)."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        return context

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, tuple[ssl.SSLSession | None, float]] = OrderedDict()
        self._asked = 0

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Offer the session that `server_hostname` left, if there is one."""
        if session is None and isinstance(server_hostname, str):
            session = self._find(server_hostname)
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    def keep(self, connection: ssl.SSLObject) -> None:
        """Keep the session of a connection that was spoken on: with TLS 1.3 it comes after the handshake."""
        name = connection.server_hostname
        if name is None or (ASKING_LEAKS and not self._may_ask(name)):
            return
        self._asked += 1
        session = connection.session
        if session is not None and not (session.has_ticket or session.id):
            session = None
        self._sessions[name] = (session, time.monotonic() + SESSION_AGE.total_seconds())
        self._sessions.move_to_end(name)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _may_ask(self, name: str) -> bool:
        found = self._sessions.get(name)
        return self._asked < MOST_ASKED and (found is None or found[1] <= time.monotonic())

    def forget(self, name: str) -> None:
        """Forget the session of a host whose handshake failed: a full one is what to try next."""
        self._sessions.pop(name, None)

    def _find(self, name: str) -> ssl.SSLSession | None:
        found = self._sessions.get(name)
        if found is None:
            return None
        session, until = found
        if until <= time.monotonic():
            del self._sessions[name]
            return None
        return session


class TlsContexts:
    """One context for whoever the peer is, one for a peer that proves its name.  Shared by all connections.

    `ca_file` are the authorities to trust, in PEM; None: the system's.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._anyone = ResumingContext()
        self._anyone.check_hostname = False
        self._anyone.verify_mode = ssl.CERT_NONE
        self._proven = ResumingContext()
        if ca_file is None:
            self._proven.load_default_certs()
        else:
            self._proven.load_verify_locations(ca_file)

    def of(self, policy: TlsPolicy) -> ResumingContext:
        """Return the context for `policy`."""
        return self._proven if policy is TlsPolicy.VERIFY else self._anyone


class TlsMemory:
    """The addresses where a handshake failed under the opportunistic policy: clear text at once, until an end."""

    def __init__(self, span: timedelta, limit: int = 10_000) -> None:
        self._failed = Remembered[Target](span, limit)

    def failed(self, target: Target, now: datetime) -> None:
        """Remember `target`."""
        self._failed.add(target, now)

    def fails(self, target: Target, now: datetime) -> bool:
        """Whether `target` is remembered."""
        return self._failed.has(target, now)


def described(version: str | None, policy: TlsPolicy) -> str:
    """Return an encrypted connection in words, as `1.3/verified`."""
    authenticated = "verified" if policy is TlsPolicy.VERIFY else "encrypted"
    return f"{(version or '?').removeprefix('TLSv')}/{authenticated}"
