"""Whose word on DNSSEC counts (FAULTS.md D16, resolv.conf(5))."""

from __future__ import annotations

import pytest

from relayd.route.trust import doubt


@pytest.mark.parametrize(
    ("addresses", "believed"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.53", "::1"], True),
        (["127.1.2.3"], True),
        (["192.0.2.53"], False),
        (["127.0.0.1", "192.0.2.53"], False),
        (["10.0.0.1"], False),
        (["fe80::1%eth0"], False),
        (["127.0.0.11"], False),  # Docker's
        ([], True),  # there is nobody to believe
    ],
)
def test_name_servers_are_believed_if_all_are_on_this_machine(addresses: list[str], believed: bool) -> None:
    assert (doubt(addresses, trust_ad=False) == "") is believed
    assert doubt(addresses, trust_ad=True) == ""


@pytest.mark.parametrize(
    ("resolv_conf", "believed"),
    [
        ("options trust-ad", True),
        ("nameserver 192.0.2.53\noptions edns0 trust-ad\nsearch example.org\n", True),
        ("options\ttrust-ad\n", True),
        ("options ndots:2\noptions trust-ad rotate\n", True),
        ("# options trust-ad\n", False),
        ("options no-trust-ad\n", False),
        ("options trust-add\n", False),
        ("search trust-ad\n", False),
        ("", False),
    ],
)
def test_the_systems_configuration_may_say_that_the_way_is_safe(resolv_conf: str, believed: bool) -> None:
    assert (doubt(["192.0.2.53"], trust_ad=False, resolv_conf=resolv_conf) == "") is believed
