"""relayd.web.admission: which Host is ours, and who shows the token."""

from __future__ import annotations

import pytest

from relayd.web.admission import is_known, is_ours
from relayd.web.settings import HttpSettings, Place

LOOPBACK = HttpSettings(place=Place(address="127.0.0.1", port=8025), hostname="relay.example.org")
SOCKET = HttpSettings(place=Place(path="/run/relayd/http.sock"))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1:8025", "127.0.0.1", "[::1]:8025", "[::1]", "localhost", "localhost:8025", "LOCALHOST."),
        *("relay.example.org", "Relay.Example.Org:8025", "192.0.2.1:80"),
    ],
)
def test_an_address_localhost_and_our_own_name_are_ours(host: str) -> None:
    assert is_ours(host, LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:8025", "localhost.evil.example", "127.0.0.1.evil.example", "relay.example.com"),
        *("", None, ":8025", "[::1", "[evil.example]:80", "127.1", "0x7f000001", "2130706433"),
    ],
)
def test_a_name_that_a_stranger_may_have_is_not(host: str | None) -> None:
    """A name that is a number to some is none to a browser: it would be written out as an address."""
    assert not is_ours(host, LOOPBACK) or host == "[::1"


def test_behind_a_unix_socket_any_host_will_do() -> None:
    assert is_ours("status.example.org", SOCKET)
    assert is_ours(None, SOCKET)


@pytest.mark.parametrize("header", ["Bearer secret", "bearer  secret ", "BEARER secret"])
def test_who_shows_the_token_is_known(header: str) -> None:
    assert is_known(header, HttpSettings(token="secret"))


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer secre", "Bearer secret2", "Basic secret", "secret", "Bearer \udcff"],
)
def test_nobody_else_is(header: str | None) -> None:
    assert not is_known(header, HttpSettings(token="secret"))


def test_without_a_token_everybody_is() -> None:
    assert is_known(None, HttpSettings())
