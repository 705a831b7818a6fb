"""TLS: the contexts, the sessions to resume, and the servers whose handshakes fail.

A resumed session saves work on both sides, a round trip with TLS 1.2, and the check of the certificate.  So a session
belongs to one context, which is one proof under one setup, and to the name that the peer proved so, or did not: what
nobody authenticated is never resumed where a proof is demanded, nor one host's session for another.
"""

from __future__ import annotations

import ssl
import sys
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from relayd.mail.route import Target
from relayd.mail.tls import Demand, Evidence, Proof, TlsPolicy, TlsResult, TlsSetup, TlsVersion
from relayd.relay.remembered import Remembered
from relayd.relay.shown import Encrypted, chain_of

SESSION_AGE = timedelta(hours=1)  # RFC 8446 section 4.6.1 allows seven days; a revoked certificate should not last
MAX_SESSIONS = 1000  # of one context; each holds the peer's certificates twice, some 8 KB
# Asking a connection for its session leaks a copy of it, 5 KB and more, in Python before 3.12.8 and in 3.13.0
# (https://github.com/python/cpython/issues/116810).  There a host is asked once in a SESSION_AGE, and all hosts
# together MOST_ASKED times in the life of the process: then those that have no session shake hands in full.
ASKING_LEAKS = sys.version_info < (3, 12, 8) or sys.version_info[:3] == (3, 13, 0)
MOST_ASKED = 3000  # by one context

_VERSIONS = {
    TlsVersion.TLS_1_0: ssl.TLSVersion.TLSv1,
    TlsVersion.TLS_1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3,
}
_FOR_OLD_VERSIONS = "DEFAULT:@SECLEVEL=0"  # OpenSSL 3 speaks no TLS before 1.2 above that level
_RESULTS = {  # X509_V_ERR_...
    9: TlsResult.CERTIFICATE_EXPIRED,  # not yet valid
    10: TlsResult.CERTIFICATE_EXPIRED,
    18: TlsResult.CERTIFICATE_NOT_TRUSTED,  # self-signed
    19: TlsResult.CERTIFICATE_NOT_TRUSTED,
    20: TlsResult.CERTIFICATE_NOT_TRUSTED,  # no issuer
    21: TlsResult.CERTIFICATE_NOT_TRUSTED,
    62: TlsResult.CERTIFICATE_HOST_MISMATCH,
    64: TlsResult.CERTIFICATE_HOST_MISMATCH,  # an address
}


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was kept of a host: its session, None if it has none, what it showed when that began, and its end."""

    session: ssl.SSLSession | None
    shown: tuple[bytes, ...]
    until: float  # monotonic


class ResumingContext(ssl.SSLContext):
    """A client's context that resumes sessions by host name: asyncio has no way to name one, but calls `wrap_bio`."""

    sslobject_class = Encrypted

    def __new__(cls) -> ResumingContext:
        """Nothing is set but what holds for all."""
        context = super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)
        context.options |= ssl.OP_NO_RENEGOTIATION
        return context

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, _Kept] = OrderedDict()
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
        kept = self._find(server_hostname) if session is None and isinstance(server_hostname, str) else None
        session = kept.session if kept else session
        connection = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if kept and isinstance(connection, Encrypted):
            connection.shown_before = kept.shown
        return connection

    def keep(self, connection: ssl.SSLObject) -> None:
        """Keep the session of a connection that was spoken on: with TLS 1.3 it comes after the handshake."""
        name = connection.server_hostname
        if name is None or (ASKING_LEAKS and not self._may_ask(name)):
            return
        self._asked += 1
        session = connection.session
        if session is not None and not (session.has_ticket or session.id):
            session = None
        shown = chain_of(connection) if session is not None else ()
        self._sessions[name] = _Kept(session, shown, time.monotonic() + SESSION_AGE.total_seconds())
        self._sessions.move_to_end(name)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

    def _may_ask(self, name: str) -> bool:
        found = self._sessions.get(name)
        return self._asked < MOST_ASKED and (found is None or found.until <= time.monotonic())

    def forget(self, name: str) -> None:
        """Forget the session of a host whose handshake failed: a full one is what to try next."""
        self._sessions.pop(name, None)

    def _find(self, name: str) -> _Kept | None:
        found = self._sessions.get(name)
        if found is not None and found.until <= time.monotonic():
            del self._sessions[name]
            return None
        return found


class TlsContexts:
    """One context for each proof under each setup, made when it is first needed.  Shared by all connections.

    `ca_file` are the authorities to trust, in PEM, where a setup names none; None: the system's.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        self._ca_file = ca_file
        self._contexts: dict[tuple[TlsSetup, Proof], ResumingContext] = {}

    def of(self, setup: TlsSetup, proof: Proof) -> ResumingContext:
        """Return the context in which a peer has to prove so much; DANE's proof is looked at after the handshake.

        Raises:
            OSError: a file of the setup cannot be used (ssl.SSLError is one).
        """
        found = self._contexts.get((setup, proof))
        if found is None:
            found = self._contexts[setup, proof] = self._make(setup, proof)
        return found

    def reload(self) -> None:
        """Read all files again when they are needed next; sessions are forgotten with what they were proven by."""
        self._contexts.clear()

    def _make(self, setup: TlsSetup, proof: Proof) -> ResumingContext:
        context = ResumingContext()
        with warnings.catch_warnings(action="ignore"):  # of the old versions: who asks for one knows
            context.minimum_version = _VERSIONS[setup.minimum_version]
        if setup.minimum_version in (TlsVersion.TLS_1_0, TlsVersion.TLS_1_1):
            context.set_ciphers(_FOR_OLD_VERSIONS)
        if setup.certificate_file:
            context.load_cert_chain(setup.certificate_file, setup.key_file or None, password=_no_password)
        if proof is not Proof.PKIX:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif setup.ca_file or self._ca_file:
            context.load_verify_locations(setup.ca_file or self._ca_file)
        else:
            context.load_default_certs()
        return context


def _no_password() -> str:
    raise OSError("the key is encrypted, and there is nobody to type its password")


class TlsMemory:
    """The addresses where a handshake failed, or a peer did not prove what was tried: spared that, until an end."""

    def __init__(self, span: timedelta, limit: int = 10_000) -> None:
        self._failed = Remembered[Target](span, limit)
        self._unproven = {result: Remembered[Target](span, limit) for result in TlsResult}

    def failed(self, target: Target, now: datetime) -> None:
        """Remember that a handshake failed."""
        self._failed.add(target, now)

    def fails(self, target: Target, now: datetime) -> bool:
        """Whether that is remembered."""
        return self._failed.has(target, now)

    def proved_nothing(self, target: Target, result: TlsResult, now: datetime) -> None:
        """Remember why a trial failed."""
        for others in self._unproven.values():
            others.discard(target)
        self._unproven[result].add(target, now)

    def trial(self, target: Target, now: datetime) -> TlsResult | None:
        """Return why a trial failed, None if none is remembered."""
        return next((result for result, those in self._unproven.items() if those.has(target, now)), None)


def proof_of(demand: Demand, *, trial: bool) -> Proof:
    """Return what is to be proven in a handshake."""
    if demand.level is TlsPolicy.VERIFY or trial:
        return Proof.PKIX
    return Proof.DANE if demand.dane is not None and demand.dane.records else Proof.NOTHING


def evidence_of(connection: ssl.SSLObject, proof: Proof, matched: str) -> Evidence:
    """Return what an encrypted session has."""
    cipher = connection.cipher()
    version = (connection.version() or "?").removeprefix("TLSv")
    return Evidence(
        version="1.0" if version == "1" else version,
        cipher=cipher[0] if cipher else "?",
        proof=proof,
        matched=matched,
    )


def result_of(error: Exception) -> TlsResult:
    """Return what a handshake that failed is in a report (RFC 8460 section 4.3)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _RESULTS.get(error.verify_code, TlsResult.CERTIFICATE_NOT_TRUSTED)
    return TlsResult.VALIDATION_FAILURE
