from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.route import Host
from relayd.route.settings import DnsSettings, RouteRule, parse_nameserver


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 53),
        ("127.0.0.1:5353", "127.0.0.1", 5353),
        ("[::1]:53", "::1", 53),
        ("[2001:DB8::0001]", "2001:db8::1", 53),
        ("2001:db8::1", "2001:db8::1", 53),
    ],
)
def test_name_servers_are_addresses_with_or_without_a_port(text: str, address: str, port: int) -> None:
    assert parse_nameserver(text) == (address, port)


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:x", "[::1", "::1]:53"]
)
def test_what_is_no_name_server_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="name server"):
        DnsSettings(nameservers=(text,))


@given(st.text(max_size=40) | st.from_regex(r"\[?[0-9a-f.:]{0,20}\]?(:[0-9]{0,6})?", fullmatch=True))
def test_no_text_makes_the_parsing_of_name_servers_fail_otherwise(text: str) -> None:
    try:
        _, port = parse_nameserver(text)
    except ValueError:
        return
    assert 0 < port < 65536


def test_a_look_up_needs_some_time() -> None:
    with pytest.raises(ValueError, match="time"):
        DnsSettings(timeout=timedelta(0))


@pytest.mark.parametrize(
    ("name", "match", "hosts"),
    [
        ("", ("*",), (Host(name="h"),)),
        ("a b", ("*",), (Host(name="h"),)),
        ("a;b", ("*",), (Host(name="h"),)),
        ("x" * 65, ("*",), (Host(name="h"),)),
        ("provider", ("*",), ()),
    ],
)
def test_a_rule_refuses_to_be_wrong(name: str, match: tuple[str, ...], hosts: tuple[Host, ...]) -> None:
    with pytest.raises(ValueError, match="route"):
        RouteRule(name=name, match=match, hosts=hosts)
