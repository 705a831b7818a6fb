"""What the command needs of the configuration, read without the rest: it is called for each mail.

`relayd check-config` finds the mistakes of the whole file; here only those that stand in the way are found.  Passwords
are in files of their own, so whoever may drop mail may read this one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from errno import EACCES
from pathlib import Path
from typing import Any

from relayd.identity import hostname_of_machine, identity
from relayd.mail.errors import InvalidAddress
from relayd.mail.size import parse_size
from relayd.sendmail.failure import EX_CONFIG, Failure
from relayd.submission.envelope import Domains
from relayd.submission.examine import Examiner
from relayd.submission.settings import MAX_MESSAGE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class SendmailSettings:
    """See the module.  `examiner` is the daemon's: what it takes, the daemon takes."""

    spool: Path
    hostname: str
    domains: Domains
    examiner: Examiner
    max_message_size: int


def read_settings(path: Path) -> SendmailSettings:
    """Read the file at `path`.

    Raises:
        Failure: it cannot be read, or what is needed of it is wrong.
    """
    tables = _tables(path)
    try:
        relay = _table(tables, "relay")
        hostname = _hostname(_text(relay, "hostname", ""))
        domains = Domains(origin=_text(relay, "origin", "") or hostname, aliases=_aliases(_table(tables, "aliases")))
        size = parse_size(relay.get("max_message_size", MAX_MESSAGE_SIZE))
        spool = (path.parent / _text(relay, "spool", "./spool")).resolve()
    except (ValueError, InvalidAddress) as error:
        raise Failure(EX_CONFIG, f"{path}: {error}; relayd check-config tells more") from None
    return SendmailSettings(
        spool=spool,
        hostname=hostname,
        domains=domains,
        examiner=Examiner(hostname=hostname, domains=domains, max_message_size=size),
        max_message_size=size,
    )


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        may = "; whoever sends mail has to be allowed to read it" if error.errno == EACCES else ""
        raise Failure(EX_CONFIG, f"{path}: {error.strerror}{may}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Failure(EX_CONFIG, f"{path}: {error}") from None


def _table(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = tables.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name}: must be a table")
    return table


def _text(table: Mapping[str, Any], key: str, default: str) -> str:
    value = table.get(key, default)
    if not isinstance(value, str):
        raise ValueError(f"relay.{key}: must be a text")
    return value


def _hostname(configured: str) -> str:
    if configured:
        return identity(configured, "", ()).hostname
    from relayd.route.own import own_addresses  # costs time, and is seldom needed

    return identity("", hostname_of_machine(), own_addresses()).hostname


def _aliases(table: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    aliases = {}
    for name, value in table.items():
        targets = [value] if isinstance(value, str) else value
        if not (isinstance(targets, list) and targets and all(isinstance(each, str) for each in targets)):
            raise ValueError(f"aliases.{name}: must be an address or a list of addresses")
        aliases[name.lower()] = tuple(targets)
    return aliases
