"""What a connection demands of TLS, what a peer proved, and how it went: what sources of policy, sessions and reports
tell one another.

Pure.  A `Demand` is what the policies for one host were folded to (route/policy.py); a session meets it or is given up,
and never goes on with less.  Its parts are independent, and all of them have to be met.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from relayd.mail.reply import EnhancedStatus

# RFC 3463 section 3.8, cryptographic failure: a host did not prove what it has to, or is not one of those named.
UNTRUSTED = EnhancedStatus(4, 7, 5)
UNKNOWN_DEMAND = EnhancedStatus(4, 7, 10)  # encryption is needed (RFC 5248's registry): nobody can say of which kind


class TlsPolicy(Enum):
    """What a connection demands of TLS (RFC 3207), weakest first."""

    NONE = "none"  # never STARTTLS
    OPPORTUNISTIC = "opportunistic"  # encrypt if it works, whoever the peer is; else clear text
    REQUIRE = "require"  # encrypt, whoever the peer is; else defer
    VERIFY = "verify"  # encrypt to a peer that proves its name; else defer

    def __lt__(self, other: TlsPolicy) -> bool:
        return _STRENGTH[self] < _STRENGTH[other]

    def __gt__(self, other: TlsPolicy) -> bool:
        return _STRENGTH[self] > _STRENGTH[other]


_STRENGTH = {policy: strength for strength, policy in enumerate(TlsPolicy)}


class TlsVersion(Enum):
    """The least version that is spoken."""

    TLS_1_0 = "1.0"  # with the old ciphers that it needs: better than clear text, for whom nothing else can be had
    TLS_1_1 = "1.1"
    TLS_1_2 = "1.2"  # RFC 8996
    TLS_1_3 = "1.3"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSetup:
    """How we speak TLS to a site: files by absolute path, in PEM.

    `ca_file`: the authorities to trust, empty for the system's.  `certificate_file` and `key_file`: what we show to a
    server that asks, empty for nothing; the key may be in the same file.
    """

    minimum_version: TlsVersion = TlsVersion.TLS_1_2
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""


class TlsWish(Enum):
    """What the sender of a message wishes of TLS (RFC 8689)."""

    POLICY = 0  # nothing: the policies for the site decide
    REQUIRED = 1  # REQUIRETLS: to servers that prove who they are and demand the same of the next, or not at all
    OPTIONAL = 2  # `TLS-Required: No`: rather in clear text, or to whomever, than not at all


class Source(Enum):
    """Who asks for what a connection demands."""

    CONFIGURED = "configured"  # tls.policy, or that of a [[tls.domain]] or a [[route]]
    DANE = "dane"  # RFC 7672
    MTA_STS = "mta-sts"  # RFC 8461
    MESSAGE = "message"  # REQUIRETLS (RFC 8689)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tlsa:
    """A TLSA record that can be used for SMTP (RFC 7672 section 3.1)."""

    usage: int  # 2: DANE-TA, 3: DANE-EE
    selector: int  # 0: the certificate, 1: its public key
    matching: int  # 0: as it is, 1: SHA-256, 2: SHA-512
    content: bytes

    @property
    def text(self) -> str:
        """The record as a zone has it (RFC 6698 section 2.2)."""
        return f"{self} {self.content.hex()}"

    def __str__(self) -> str:
        return f"{self.usage} {self.selector} {self.matching}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dane:
    """The records of one host: one has to match.

    `names`: a certificate that usage 2 proves has to have one of them; the first, the TLSA base domain, is sent as SNI
    (RFC 7672 sections 3.2 and 8.1).  Or it has, for each destination whose mail the connection is for, one of the names
    that `next_hops` lists: one that named fewer would speak for the mail of others.  `records` empty: there are some,
    but none that can be used, so that no more than encryption is demanded (section 2.2).
    """

    records: tuple[Tlsa, ...]
    names: tuple[str, ...]
    next_hops: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Sts:
    """What the MTA-STS policy of a destination says (RFC 8461): `hosts` are those of its site that match its `mx`."""

    enforce: bool  # else testing: what fails is reported, and the mail delivered
    hosts: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a connection to one host demands.

    `level` VERIFY: a certificate by an authority that is trusted, for the host's own name.  `dane`: what it has to
    match, or to meet, beside that; the level is at least REQUIRE then.  `trial`: it is tried with VERIFY; where that
    fails, `level` is what is demanded (MTA-STS in testing mode).  `source`: who asks for the level.
    """

    level: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    source: Source = Source.CONFIGURED
    dane: Dane | None = None
    trial: bool = False

    @property
    def reported(self) -> Source:
        """Whose policy it is in a report (RFC 8460 section 4.4); CONFIGURED: nobody's."""
        if self.dane is not None:
            return Source.DANE
        return Source.MTA_STS if self.trial else self.source

    @property
    def enforced(self) -> bool:
        """Whether mail waits rather than going in clear text."""
        return self.level > TlsPolicy.OPPORTUNISTIC


class Proof(Enum):
    """What authenticated a peer."""

    NOTHING = "encrypted"
    PKIX = "verified"
    DANE = "dane"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What an encrypted session has: `version` as `1.3`, the `cipher` by its OpenSSL name, and who proved what.
    `matched` is the TLSA record that did, as `3 1 1`."""

    version: str
    cipher: str
    proof: Proof
    matched: str = ""

    def __str__(self) -> str:
        """As the log has it: `1.3/verified`, `1.3/dane:3-1-1`."""
        by = f":{self.matched.replace(' ', '-')}" if self.matched else ""
        return f"{self.version}/{self.proof.value}{by}"


class TlsResult(Enum):
    """How a connection went, by RFC 8460 section 4.3's names; SUCCESS is ours."""

    SUCCESS = "success"
    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSession:
    """How TLS went on one connection, or why there was none, for the domains whose mail it was for.

    `source` is whose policy it was under, CONFIGURED: nobody's; `records` are DANE's, as a zone has them, and `base`
    is the TLSA base domain.  `host` is empty where it is about the domain alone; `address` is the peer's, empty if none
    was connected to; `local` is ours; `detail` in words (RFC 8460's failure-reason-code).  Told once for each
    connection, whatever is sent on it.
    """

    domains: tuple[str, ...]
    host: str
    address: str
    local: str
    result: TlsResult
    source: Source = Source.CONFIGURED
    records: tuple[str, ...] = ()
    base: str = ""
    detail: str = ""
