"""What an operator may set about relaying."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta

from relayd.relay.timeouts import Timeouts
from relayd.relay.transcript import Transcripts

KIB = 1024

_HOSTNAME = re.compile(r"[A-Za-z0-9._-]{1,255}|\[[0-9A-Za-z.:]+\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySettings:
    """Sizes are octets.  `hostname` is what we call ourselves: a domain name or an address literal (RFC 5321
    section 4.1.4)."""

    hostname: str
    timeouts: Timeouts = field(default_factory=Timeouts)
    pipeline_window: int = 16  # messages of the chunked plan that the server owes an answer for, on one connection
    pipeline_window_size: int = 1024 * KIB  # octets of them, one message more; and of a large body
    max_recipients: int = 100  # in one transaction (RFC 5321 section 4.5.3.1.8)
    max_addresses: int = 5  # of one host that are tried in one run
    max_connects: int = 10  # connections that are tried in one run
    small_body: int = 256 * KIB  # a file up to this size is read in one piece, a larger one streams
    read_ahead: int = 16  # deliveries whose small bodies are read ahead
    read_ahead_size: int = 1024 * KIB  # octets of bodies read ahead
    max_unreported: int = 32  # settled deliveries that are not durable yet
    transcripts: Transcripts = Transcripts.FAILURES  # which are kept with the history
    host_memory: timedelta = timedelta(minutes=10)  # how long a host that failed is tried last
    plan_memory: timedelta = timedelta(hours=1)  # how long a server that broke on an extension is spared it
    tls_memory: timedelta = timedelta(hours=1)  # how long a failed handshake means clear text, where that is allowed

    def __post_init__(self) -> None:
        if not _HOSTNAME.fullmatch(self.hostname):
            raise ValueError(f"not a host name: {self.hostname!r}")
        limits = (self.max_recipients, self.max_addresses, self.max_connects, self.read_ahead, self.max_unreported)
        if min(*limits, self.pipeline_window) < 1:
            raise ValueError("a limit must be at least 1")
