"""Smart hosts: which [[route]] a destination takes, and how patterns and hosts are written.

Pure.  Rules are looked at in the order of the file and the first that matches wins, as in a firewall: the reader of
the file needs no precedence rules in mind, and `*` goes last (mail/pattern.py).

A smart host is a name whose A and AAAA records are looked up (never its MX), or an IP address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from relayd.mail.address import parse_domain
from relayd.mail.errors import InvalidAddress
from relayd.mail.pattern import matches
from relayd.mail.route import Host, Site
from relayd.route.settings import RouteRule, RouteSettings

SMTP_PORT = 25
SMTPS_PORT = 465  # TLS from the first byte: RFC 8314 section 3.3

_HOST = re.compile(
    r"(?:(?P<scheme>smtps?)://)?(?:\[(?:ipv6:)?(?P<literal>[^\[\]]+)\]|(?P<name>[^\[\]:/]+))(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
)


def parse_host(text: str) -> Host:
    """Return the host that `text` names: `host`, `host:587`, `smtps://host`, `[2001:db8::1]:25`, `192.0.2.1`.

    The port is 25, or 465 with `smtps://`, unless given.  Raises ValueError for anything else.
    """
    text = text.strip()
    bare = _ip_address(text)
    if bare:
        return Host(name=bare, port=SMTP_PORT)
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError(_not_a_host(text))
    implicit_tls = (match["scheme"] or "").lower() == "smtps"
    port = int(match["port"]) if match["port"] else (SMTPS_PORT if implicit_tls else SMTP_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"a port is a number from 1 to 65535: {text!r}")
    return Host(name=_host_name(match["literal"], match["name"], text), port=port, implicit_tls=implicit_tls)


def matching(rules: Iterable[RouteRule], destination: str) -> RouteRule | None:
    """Return the first rule with a pattern that matches `destination`, a lower-case A-label or an address literal."""
    return next((rule for rule in rules if any(matches(pattern, destination) for pattern in rule.match)), None)


def named(rules: Iterable[RouteRule], name: str) -> RouteRule | None:
    """Return the rule of that name."""
    return next((rule for rule in rules if rule.name == name), None)


def site_of(rule: RouteRule, settings: RouteSettings) -> Site:
    """Return the site of a rule.  Its key is the rule's name, so that its back-off survives a change of hosts."""
    return Site(
        key=f"route:{rule.name}",
        hosts=tuple((host,) for host in rule.hosts),
        tls=settings.tls if rule.tls is None else rule.tls,
        credentials=rule.credentials,
        source_addresses=settings.source_addresses if rule.source_addresses is None else rule.source_addresses,
        address_family=settings.address_family if rule.address_family is None else rule.address_family,
        setup=rule.setup,
        configured=True,
    )


def _host_name(literal: str | None, name: str | None, text: str) -> str:
    if literal is not None:
        address = _ip_address(literal)
        if not address:
            raise ValueError(_not_a_host(text))
        return address
    assert name is not None  # the pattern has one or the other
    address = _ip_address(name)
    if address:
        return address
    try:
        return parse_domain(name)
    except InvalidAddress:
        raise ValueError(_not_a_host(text)) from None


def _ip_address(text: str) -> str:
    try:
        return ipaddress.ip_address(text).compressed
    except ValueError:
        return ""


def _not_a_host(text: str) -> str:
    return f"a host is a name or an IP address, with or without a port (IPv6 in brackets), not {text!r}"
