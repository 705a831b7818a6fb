from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.route import AddressFamily
from relayd.route.answers import Found, LookUp, NoData, Unavailable
from relayd.route.targets import MAX_ADDRESSES, TargetRules, arranged, is_own, refusal, sift

DEFAULT = TargetRules(own=frozenset({"198.51.100.7", "2001:db8::7"}))
STRICT = TargetRules(allow_private=False)
LOOPBACK_TOO = TargetRules(allow_loopback=True)
LOOPBACK = "loopback address"
LINK_LOCAL = "link-local address"
UNSPECIFIED = "unspecified address"
OURS = "an address of this machine"
NOBODY = "no address of a single host"
PRIVATE = "private address"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1", LOOPBACK),
        ("127.255.255.254", LOOPBACK),
        ("::1", LOOPBACK),
        ("::ffff:127.0.0.1", LOOPBACK),
        ("::127.0.0.1", LOOPBACK),
        ("64:ff9b::7f00:1", LOOPBACK),
        ("2002:7f00:1::1", LOOPBACK),
        ("2001:0:4136:e378:8000:63bf:80ff:fffe", LOOPBACK),  # Teredo, its client 127.0.0.1
        ("169.254.169.254", LINK_LOCAL),
        ("fe80::1", LINK_LOCAL),
        ("64:ff9b::a9fe:a9fe", LINK_LOCAL),
        ("0.0.0.0", UNSPECIFIED),
        ("0.1.2.3", UNSPECIFIED),
        ("::", UNSPECIFIED),
        ("::ffff:0.0.0.0", UNSPECIFIED),
        ("224.0.0.1", NOBODY),
        ("239.255.255.255", NOBODY),
        ("255.255.255.255", NOBODY),
        ("240.0.0.1", NOBODY),
        ("ff02::1", NOBODY),
        ("2002:e000:1::1", NOBODY),
        ("198.51.100.7", OURS),
        ("2001:db8::7", OURS),
        ("::ffff:198.51.100.7", OURS),
        ("2002:c633:6407::1", OURS),
    ],
)
def test_what_leads_to_ourselves_or_nowhere_is_refused(address: str, reason: str) -> None:
    assert reason in refusal(address, DEFAULT)


@pytest.mark.parametrize("address", ["192.0.2.1", "8.8.8.8", "2001:db8::1", "10.0.0.1", "fd00::1", "64:ff9b::808:808"])
def test_other_addresses_are_permitted(address: str) -> None:
    assert refusal(address, DEFAULT) == ""


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "100.64.0.1",
        "fd00::1",
        "fec0::1",
        "64:ff9b:1::1",
        "::ffff:10.0.0.1",
        "2002:a00:1::1",
    ],
)
def test_private_addresses_are_refused_where_they_are_not_allowed(address: str) -> None:
    assert PRIVATE in refusal(address, STRICT)
    assert "relay.allow_private" in refusal(address, STRICT)
    assert refusal(address, DEFAULT) == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::"])
def test_loopback_and_its_like_are_permitted_where_they_are_allowed(address: str) -> None:
    assert "relay.allow_loopback" in refusal(address, DEFAULT)
    assert refusal(address, LOOPBACK_TOO) == ""


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "255.255.255.255"])
def test_nothing_allows_multicast(address: str) -> None:
    assert refusal(address, LOOPBACK_TOO)


@given(st.ip_addresses(v=4), st.booleans(), st.booleans())
def test_what_is_refused_as_ipv4_is_refused_inside_ipv6(
    address: ipaddress.IPv4Address, loopback: bool, private: bool
) -> None:
    rules = TargetRules(allow_loopback=loopback, allow_private=private)
    number = int(address)
    carriers = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]

    for carrier in carriers:
        if refusal(str(address), rules):
            assert refusal(str(ipaddress.IPv6Address(carrier)), rules)


@given(st.ip_addresses())
def test_every_address_has_a_verdict_and_ours_is_always_refused(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    everything = TargetRules(allow_loopback=True, own=frozenset({str(address)}))

    assert refusal(str(address), everything)
    assert is_own([str(address)], everything.own)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (AddressFamily.ANY, "4a 6a 4b 4c 4d 4e"),
        (AddressFamily.IPV4, "4a 4b 4c 4d 4e"),
        (AddressFamily.IPV6, "6a"),
        (AddressFamily.PREFER_IPV4, "4a 4b 4c 4d 6a 4e"),
        (AddressFamily.PREFER_IPV6, "6a 4a 4b 4c 4d 4e"),
    ],
)
def test_a_family_policy_orders_the_addresses(family: AddressFamily, expected: str) -> None:
    assert " ".join(arranged(["4a", "4b", "4c", "4d", "4e"], ["6a"], family)) == expected


@given(st.lists(st.ip_addresses(v=4).map(str), unique=True), st.lists(st.ip_addresses(v=6).map(str), unique=True))
def test_any_order_has_all_addresses_and_keeps_that_of_each_family(v4: list[str], v6: list[str]) -> None:
    for family in (AddressFamily.ANY, AddressFamily.PREFER_IPV4, AddressFamily.PREFER_IPV6):
        order = arranged(v4, v6, family)

        assert [address for address in order if ":" not in address] == v4
        assert [address for address in order if ":" in address] == v6


def test_refused_addresses_are_dropped_and_the_others_stay() -> None:
    a = Found(("127.0.0.1", "192.0.2.2", "192.0.2.1"))

    sifted = sift(a, NoData(), AddressFamily.ANY, DEFAULT)

    assert sifted.permitted == ("192.0.2.2", "192.0.2.1")
    assert sifted.refusals == ("127.0.0.1 is a loopback address, refused unless relay.allow_loopback is true",)


def test_a_configured_route_may_go_anywhere() -> None:
    sifted = sift(Found(("127.0.0.1", "198.51.100.7")), Found(("::1",)), AddressFamily.ANY, None)

    assert sifted.permitted == ("127.0.0.1", "::1", "198.51.100.7")
    assert sifted.refusals == ()


def test_refused_addresses_do_not_use_up_the_tries() -> None:
    a = Found((*(f"127.0.0.{number}" for number in range(1, 20)), *(f"192.0.2.{number}" for number in range(1, 20))))

    assert sift(a, NoData(), AddressFamily.ANY, DEFAULT).permitted == tuple(
        f"192.0.2.{number}" for number in range(1, MAX_ADDRESSES + 1)
    )


@pytest.mark.parametrize(
    ("a", "aaaa"),
    [
        (Found(("192.0.2.1",)), Unavailable("SERVFAIL")),
        (Unavailable("SERVFAIL"), Found(("2001:db8::1",))),
    ],
)
def test_one_family_that_cannot_be_looked_up_does_not_lose_the_other(a: LookUp[str], aaaa: LookUp[str]) -> None:
    sifted = sift(a, aaaa, AddressFamily.ANY, DEFAULT)

    assert len(sifted.permitted) == 1
    assert sifted.trouble == "SERVFAIL"
