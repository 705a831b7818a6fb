"""config.toml becomes frozen settings; every mistake is found at once, each with its key and line.

What there is to set is in sections.py.  pydantic checks the types; durations and sizes are turned from words first.
Only `daemon` and `cli` see the whole; each stage gets the settings it asks for.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from relayd import tls_files
from relayd.credentials import CredentialsReader
from relayd.mail.address import Address, check_local_part, parse_domain
from relayd.mail.duration import parse_duration
from relayd.mail.errors import ConfigError, InvalidAddress
from relayd.mail.pattern import parse_pattern
from relayd.mail.tls import TlsSetup
from relayd.password import check_secret, is_out_of_sight, secret_path
from relayd.report.settings import DkimKey
from relayd.route.settings import RouteRule, TlsRule
from relayd.route.smart_host import parse_host
from relayd.schedule.rate import Rate
from relayd.schedule.settings import SiteLimits, SiteRule
from relayd.sections import (
    SECTIONS,
    Config,
    Octets,
    RelaySection,
    ReportSection,
    RouteSection,
    SiteSection,
    TlsDomainSection,
    TlsSection,
    listed,
)
from relayd.tokens.settings import TokenRule

T = TypeVar("T")

MAX_PROCESSES = 64
MAX_ORGANIZATION = 200  # characters
REPORT = "tls.report"

_SIZE = re.compile(r"(\d+)(?:(Ki|Mi|Gi|k|M|G)?B)?")
_FACTORS = {None: 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}


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
    reader = _Reader(path, text, unit=unit)
    config = reader.read(tables)
    if reader.mistakes:
        raise ConfigError(*reader.mistakes)
    return config


class _Reader:
    """Reads the tables of one file and gathers the mistakes."""

    def __init__(self, path: Path, text: str, *, unit: bool) -> None:
        self.mistakes: list[str] = []
        self._unit = unit
        self._token_rules: list[TokenRule] = []
        self._path = path
        self._lines = text.splitlines()
        self._spool = path.parent
        self._setup = TlsSetup()

    def read(self, tables: dict[str, Any]) -> Config:
        for name in tables:
            if name not in (known := [*SECTIONS, "aliases", "route", "site"]):
                self._mistake(name, "no such section" + _suggestion(name, known))
        tls = tables["tls"] if isinstance(tables.get("tls"), dict) else {}
        domains, report = tls.pop("domain", []), tls.pop("report", {})
        sections: dict[str, Any] = {
            name: self._section(cls, tables.get(name, {}), name) or cls() for name, cls in SECTIONS.items()
        }
        relay: RelaySection = sections["relay"]
        self._check_relay(relay)
        self._spool = (self._path.parent / relay.spool).resolve()
        if self._spool == Path("/"):
            self._mistake("relay.spool", "the root directory cannot be a spool")
        self._setup = self._tls_setup(sections["tls"], "tls")
        return Config(
            path=self._path,
            spool=self._spool,
            tls_setup=self._setup,
            tls_rules=tuple(self._tls_rules(domains, sections["tls"])),
            **self._report(report),
            aliases=self._aliases(tables.get("aliases", {})),
            routes=tuple(self._routes(tables.get("route", []))),
            token_rules=tuple(self._token_rules),
            site_limits=self._site_limits(relay),
            sites=tuple(self._sites(tables.get("site", []))),
            **sections,
        )

    # one table

    def _section(self, cls: type[T], table: Any, where: str) -> T | None:
        """Return the table as a `cls`, or None after telling what is wrong with it."""
        if not isinstance(table, dict):
            self._mistake(where, "must be a table")
            return None
        before = len(self.mistakes)
        hints = get_type_hints(cls, include_extras=True)
        values = {}
        for key, value in table.items():
            if key not in hints:
                self._mistake(f"{where}.{key}", "no such setting" + _suggestion(key, hints))
                continue
            try:
                values[key] = _from_words(hints[key], value)
            except ValueError as error:
                self._mistake(f"{where}.{key}", str(error))
        required = (f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING)  # type: ignore[arg-type]
        for missing in (f.name for f in required if f.name not in table):
            self._mistake(where, f"{missing} is missing")
        section = self._validated(cls, values, where)
        return section if len(self.mistakes) == before else None

    def _validated(self, cls: type[T], values: dict[str, Any], where: str) -> T | None:
        try:
            # JSON is pydantic's strictest reading that still takes a word for an enum and a list for a tuple.
            return TypeAdapter(cls).validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            told = set()
            for each in error.errors():
                # A value that may be of several types is complained of once for each.
                key = ".".join([where, *(str(part) for part in each["loc"][:1])])
                if key not in told and each["type"] != "missing":
                    self._mistake(key, _in_words(each["msg"]))
                told.add(key)
            return None

    # what types cannot say

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
        if not isinstance(tables, list):
            self._mistake("route", "is written [[route]], with double brackets")
            return
        names: set[str] = set()
        for number, table in enumerate(tables, 1):
            where = f"route {number}"
            section = self._section(RouteSection, table, where)
            if section is None:
                continue
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
        if not isinstance(tables, list):
            self._mistake("tls.domain", "is written [[tls.domain]], with double brackets")
            return
        for number, table in enumerate(tables, 1):
            where = f"tls.domain {number}"
            section = self._section(TlsDomainSection, table, where)
            if section is None:
                continue
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
        section = self._section(ReportSection, table, REPORT) or ReportSection()
        domains = [self._mailbox(getattr(section, key), f"{REPORT}.{key}") for key in ("contact", "sender")]
        if all(domains) and domains[0] != domains[1]:
            self._mistake(f"{REPORT}.contact", f"must be of the domain of the sender, which signs: {domains[1]}")
        if len(section.organization) > MAX_ORGANIZATION or not section.organization.isprintable():
            self._mistake(f"{REPORT}.organization", f"must be of at most {MAX_ORGANIZATION} printable characters")
        return {"tls_report": section, "dkim": self._dkim(section)}

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
        if not isinstance(tables, list):
            self._mistake("site", "is written [[site]], with double brackets")
            return
        for number, table in enumerate(tables, 1):
            where = f"site {number}"
            section = self._section(SiteSection, table, where)
            if section is None:
                continue
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

    # telling

    def _mistake(self, key: str, sentence: str) -> None:
        line = self._line_of(key)
        self.mistakes.append(f"{self._path}{f':{line}' if line else ''}: {key}: {sentence}")

    def _line_of(self, key: str) -> int | None:
        """Return the line where `key`, as `section.name`, `route 2.name` or `tls.domain 2.name`, stands; the section's
        if it has none."""
        kind, number, name = _parts(key)
        heading = re.compile(rf"\s*\[+\s*{re.escape(kind)}\s*\]+")
        count, found = 0, None
        for at, line in enumerate(self._lines, 1):
            if re.match(r"\s*\[", line) and "=" not in line.partition("#")[0]:
                count += bool(heading.match(line))
                inside = bool(heading.match(line)) and count == number
                found = at if inside else found
            elif found and name and inside and re.match(rf"""\s*["']?{re.escape(name)}["']?\s*=""", line):
                return at
        return found


def _parts(key: str) -> tuple[str, int, str]:
    """Return the section that a key is in, which of those it is, and its name there."""
    kind, space, rest = key.partition(" ")
    if space:
        number, _, name = rest.partition(".")
        return kind, int(number), name
    kind, _, name = key.partition(".")
    if key.startswith("tls.report"):
        return "tls.report", 1, key.removeprefix("tls.report").removeprefix(".")
    return (key, 1, "") if key == "tls.domain" else (kind, 1, name)


def _from_words(hint: Any, value: Any) -> Any:
    """Turn a duration or a size from words into what JSON has for it; check that numbers are not negative, and that no
    date is among the values."""
    json.dumps(value, default=_no_date)
    if hint is timedelta:
        return f"PT{parse_duration(value).total_seconds():.6f}S"
    if hint == Octets:
        return parse_size(value)
    if hint in (int, int | None) and type(value) is int and value < 1:
        raise ValueError(f"must be 1 or more, not {value}")
    return value


def _no_date(value: Any) -> Any:
    raise ValueError(f"must not be a date or a time, as {value} is")


def parse_size(value: Any) -> int:
    """Return the octets that `"512KiB"`, `"50MiB"` or a number name; ValueError for anything else."""
    if type(value) is int and value > 0:
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)) and int(match[1]) > 0:
        return int(match[1]) * _FACTORS[match[2]]
    raise ValueError(f'must be a size as "512KiB", "50MiB" or a number of octets, not {value!r}')


def _suggestion(key: str, known: Any) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; {close[0]}?" if close else ""


def _in_words(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should", "should")
