"""The tables of config.toml: their fields are its keys, their defaults its defaults.

Plain values.  config.py reads them from a file; a test compares config.example.toml with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from relayd.attempt.settings import RetrySettings
from relayd.mail.route import AddressFamily
from relayd.mail.tls import TlsPolicy, TlsSetup, TlsVersion
from relayd.observe.settings import LogSettings
from relayd.relay.timeouts import Timeouts
from relayd.relay.transcript import Transcripts
from relayd.report.settings import DkimKey
from relayd.route.settings import DnsSettings, RouteRule, TlsRule
from relayd.schedule.settings import SiteLimits, SiteRule
from relayd.submission.settings import MAX_MESSAGE_SIZE
from relayd.tokens.settings import ClientAuth, TokenRule
from relayd.web.settings import HttpSection, Place

Octets = Annotated[int, "octets"]
OrNone = Annotated[int, "0 is allowed, and means none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaySection:
    """[relay]"""

    hostname: str = ""
    origin: str = ""
    spool: str = "./spool"
    check_interval: timedelta = timedelta(seconds=5)
    max_connections: int = 100
    max_messages_per_connection: int = 100
    max_connections_per_site: int = 20
    initial_connections_per_site: int = 5
    message_rate_per_site: str = ""
    connection_rate_per_site: str = ""
    port: int = 25
    allow_loopback: bool = False
    allow_private: bool = True
    max_message_size: Octets = MAX_MESSAGE_SIZE
    trust_producers: bool = False
    settle_time: timedelta = timedelta(seconds=2)
    stop_grace: timedelta = timedelta(seconds=60)
    history: timedelta = timedelta(days=3)
    transcripts: Transcripts = Transcripts.FAILURES
    active_limit: int = 20_000
    pipeline_window: int = 16
    processes: OrNone = 1
    source_address: str | tuple[str, ...] = ""
    address_family: AddressFamily = AddressFamily.ANY


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSection:
    """[tls]"""

    policy: TlsPolicy = TlsPolicy.OPPORTUNISTIC
    dane: bool = True
    minimum_version: TlsVersion = TlsVersion.TLS_1_2
    ca_file: str = ""
    mta_sts: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsDomainSection:
    """One [[tls.domain]]"""

    match: tuple[str, ...]
    policy: TlsPolicy | None = None
    minimum_version: TlsVersion | None = None
    ca_file: str = ""
    dane: bool | None = None
    mta_sts: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSection:
    """[tls.report]"""

    enabled: bool = True
    organization: str = ""
    contact: str = ""
    sender: str = ""
    dkim_key_file: str = ""
    dkim_selector: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSection:
    """One [[route]]"""

    name: str
    match: tuple[str, ...]
    hosts: tuple[str, ...]
    username: str = ""
    password_file: str = ""
    auth: tuple[str, ...] = ()
    oauth_token_url: str = ""
    oauth_client_id: str = ""
    oauth_client_secret_file: str = ""
    oauth_client_auth: ClientAuth = ClientAuth.BODY
    oauth_refresh_token_file: str = ""
    oauth_scope: str = ""
    tls: TlsPolicy | None = None
    minimum_version: TlsVersion | None = None
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    source_address: str | tuple[str, ...] = ""
    address_family: AddressFamily | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSection:
    """One [[site]]"""

    match: tuple[str, ...]
    max_connections: int | None = None
    initial_connections: int | None = None
    max_messages_per_connection: int | None = None
    message_rate: str = ""
    connection_rate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration.  `path` is the file it came from; `spool` is absolute."""

    path: Path
    spool: Path
    relay: RelaySection = field(default_factory=RelaySection)
    retry: RetrySettings = field(default_factory=RetrySettings)
    dns: DnsSettings = field(default_factory=DnsSettings)
    tls: TlsSection = field(default_factory=TlsSection)
    tls_setup: TlsSetup = field(default_factory=TlsSetup)
    tls_rules: tuple[TlsRule, ...] = ()
    tls_report: ReportSection = field(default_factory=ReportSection)
    dkim: DkimKey | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    log: LogSettings = field(default_factory=LogSettings)
    http: HttpSection = field(default_factory=HttpSection)
    http_place: Place | None = None
    http_token: str = ""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    routes: tuple[RouteRule, ...] = ()
    token_rules: tuple[TokenRule, ...] = ()
    site_limits: SiteLimits = field(default_factory=SiteLimits)
    sites: tuple[SiteRule, ...] = ()

    @property
    def source_addresses(self) -> tuple[str, ...]:
        """`relay.source_address` as a list."""
        return listed(self.relay.source_address)


SECTIONS: dict[str, type] = {
    "relay": RelaySection,
    "retry": RetrySettings,
    "dns": DnsSettings,
    "tls": TlsSection,
    "timeouts": Timeouts,
    "log": LogSettings,
    "http": HttpSection,
}


def listed(value: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return what may be one word, or a list of them, as a list; the empty word is none."""
    if isinstance(value, str):
        return (value,) if value else ()
    return value
