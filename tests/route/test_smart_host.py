from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.route import AddressFamily, Credentials, Host
from relayd.mail.tls import TlsPolicy
from relayd.route.settings import RouteRule, RouteSettings
from relayd.route.smart_host import matching, parse_host, site_of


def a_rule(name: str, *match: str) -> RouteRule:
    return RouteRule(name=name, match=match, hosts=(parse_host("smtp.example.com:587"),))


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("smtp.example.com", Host(name="smtp.example.com", port=25)),
        ("SMTP.Example.COM.:587", Host(name="smtp.example.com", port=587)),
        ("smtp://smtp.example.com:2525", Host(name="smtp.example.com", port=2525)),
        ("smtps://smtp.example.com", Host(name="smtp.example.com", port=465, implicit_tls=True)),
        ("smtps://smtp.example.com:4650/", Host(name="smtp.example.com", port=4650, implicit_tls=True)),
        ("SMTPS://[2001:db8::1]", Host(name="2001:db8::1", port=465, implicit_tls=True)),
        ("[192.0.2.1]:26", Host(name="192.0.2.1", port=26)),
        ("192.0.2.1", Host(name="192.0.2.1", port=25)),
        ("192.0.2.1:26", Host(name="192.0.2.1", port=26)),
        ("[2001:db8::1]:587", Host(name="2001:db8::1", port=587)),
        ("[IPv6:2001:DB8:0::1]", Host(name="2001:db8::1", port=25)),
        ("2001:db8::1", Host(name="2001:db8::1", port=25)),
        ("localhost:1025", Host(name="localhost", port=1025)),
        ("bücher.example", Host(name="xn--bcher-kva.example", port=25)),
        (" smtp.example.com ", Host(name="smtp.example.com", port=25)),
    ],
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(text: str, host: Host) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":25",
        "smtp.example.com:",
        "smtp.example.com:0",
        "smtp.example.com:65536",
        "smtp.example.com:smtp",
        "http://smtp.example.com",
        "smtp.example.com/path",
        "user@smtp.example.com",
        "[smtp.example.com]",
        "[192.0.2.1",
        "192.0.2.256",
        "2001:db8::1:587:x",
        "a b",
        "-a.example",
    ],
)
def test_what_is_no_host_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match=r"a host is|a port is"):
        parse_host(text)


@given(st.text(max_size=60))
def test_no_text_makes_the_parsing_of_a_host_fail_otherwise(text: str) -> None:
    try:
        host = parse_host(text)
    except ValueError:
        return
    assert host.name == host.name.lower()
    assert 0 < host.port < 65536


def test_the_first_rule_that_matches_wins() -> None:
    rules = [a_rule("wide", "*.example.net"), a_rule("narrow", "a.example.net", "example.org"), a_rule("all", "*")]

    chosen = [matching(rules, destination) for destination in ("a.example.net", "example.org", "example.com")]

    assert [rule.name for rule in chosen if rule] == ["wide", "narrow", "all"]


def test_without_a_match_there_is_no_rule() -> None:
    assert matching([a_rule("provider", "example.net")], "example.org") is None


def test_a_rule_becomes_a_site_with_its_hosts_in_order() -> None:
    rule = RouteRule(
        name="provider",
        match=("*",),
        hosts=(parse_host("b.example.com:587"), parse_host("smtps://a.example.com")),
        credentials=Credentials(username="relay", password="secret"),
        tls=TlsPolicy.VERIFY,
        source_addresses=("192.0.2.9",),
        address_family=AddressFamily.IPV4,
    )

    site = site_of(rule, RouteSettings(hostname="relay.example.org"))

    assert site.key == "route:provider"
    assert [[str(host) for host in group] for group in site.hosts] == [["b.example.com:587"], ["a.example.com:465"]]
    assert (site.tls, site.address_family, site.source_addresses) == (
        TlsPolicy.VERIFY,
        AddressFamily.IPV4,
        ("192.0.2.9",),
    )
    assert site.credentials == Credentials(username="relay", password="secret")
    assert site.configured
    assert "secret" not in repr(site)


def test_what_a_rule_leaves_open_is_taken_from_the_settings() -> None:
    settings = RouteSettings(
        hostname="relay.example.org",
        tls=TlsPolicy.REQUIRE,
        source_addresses=("192.0.2.9",),
        address_family=AddressFamily.IPV6,
    )

    site = site_of(a_rule("provider", "*"), settings)

    assert (site.tls, site.source_addresses, site.address_family) == (
        TlsPolicy.REQUIRE,
        ("192.0.2.9",),
        AddressFamily.IPV6,
    )
