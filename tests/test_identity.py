"""What the machine calls itself."""

from __future__ import annotations

import pytest

from relayd.identity import identity


@pytest.mark.parametrize(
    ("configured", "machine", "addresses", "hostname", "warns"),
    [
        ("Relay.Example.ORG", "box", (), "relay.example.org", False),
        ("[192.0.2.1]", "box", (), "[192.0.2.1]", False),
        ("", "mail.example.org", (), "mail.example.org", False),
        ("", "box", ("192.0.2.7", "2001:db8::1"), "[192.0.2.7]", True),
        ("", "box", ("fe80::1", "2001:db8::1"), "[IPv6:2001:db8::1]", True),
        ("", "under score!", (), "[127.0.0.1]", True),
        ("", "box.localdomain", ("192.0.2.7",), "[192.0.2.7]", True),
        ("", "", (), "[127.0.0.1]", True),
        ("", "10.0.0.1", (), "[127.0.0.1]", True),
    ],
)
def test_a_server_has_a_full_name_or_calls_itself_by_its_address(
    configured: str, machine: str, addresses: tuple[str, ...], hostname: str, warns: bool
) -> None:
    chosen = identity(configured, machine, addresses)

    assert chosen.hostname == hostname
    assert bool(chosen.warning) == warns
