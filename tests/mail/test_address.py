"""Addresses: what RFC 5321 section 4.1.2 allows, and what must never get near a command."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address, parse_domain
from relayd.mail.errors import InvalidAddress


@pytest.mark.parametrize(
    ("text", "local_part", "domain"),
    [
        ("ann@example.org", "ann", "example.org"),
        ("<ann@example.org>", "ann", "example.org"),
        ("Ann.B+tag@EXAMPLE.Org.", "Ann.B+tag", "example.org"),
        ('"a b@c"@example.org', '"a b@c"', "example.org"),
        ('"a\\"b"@example.org', '"a\\"b"', "example.org"),
        ("@relay.test:ann@example.org", "ann", "example.org"),
        ("<@a.test,@b.test:ann@example.org>", "ann", "example.org"),
        ("ann@[192.0.2.1]", "ann", "[192.0.2.1]"),
        ("ann@[IPv6:2001:DB8:0:0::1]", "ann", "[IPv6:2001:db8::1]"),
        ("ann@bücher.example", "ann", "xn--bcher-kva.example"),
        ("jörg@example.org", "jörg", "example.org"),
        ("ann@localhost", "ann", "localhost"),
        ("ann@_dmarc.example.org", "ann", "_dmarc.example.org"),
    ],
)
def test_an_address_is_parsed_to_its_canonical_form(text: str, local_part: str, domain: str) -> None:
    assert Address.parse(text) == Address(local_part, domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ann",
        "ann@",
        "@example.org",
        "<>",
        "a@b, c@d",
        "a@b c@d",
        "a@b SIZE=1",
        "a(comment)@b",
        "a>b@c",
        "a@b;c",
        "a@b\n",
        "a@b\r\nRCPT TO:<x@y>",
        "a\x00@b",
        "a\u2028@b",
        "a\x85@b",
        "Ann <a@b>",
        ".a@b",
        "a..b@c",
        "a.@b",
        'a"b@c',
        '"a@b',
        "a@b..c",
        "a@-b.c",
        "a@b-.c",
        "a@192.0.2.1",
        "a@[192.0.2.256]",
        "a@[IPv6:::g]",
        "a@[192.0.2.1",
        "a" * 65 + "@example.org",
        "a@" + ".".join(["b" * 60] * 5),
        "a@" + "b" * 64 + ".org",
    ],
)
def test_what_is_not_one_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidAddress):
        Address.parse(text)


@given(st.text(max_size=80) | st.from_regex(r"[ -~]{1,20}@[ -~]{1,20}", fullmatch=True))
def test_whatever_is_parsed_is_safe_in_a_command_and_parses_to_itself(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidAddress:
        return
    assert not re.search(r"[\x00-\x1f\x7f]", str(address))
    unquoted = re.sub(r'^"(?:[^"\\]|\\.)*"', "", str(address))
    assert not re.search(r"[<>,;:() ]", re.sub(r"\[[^]]*\]$", "", unquoted))
    assert Address.parse(str(address)) == address


def test_only_a_local_part_outside_ascii_needs_smtputf8() -> None:
    assert Address.parse("jörg@example.org").smtputf8
    assert not Address.parse("ann@bücher.example").smtputf8


@pytest.mark.parametrize(
    ("domain", "literal"), [("example.org", None), ("[192.0.2.1]", "192.0.2.1"), ("[IPv6:2001:db8::1]", "2001:db8::1")]
)
def test_a_literal_gives_its_ip_address(domain: str, literal: str | None) -> None:
    assert Address("ann", parse_domain(domain)).literal == literal
