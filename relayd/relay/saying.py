"""What the opening of a conversation tells its driver to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from relayd.mail.outcome import Deferred
from relayd.mail.tls import TlsResult
from relayd.relay.secrecy import MASK


class Patience(Enum):
    """Which of the timeouts bounds the wait for a reply."""

    EHLO = "ehlo"
    STARTTLS = "starttls"


@dataclass(frozen=True, slots=True)
class Say:
    """Write `octets`, wait for one reply, send it back.  `name` is what the log calls it: the octets may be secret."""

    octets: bytes
    name: str
    patience: Patience = Patience.EHLO

    @property
    def shown(self) -> bytes:
        """What may be kept of it: nothing that was said to prove who we are."""
        return f"{self.name} {MASK}".encode() if self.name.startswith("AUTH") else self.octets


@dataclass(frozen=True, slots=True)
class Encrypt:
    """Do the TLS handshake now; go on, with any reply, once it is done."""


@dataclass(frozen=True, slots=True)
class TlsFailed:
    """TLS did not come about, and the connection is not to be used in clear text.  `clean`: it is in order otherwise;
    `result` for reports."""

    outcome: Deferred
    result: TlsResult = TlsResult.VALIDATION_FAILURE
    clean: bool = False


Talk: TypeAlias = Say | Encrypt
