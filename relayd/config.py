"""config.toml becomes frozen settings; every mistake is found at once, each with its key and line.

What there is to set is in sections.py, how tables are read in toml_tables.py; here is what types cannot say.  Only
`daemon` and `cli` see the whole; each stage gets the settings it asks for.
"""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relayd import tls_files
from relayd.credentials import CredentialsReader
from relayd.mail.address import Address, check_local_part, parse_domain
from relayd.mail.errors import ConfigError, InvalidAddress
from relayd.mail.pattern import parse_pattern
from relayd.mail.tls import TlsSetup
from relayd.password import check_secret, is_out_of_sight, read_password, secret_path
from relayd.report.settings import DkimKey
from relayd.route.settings import RouteRule, TlsRule
from relayd.route.smart_host import parse_host
from relayd.schedule.rate import Rate
from relayd.schedule.settings import SiteLimits, SiteRule
from relayd.sections import (
    SECTIONS,
    Config,
    RelaySection,
    ReportSection,
    RouteSection,
    SiteSection,
    TlsDomainSection,
    TlsSection,
    listed,
)
from relayd.tokens.settings import TokenRule
from relayd.toml_tables import TomlTables, suggestion
from relayd.web.settings import HttpSection, Place

MAX_PROCESSES = 64
MAX_ORGANIZATION = 200  # characters
REPORT = "tls.report"


def load(path: Path, *, unit: bool = True) -> Config:
    """Read and check the file at `path`.  `unit` False: as CredentialsReader has it.

    Raises:
        ConfigError: with one sentence for each mistake, as `config.toml:12: relay.max_conections: no such setting`.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    told = TomlTables(path, text)
    config = _Reader(path, told, unit=unit).read(tables)
    if told.mistakes:
        raise ConfigError(*told.mistakes)
    return config


class _Reader:
    """Makes a Config of the tables of one file; what is wrong with them is told to `tables`."""

    def __init__(self, path: Path, tables: TomlTables, *, unit: bool) -> None:
        self._unit = unit
        self._token_rules: list[TokenRule] = []
        self._path = path
        self._tables = tables
        self._mistake = tables.mistake
        self._spool = path.parent
        self._setup = TlsSetup()

    def read(self, tables: dict[str, Any]) -> Config:
        for name in tables:
            if name not in (known := [*SECTIONS, "aliases", "route", "site"]):
                self._mistake(name, "no such section" + suggestion(name, known))
        tls = tables["tls"] if isinstance(tables.get("tls"), dict) else {}
        domains, report = tls.pop("domain", []), tls.pop("report", {})
        sections: dict[str, Any] = {
            name: self._tables.section(cls, tables.get(name, {}), name) or cls() for name, cls in SECTIONS.items()
        }
        relay: RelaySection = sections["relay"]
        self._check_relay(relay)
        self._spool = (self._path.parent / relay.spool).resolve()
        self._check_spool()
        self._setup = self._tls_setup(sections["tls"], "tls")
        return Config(
            path=self._path,
            spool=self._spool,
            tls_setup=self._setup,
            tls_rules=tuple(self._tls_rules(domains, sections["tls"])),
            **self._report(report),
            **self._http(sections["http"]),
            aliases=self._aliases(tables.get("aliases", {})),
            routes=tuple(self._routes(tables.get("route", []))),
            token_rules=tuple(self._token_rules),
            site_limits=self._site_limits(relay),
            sites=tuple(self._sites(tables.get("site", []))),
            **sections,
        )

    # what types cannot say

    def _check_spool(self) -> None:
        """Two spools, one inside the other, would take each other's files."""
        if self._spool == Path("/"):
            self._mistake("relay.spool", "the root directory cannot be a spool")
        for outer in self._spool.parents:
            if os.path.exists(outer / "queue.db"):  # False as well where nobody lets us look
                self._mistake("relay.spool", f"{self._spool} is inside another spool, {outer}")

    def _check_relay(self, relay: RelaySection) -> None:
        for key in ("hostname", "origin"):
            name = getattr(relay, key)
            try:
                if name and "." not in parse_domain(name) and not name.startswith("["):
                    raise InvalidAddress(f"needs a full domain name, not {name!r}")
                if name and not name.isascii():
                    raise InvalidAddress(f"needs its A-label form: {parse_domain(name)}")
            except InvalidAddress as error:
                self._mistake(f"relay.{key}", str(error))
        if not 0 < relay.port < 65536:
            self._mistake("relay.port", f"a port is a number from 1 to 65535, not {relay.port}")
        if not 0 <= relay.processes <= MAX_PROCESSES:
            self._mistake("relay.processes", f"must be from 0 to {MAX_PROCESSES}, not {relay.processes}")
        self._check_addresses("relay.source_address", listed(relay.source_address))

    def _check_addresses(self, key: str, addresses: tuple[str, ...]) -> None:
        for address in addresses:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                self._mistake(key, f"not an IP address: {address!r}")

    def _aliases(self, table: Any) -> dict[str, tuple[str, ...]]:
        aliases = {}
        for name, value in table.items() if isinstance(table, dict) else ():
            key = f"aliases.{name}"
            targets = [value] if isinstance(value, str) else value
            if not (isinstance(targets, list) and targets and all(isinstance(target, str) for target in targets)):
                self._mistake(key, "must be an address or a list of addresses")
                continue
            for text in (name, *targets):
                try:
                    Address.parse(text) if "@" in text else check_local_part(text)
                except InvalidAddress as error:
                    self._mistake(key, str(error))
            aliases[name] = tuple(targets)
        if not isinstance(table, dict):
            self._mistake("aliases", "must be a table")
        return aliases

    def _routes(self, tables: Any) -> Iterator[RouteRule]:
        names: set[str] = set()
        for where, section in self._tables.several(RouteSection, tables, "route"):
            if section.name in names:
                self._mistake(f"{where}.name", f"another route is named {section.name!r} already")
            names.add(section.name)
            self._check_addresses(f"{where}.source_address", listed(section.source_address))
            try:
                yield self._route(section, where)
            except ValueError as error:
                self._mistake(where, str(error))

    def _route(self, section: RouteSection, where: str) -> RouteRule:
        reader = CredentialsReader(self._path.parent, self._spool, self._mistake, unit=self._unit)
        credentials, token_rule = reader.read(section, where)
        if token_rule is not None:
            self._token_rules.append(token_rule)
        return RouteRule(
            name=section.name,
            match=tuple(parse_pattern(pattern) for pattern in section.match),
            hosts=tuple(parse_host(host) for host in section.hosts),
            credentials=credentials,
            tls=section.tls,
            setup=self._tls_setup(section, where),
            source_addresses=listed(section.source_address) or None,
            address_family=section.address_family,
        )

    # TLS

    def _tls_rules(self, tables: Any, tls: TlsSection) -> Iterator[TlsRule]:
        for where, section in self._tables.several(TlsDomainSection, tables, "tls.domain"):
            try:
                patterns = tuple(parse_pattern(pattern) for pattern in section.match)
                yield TlsRule(
                    match=patterns,
                    level=section.policy or tls.policy,
                    setup=self._tls_setup(section, where),
                    dane=tls.dane if section.dane is None else section.dane,
                    mta_sts=tls.mta_sts if section.mta_sts is None else section.mta_sts,
                )
            except ValueError as error:
                self._mistake(f"{where}.match", str(error))

    def _tls_setup(self, section: TlsSection | TlsDomainSection | RouteSection, where: str) -> TlsSetup:
        """Return how TLS is spoken; what a section leaves out is as in [tls]."""
        ca_file = self._pem(section.ca_file, f"{where}.ca_file", tls_files.check_authorities)
        certificate = key = ""
        if isinstance(section, RouteSection):
            certificate, key = self._client_certificate(section, where)
        return TlsSetup(
            minimum_version=section.minimum_version or self._setup.minimum_version,
            ca_file=ca_file or self._setup.ca_file,
            certificate_file=certificate,
            key_file=key,
        )

    def _report(self, table: Any) -> dict[str, Any]:
        section = self._tables.section(ReportSection, table, REPORT) or ReportSection()
        domains = [self._mailbox(getattr(section, key), f"{REPORT}.{key}") for key in ("contact", "sender")]
        if all(domains) and domains[0] != domains[1]:
            self._mistake(f"{REPORT}.contact", f"must be of the domain of the sender, which signs: {domains[1]}")
        if len(section.organization) > MAX_ORGANIZATION or not section.organization.isprintable():
            self._mistake(f"{REPORT}.organization", f"must be of at most {MAX_ORGANIZATION} printable characters")
        return {"tls_report": section, "dkim": self._dkim(section)}

    def _http(self, section: HttpSection) -> dict[str, Any]:
        """Return where the HTTP server listens, and its token: one that others could reach has one."""
        place, token = None, ""
        try:
            place = Place.parse(section.listen) if section.listen else None
        except ValueError as error:
            self._mistake("http.listen", str(error))
        if section.token_file and (self._unit or not is_out_of_sight(section.token_file)):
            try:
                token = read_password(secret_path(section.token_file, self._path.parent), self._spool)
            except (OSError, ValueError) as error:
                self._mistake("http.token_file", str(error))
        if place is not None and not place.private and not section.token_file:
            self._mistake("http.listen", f"others can reach {place}: that takes a token_file, or a loopback address")
        return {"http_place": place, "http_token": token}

    def _mailbox(self, text: str, key: str) -> str:
        """Check an address that may be left out; return its domain."""
        if not text:
            return ""
        try:
            address = Address.parse(text)
            if not text.isascii() or "." not in address.domain or address.literal is not None:
                raise InvalidAddress(f"needs a full domain name, and ASCII only: {text!r}")
        except InvalidAddress as error:
            self._mistake(key, str(error))
            return ""
        return address.domain

    def _dkim(self, section: ReportSection) -> DkimKey | None:
        if not (section.dkim_key_file or section.dkim_selector):
            return None
        if not (section.dkim_key_file and section.dkim_selector):
            self._mistake(REPORT, "dkim_key_file and dkim_selector go together")
            return None
        path = self._path.parent / section.dkim_key_file
        try:
            parse_domain(f"{section.dkim_selector}.example")
        except InvalidAddress:
            self._mistake(f"{REPORT}.dkim_selector", f"not a selector: {section.dkim_selector!r}")
        try:
            check_secret(path, self._spool)
            return DkimKey(pem=tls_files.read_dkim_key(path), selector=section.dkim_selector)
        except (OSError, ValueError) as error:
            self._mistake(f"{REPORT}.dkim_key_file", str(error))
            return None

    def _client_certificate(self, section: RouteSection, where: str) -> tuple[str, str]:
        if section.key_file and not section.certificate_file:
            self._mistake(f"{where}.key_file", "is of no use without a certificate_file")
        if not section.certificate_file:
            return "", ""
        if not self._unit and (is_out_of_sight(section.certificate_file) or is_out_of_sight(section.key_file)):
            return "", ""
        named = f"{where}.key_file" if section.key_file else f"{where}.certificate_file"
        try:
            certificate = secret_path(section.certificate_file, self._path.parent)
            key = secret_path(section.key_file, self._path.parent) if section.key_file else certificate
            check_secret(key, self._spool)
            tls_files.check_certificate(certificate, key)
        except (OSError, ValueError) as error:
            self._mistake(named, str(error))
            return "", ""
        return str(certificate), str(key)

    def _pem(self, name: str, key: str, check: Callable[[Path], None]) -> str:
        if not name:
            return ""
        path = self._path.parent / name
        try:
            check(path)
        except (OSError, ValueError) as error:
            self._mistake(key, str(error))
        return str(path)

    def _site_limits(self, relay: RelaySection) -> SiteLimits:
        return SiteLimits(
            max_connections=relay.max_connections_per_site,
            initial_connections=relay.initial_connections_per_site,
            max_messages_per_connection=relay.max_messages_per_connection,
            message_rate=self._rate("relay.message_rate_per_site", relay.message_rate_per_site),
            connection_rate=self._rate("relay.connection_rate_per_site", relay.connection_rate_per_site),
        )

    def _sites(self, tables: Any) -> Iterator[SiteRule]:
        for where, section in self._tables.several(SiteSection, tables, "site"):
            try:
                yield SiteRule(
                    match=tuple(parse_pattern(pattern) for pattern in section.match),
                    max_connections=section.max_connections,
                    initial_connections=section.initial_connections,
                    max_messages_per_connection=section.max_messages_per_connection,
                    message_rate=self._rate(f"{where}.message_rate", section.message_rate),
                    connection_rate=self._rate(f"{where}.connection_rate", section.connection_rate),
                )
            except ValueError as error:
                self._mistake(f"{where}.match", str(error))

    def _rate(self, key: str, text: str) -> Rate | None:
        try:
            return Rate.parse(text) if text else None
        except ValueError as error:
            self._mistake(key, str(error))
            return None
