"""Messages re-encoded for servers that cannot take them as they are (RFC 6152 section 3, RFC.md R3 and R23)."""

from __future__ import annotations

import email
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.relay.recast import recast

TEXT = "Grüße aus Köln\r\n".encode()
PLAIN = b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
TOP = b"From: a@example.org\r\nSubject:  two  spaces,\r\n\tfolded\r\nMIME-Version: 1.0\r\n"


def multipart(*parts: bytes, kind: bytes = b"mixed", boundary: bytes = b"b1") -> bytes:
    inner = b"".join(b"\r\n--" + boundary + b"\r\n" + part for part in parts)
    head = b"Content-Type: multipart/" + kind + b";\r\n boundary=" + boundary + b"\r\n\r\npreamble"
    return head + inner + b"\r\n--" + boundary + b"--\r\nepilogue\r\n"


def leaves(content: bytes) -> list[tuple[str, bytes]]:
    found = []
    part: Message
    for part in email.message_from_bytes(content).walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            found.append((part.get_content_type(), payload.removesuffix(b"\r\n")))
    return found


def fine(content: bytes, *, eight_bit: bool = False) -> bytes:
    """Recast, and claim what holds for every result."""
    result = recast(content, eight_bit=eight_bit)
    assert result is not None
    assert eight_bit or result.isascii()
    assert b"\0" not in result
    assert all(len(line) <= 998 for line in result.split(b"\r\n"))
    assert result.replace(b"\r\n", b"").isascii() or eight_bit
    assert b"\n" not in result.replace(b"\r\n", b"")
    assert leaves(result) == leaves(content)
    return result


def test_a_text_becomes_quoted_printable_and_every_field_stays() -> None:
    text = b"Gr\xc3\xbc\xc3\x9fe, and a line of plain words that is long enough\r\n.\r\nFrom here  \r\n"
    result = fine(TOP + PLAIN + text)

    assert result.startswith(
        TOP + b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n"
    )
    assert b"Gr=C3=BC=C3=9Fe, and" in result


def test_a_text_that_is_hardly_ascii_becomes_base64() -> None:
    assert b"Content-Transfer-Encoding: base64" in fine(TOP + PLAIN + "Привет, мир\r\n".encode() * 20)


def test_mail_without_mime_is_told_what_it_is() -> None:
    result = fine(b"From: a@example.org\r\nSubject: x\r\n\r\n" + b"plain words here and there, " * 10 + TEXT)

    assert b"Content-Type: text/plain; charset=utf-8\r\nMIME-Version: 1.0\r\n" in result
    assert b"\r\nContent-Transfer-Encoding: quoted-printable\r\n" in result


def test_octets_that_are_no_utf8_are_called_unknown() -> None:
    assert b"charset=unknown-8bit" in fine(
        b"From: a@example.org\r\n\r\n" + b"Gr\xfc\xdfe\r\n" + b"words " * 20 + b"\r\n"
    )


def test_only_the_parts_that_need_it_are_changed() -> None:
    other = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjQKJeLjz9MK"
    content = TOP + multipart(PLAIN + TEXT, other)

    result = fine(content)

    assert other in result
    assert result.count(b"preamble") == result.count(b"epilogue") == 1


def test_parts_within_parts_and_messages_within_messages_are_reached() -> None:
    inner = TOP + b"Content-Transfer-Encoding: 8bit\r\n" + multipart(PLAIN + TEXT, kind=b"alternative", boundary=b"b2")
    nested = b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" + inner

    result = fine(TOP + b"Content-Transfer-Encoding: 8bit\r\n" + multipart(nested, PLAIN + TEXT))

    assert b"8bit" not in result


def test_octets_other_than_text_become_base64() -> None:
    content = (
        TOP
        + b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        + bytes(range(128, 256)) * 4
        + b"\r\n"
    )

    assert b"Content-Transfer-Encoding: base64" in fine(content)


@pytest.mark.parametrize("eight_bit", [True, False])
def test_a_long_line_is_re_encoded_even_for_a_server_that_takes_eight_bit(eight_bit: bool) -> None:
    html = (
        b"Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n<p>"
        + "Grün ".encode() * 400
        + b"</p>"
    )
    plain = PLAIN + TEXT

    result = fine(TOP + multipart(plain, html), eight_bit=eight_bit)

    assert (plain in result) == eight_bit


def test_base64_in_one_line_is_wrapped() -> None:
    part = b"Content-Type: application/pdf\r\nContent-Transfer-Encoding: BASE64\r\n\r\n" + b"QUJD" * 1000

    assert b"QUJD" * 19 + b"\r\n" in fine(TOP + multipart(part), eight_bit=True)


def test_nul_is_encoded_away() -> None:
    assert b"a=00b" in fine(TOP + PLAIN + b"a\0b and more words, so that few octets need it\r\n", eight_bit=True)


SIGNATURE = b"Content-Type: application/pgp-signature\r\n\r\nx"
NESTED = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(3000))
HARMED = {
    "signed": TOP + multipart(PLAIN + TEXT, SIGNATURE, kind=b"signed; micalg=pgp-sha1"),
    "encrypted": TOP + multipart(b"\r\nx", multipart(PLAIN + TEXT, boundary=b"b2"), kind=b"encrypted"),
    "smime": TOP + b"Content-Type: application/pkcs7-mime\r\n\r\n" + TEXT,
    "8-bit header": b"From: a@example.org\r\nSubject: Gr\xc3\xbc\xc3\x9fe\r\n\r\n" + TEXT,
    "8-bit field of a part": TOP + multipart(b"X-Field: \xc3\xbc\r\n" + PLAIN + TEXT),
    "8-bit preamble": TOP + multipart(PLAIN + TEXT).replace(b"preamble", b"pr\xc3\xa4ambel"),
    "uuencoded": TOP + b"Content-Transfer-Encoding: x-uuencode\r\n\r\n" + TEXT,
    "8-bit in base64": TOP + b"Content-Transfer-Encoding: base64\r\n\r\n" + TEXT,
    "two encodings": TOP + b"Content-Transfer-Encoding: 8bit\r\n" * 2 + b"\r\n" + TEXT,
    "not reproduced": TOP + multipart(PLAIN + TEXT).replace(b"--b1--", b"--b1-- "),
    "nested too deeply": NESTED + PLAIN + TEXT,
    "no header": b"no header at all \xc3\xbc",
}


@pytest.mark.parametrize("content", HARMED.values(), ids=HARMED)
def test_what_cannot_be_changed_without_harm_is_left_alone(content: bytes) -> None:
    assert recast(content, eight_bit=False) is None


def test_many_fields_are_no_trouble() -> None:
    fine(b"X-Field: value\r\n" * 10_000 + PLAIN + TEXT)


_WORDS = [b"a", b" ", b"=", b".", b"\r\n", "ü".encode(), b"\xff", b"From ", b"--b", b"x" * 999, b"\0", b"\t"]
_OCTETS = st.lists(st.sampled_from(_WORDS), max_size=30).map(b"".join)
_HEADS = st.sampled_from(
    [
        PLAIN,
        b"Content-Type: text/html\r\n\r\n",
        b"\r\n",
        b"Content-Type: application/x-data; name=x\r\nContent-Transfer-Encoding: binary\r\n\r\n",
        b"Content-Type: text/plain\r\nContent-Transfer-Encoding: 7bit\r\nX: y\r\n z\r\n\r\n",
    ]
)
_LEAF = st.tuples(_HEADS, _OCTETS).map(b"".join)


def _nest(children: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    groups = st.lists(children, min_size=1, max_size=3)
    many = st.tuples(groups, st.integers(2, 99999)).map(lambda pair: multipart(*pair[0], boundary=b"=_%d" % pair[1]))
    return many | children.map(lambda one: b"Content-Type: message/rfc822\r\n\r\n" + one)


@settings(max_examples=300, deadline=None)
@given(st.recursive(_LEAF, _nest, max_leaves=6), st.booleans())
def test_whatever_comes_out_says_the_same(tree: bytes, eight_bit: bool) -> None:
    content = TOP + tree + (b"" if tree.endswith(b"\r\n") else b"\r\n")
    result = recast(content, eight_bit=eight_bit)
    if result is not None:
        assert eight_bit or result.isascii()
        assert leaves(result) == leaves(content)
