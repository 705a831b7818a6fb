"""Long lines are cut where it does least harm (RFC 5321 section 4.5.3.1.6, RFC 5322 section 2.2.3)."""

from __future__ import annotations

from relayd.relay.folding import Folder

BODY = b"Subject: x\r\n\r\n"


def folded(content: bytes) -> bytes:
    folder = Folder()
    return folder.feed(content) + folder.finish()


def test_what_is_short_enough_stays_as_it_is() -> None:
    content = BODY + b"x" * 998 + b"\r\n" + b"y" * 998
    assert folded(content) == content


def test_a_long_line_goes_on_behind_a_space() -> None:
    assert folded(BODY + b"x" * 2500 + b"\r\n") == (
        BODY + b"x" * 998 + b"\r\n " + b"x" * 997 + b"\r\n " + b"x" * 505 + b"\r\n"
    )


def test_a_field_is_folded_before_white_space_that_it_has() -> None:
    addresses = b", ".join(b"a%04d@example.org" % n for n in range(200))
    field = b"To: " + addresses

    lines = folded(field + b"\r\n\r\n").split(b"\r\n")

    assert b"".join(lines) == field
    assert max(map(len, lines)) <= 998
    assert all(line.startswith(b" a") for line in lines[1:-2])


def test_a_field_without_white_space_is_cut_all_the_same() -> None:
    assert (
        folded(b"X-Token: " + b"t" * 1500 + b"\r\n\r\n")
        == b"X-Token:\r\n " + b"t" * 997 + b"\r\n " + b"t" * 503 + b"\r\n\r\n"
    )


def test_the_body_is_not_folded_at_its_spaces() -> None:
    assert folded(BODY + b"word " * 200).split(b"\r\n")[2] == (b"word " * 200)[:998]


def test_no_character_is_cut_in_two() -> None:
    lines = folded(BODY + b"x" + "€".encode() * 1000).split(b"\r\n")

    assert "".join(line.decode().removeprefix(" ") for line in lines[2:]) == "x" + "€" * 1000


def test_what_is_no_utf8_is_cut_at_the_limit() -> None:
    assert len(folded(BODY + b"\x80" * 1500).split(b"\r\n")[2]) == 998
