"""One handshake: with which context and name, and what the peer has to prove beside what the context checks."""

from __future__ import annotations

import ssl
from datetime import datetime

from relayd.mail.tls import UNTRUSTED, Demand, Evidence, Proof
from relayd.relay.dane import DaneMismatch, authenticate
from relayd.relay.shown import chain_of
from relayd.relay.tls import ResumingContext, evidence_of
from relayd.relay.wire import TlsHandshakeFailed


class Handshake:
    """See the module.  `name` is sent to the server (RFC 7672 section 8.1), and checked by a context that does;
    `evidence` is there once it is done."""

    def __init__(self, context: ResumingContext, demand: Demand, proof: Proof, host: str) -> None:
        self.context = context
        self.evidence: Evidence | None = None
        self._dane = demand.dane if demand.dane is not None and demand.dane.records else None
        self._proof = proof
        self._host = host
        self.name = self._dane.names[0] if self._dane is not None and proof is Proof.DANE else host

    def done(self, connection: ssl.SSLObject | None, now: datetime) -> None:
        """Look at what the peer has shown.

        Raises:
            TlsHandshakeFailed: it is not what was demanded.
        """
        assert connection is not None
        matched = ""
        if self._dane is not None:
            found = authenticate(self._dane, chain_of(connection), now)
            if isinstance(found, DaneMismatch):
                reason = f"DANE: {self._host} {found.reason}"
                raise TlsHandshakeFailed(reason, status=UNTRUSTED, result=found.result)
            matched = found
        self.evidence = evidence_of(connection, self._proof, matched)
