from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from relayd.route.own import _ipv6_addresses, own_addresses


def test_our_addresses_are_those_that_a_socket_can_be_bound_to() -> None:
    for text in own_addresses():
        address = ipaddress.ip_address(text)
        if address.is_link_local:
            continue  # needs the interface as well
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as ours:
            ours.bind((text, 0))


def test_the_address_that_we_would_send_from_is_ours() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        try:
            ours.connect(("192.0.2.254", 9))  # chooses a source address; nothing is sent
        except OSError:
            return  # a machine without a route
        source = ours.getsockname()[0]

    assert ipaddress.ip_address(source).is_loopback or source in own_addresses()


def test_loopback_is_not_among_them() -> None:
    assert not any(ipaddress.ip_address(text).is_loopback for text in own_addresses())


def test_addresses_of_ipv6_are_read_from_the_kernels_table(tmp_path: Path) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n20010db8000000000000000000000007 02 40 00 80     eth0\n"
    )

    assert _ipv6_addresses(table) == ["::1", "2001:db8::7"]


def test_a_machine_without_ipv6_has_no_such_addresses(tmp_path: Path) -> None:
    assert _ipv6_addresses(tmp_path / "none") == []
