"""What this machine calls itself, in EHLO, Received and notifications (RFC 5321 sections 2.3.5 and 4.1.4).

Pure but for `hostname_of_machine`.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from relayd.mail.address import parse_domain
from relayd.mail.errors import InvalidAddress


@dataclass(frozen=True, slots=True)
class Identity:
    """A name, and what the operator should know about it (empty: nothing)."""

    hostname: str
    warning: str = ""


def identity(configured: str, machine: str, addresses: Iterable[str]) -> Identity:
    """Choose the configured name, else the machine's own if it is a full domain name, else an address literal.

    A name without a dot, or one that cannot be a domain name, is no name for a mail server: others refuse it.
    """
    if configured:
        return Identity(parse_domain(configured))
    try:
        name = parse_domain(machine)
    except InvalidAddress:
        name = ""
    if "." in name and not name.startswith("[") and not name.endswith((".localdomain", ".local")):
        return Identity(name)
    literal = _literal(addresses)
    return Identity(
        literal,
        f"this machine's name, {machine!r}, is not a full domain name; calling myself {literal}, which many servers "
        "refuse: set relay.hostname",
    )


def hostname_of_machine() -> str:
    """Return the machine's host name, with its domain where the system knows one without asking the network."""
    name = socket.gethostname()
    return name if "." in name else _from_hosts_file(name)


def _from_hosts_file(name: str) -> str:
    """Look the name up as `hostname --fqdn` would, but in /etc/hosts only: a resolver may hang."""
    try:
        with open("/etc/hosts", encoding="ascii", errors="replace") as hosts:
            lines = [line.partition("#")[0].split() for line in hosts]
    except OSError:
        return name
    return next((words[1] for words in lines if len(words) > 2 and name in words[2:] and "." in words[1]), name)


def _literal(addresses: Iterable[str]) -> str:
    """The literal of the first IPv4 address, else of the first IPv6 address, else of loopback."""
    found = sorted((ipaddress.ip_address(address) for address in addresses), key=lambda each: (each.version, int(each)))
    usable = [each for each in found if not each.is_link_local]
    if not usable:
        return "[127.0.0.1]"
    return f"[IPv6:{usable[0]}]" if usable[0].version == 6 else f"[{usable[0]}]"
