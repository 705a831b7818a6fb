"""TLS: the contexts for each policy, and the servers whose handshakes fail."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta
from pathlib import Path

from relayd.mail.route import Target, TlsPolicy
from relayd.relay.remembered import Remembered


class TlsContexts:
    """One context for whoever the peer is, one for a peer that proves its name.  Shared by all connections.

    `ca_file` are the authorities to trust, in PEM; None: the system's.  TLS 1.2 is the least (RFC 8996).
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._anyone.check_hostname = False
        self._anyone.verify_mode = ssl.CERT_NONE
        self._proven = ssl.create_default_context(cafile=ca_file)
        for context in (self._anyone, self._proven):
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.options |= ssl.OP_NO_RENEGOTIATION

    def of(self, policy: TlsPolicy) -> ssl.SSLContext:
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
