"""relayd.web.settings: where the server may listen."""

from __future__ import annotations

import pytest

from relayd.web.settings import Place


@pytest.mark.parametrize(
    ("text", "place", "private"),
    [
        ("127.0.0.1:8025", Place(address="127.0.0.1", port=8025), True),
        ("127.0.0.9:1", Place(address="127.0.0.9", port=1), True),
        ("[::1]:8025", Place(address="::1", port=8025), True),
        ("unix:/run/relayd/http.sock", Place(path="/run/relayd/http.sock"), True),
        ("0.0.0.0:8025", Place(address="0.0.0.0", port=8025), False),
        ("[::]:8025", Place(address="::", port=8025), False),
        ("192.0.2.1:8025", Place(address="192.0.2.1", port=8025), False),
        ("[2001:DB8::1]:80", Place(address="2001:db8::1", port=80), False),
    ],
)
def test_an_address_or_a_socket_is_a_place(text: str, place: Place, private: bool) -> None:
    assert Place.parse(text) == place
    assert place.private is private
    assert Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "text",
    [
        *("8025", ":8025", "localhost:8025", "relay.example.org:8025", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0"),
        *("127.0.0.1:65536", "127.0.0.1:+80", "[127.0.0.1]:80", "::1:80", "[::1]", "[fe80::1%eth0]:80", "127.1:80"),
        *("unix:", "unix:http.sock", "unix:/" + 107 * "x", "unix:/a\0b", "http://127.0.0.1:80"),
    ],
)
def test_nothing_else_is(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Place.parse(text)
