"""Who sent a dropped file and who gets it."""

from __future__ import annotations

import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.envelope import Envelope
from relayd.mail.recipient import Notify
from relayd.mail.tls import TlsWish
from relayd.submission.envelope import Domains, read_envelope
from relayd.submission.header import read_header
from relayd.submission.refusal import Refused
from tests.submission.support import NOW, refusal_of

ALIASES = {
    "root": ("ops@example.org", "Chief"),
    "chief": ("boss@example.org",),
    "loop": ("pool",),
    "pool": ("loop",),
    "local": ("somebody",),
    **{f"deep{n}": (f"deep{n + 1}",) for n in range(12)},
}


def envelope_of(octets: bytes) -> Envelope:
    header = read_header(octets, whole=True)
    assert header is not None
    return read_envelope(header, Domains(origin="origin.example", aliases=ALIASES), NOW)


def parties(octets: bytes) -> tuple[str, list[str]]:
    envelope = envelope_of(octets)
    return str(envelope.reverse_path or "<>"), [str(recipient.address) for recipient in envelope.recipients]


@pytest.mark.parametrize(
    ("octets", "sender", "recipients"),
    [
        # (a) the envelope lines
        (b"X-Sender: <a@b>\nX-Receiver: <c@d>\nX-Receiver: e@f\nFrom: x@y\nTo: z@z\n\n", "a@b", ["c@d", "e@f"]),
        (b'X-Sender: "Ann" <a@b>\nX-Receiver: =?utf-8?B?SsO8cmdlbg==?= <c@d>\n\n', "a@b", ["c@d"]),
        (b"X-Sender: <>\nX-Receiver: c@d\n\n", "<>", ["c@d"]),
        (b"X-Receiver: c@d\nFrom: x@y\nTo: z@z\n\n", "x@y", ["c@d"]),
        (b"X-Sender: a@b\nFrom: x@y\nTo: z@z\n\n", "a@b", ["z@z"]),
        (b"X-Sender: a@b\nX-Receiver: c@d\nTo: total; <<garbage\n\n", "a@b", ["c@d"]),
        (b"X-Sender:\n a@b\nX-Receiver: c@d\n\n", "a@b", ["c@d"]),
        # (b) the header
        (b"From: a@b\nTo: c@d\nCc: e@f\nBcc: g@h\n\n", "a@b", ["c@d", "e@f", "g@h"]),
        (b"From: a@b, x@y\nSender: s@b\nTo: c@d\n\n", "s@b", ["c@d"]),
        (b"From: a@b, x@y\nTo: c@d\n\n", "a@b", ["c@d"]),
        (b"Return-Path: <r@b>\nSender: s@b\nFrom: a@b\nTo: c@d\n\n", "r@b", ["c@d"]),
        (b"Return-Path: <>\nFrom: a@b\nTo: c@d\n\n", "<>", ["c@d"]),
        (b"From: a@b\nTo: undisclosed-recipients:;\nBcc: c@d\n\n", "a@b", ["c@d"]),
        (b"From: a@b\nTo: c@d,\r\n\te@f\r\nTo: g@h\n\n", "a@b", ["c@d", "e@f", "g@h"]),
        ("From: Jürgen <j@b>\nTo: ü@bücher.example\n\n".encode(), "j@b", ["ü@xn--bcher-kva.example"]),
        # sent again
        (b"Resent-From: r@b\nResent-To: n@d\nFrom: a@b\nTo: c@d\nBcc: x@d\n\n", "r@b", ["n@d"]),
        (b"Resent-Sender: s@b\nResent-From: r@b\nResent-Bcc: n@d\nSender: q@b\nFrom: a@b\nTo: c@d\n\n", "s@b", ["n@d"]),
        (
            b"Resent-From: new@b\nResent-To: n@d\nResent-From: old@b\nResent-To: o@d\nResent-Cc: p@d\nFrom: a@b\n\n",
            "new@b",
            ["n@d"],
        ),
        (b"Resent-From: new@b\nResent-To: n@d\nReceived: x\nResent-Cc: o@d\nFrom: a@b\n\n", "new@b", ["n@d"]),
        # unqualified, aliases
        (b"From: root\nTo: nobody\n\n", "root@origin.example", ["nobody@origin.example"]),
        (b"From: a@b\nTo: Root\n\n", "a@b", ["ops@example.org", "boss@example.org"]),
        (b"From: a@b\nTo: local\n\n", "a@b", ["somebody@origin.example"]),
        # equal addresses
        (b"From: a@b\nTo: c@D, c@d, c@d., C@d\n\n", "a@b", ["c@d", "C@d"]),
        (
            b"From: a@b\nTo: @relay,@other:u@d\n\n".replace(b"@relay", b"<@relay").replace(b"u@d", b"u@d>"),
            "a@b",
            ["u@d"],
        ),
    ],
)
def test_the_first_rule_that_matches_gives_the_envelope(octets: bytes, sender: str, recipients: list[str]) -> None:
    assert parties(octets) == (sender, recipients)


def test_esmtp_parameters_come_along() -> None:
    envelope = envelope_of(
        b"X-Sender: <b@example.org> RET=HDRS ENVID=42\n"
        b"X-Receiver: <a@example.org> NOTIFY=NEVER\n"
        b"X-Receiver: Cy <c@example.org> ORCPT=rfc822;c@example.org NOTIFY=SUCCESS,DELAY\n\n"
    )

    assert (envelope.ret, envelope.envid) == ("HDRS", "42")
    assert [recipient.notify for recipient in envelope.recipients] == [Notify.NEVER, Notify.SUCCESS | Notify.DELAY]
    assert envelope.recipients[1].orcpt == "rfc822;c@example.org"


@pytest.mark.parametrize(
    ("octets", "wish"),
    [
        (b"From: a@b\nTo: c@d\n\n", TlsWish.POLICY),
        (b"X-Sender: <a@b> requiretls\nX-Receiver: c@d\n\n", TlsWish.REQUIRED),
        (b"X-Sender: <> RET=HDRS REQUIRETLS\nX-Receiver: c@d\n\n", TlsWish.REQUIRED),
        (b"From: a@b\nTLS-Required: No\nTo: c@d\n\n", TlsWish.OPTIONAL),
        (b"From: a@b\nTo: c@d\ntls-required:\tNO \n\n", TlsWish.OPTIONAL),
        (b"From: a@b\nTo: c@d\nTLS-Required: Yes\n\n", TlsWish.POLICY),
        (b"From: a@b\nTo: c@d\nTLS-Required: No\nTLS-Required: Maybe\n\n", TlsWish.POLICY),
        (b"X-Sender: <a@b> REQUIRETLS\nX-Receiver: c@d\nTLS-Required: No\n\n", TlsWish.REQUIRED),
    ],
)
def test_a_message_may_wish_for_more_tls_or_for_less(octets: bytes, wish: TlsWish) -> None:
    """RFC 8689 sections 2 and 3."""
    assert envelope_of(octets).tls is wish


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (b"Subject: x\nTo: c@d\n\n", "there is no sender"),
        (b"From: a@b\n\n", "there is no recipient"),
        (b"From: a@b\nTo: nobody:;\n\n", "there is no recipient"),
        (b"From: nobody:;\nTo: c@d\n\n", "From has no address"),
        (b"From: a@b\nTo: c@d, e@-f\n\n", "To has an address that cannot be used, 'e@-f'"),
        (b"From: <>\nTo: c@d\n\n", "From has an address that cannot be used"),
        (b"From: a@b\nTo: <>\n\n", "To has an address that cannot be used"),
        (b"X-Sender: a@b\nX-Sender: a@c\nTo: c@d\n\n", "2 X-Sender lines"),
        (b"X-Sender: a@b\nX-Receiver: c@d, e@f\n\n", "X-Receiver must have one address"),
        (b"X-Sender: a@b\nX-Receiver: <c@d>NOTIFY=NEVER\n\n", "X-Receiver must have one address"),
        (b"X-Sender: a@b\nX-Receiver: c@d SIZE=1\n\n", "X-Receiver cannot be read"),
        (b"X-Sender: a@b\nX-Receiver: <c@d> FOO=1\n\n", "X-Receiver has a parameter"),
        (b"X-Sender: a@b\nX-Receiver:\n\n", "X-Receiver must have one address"),
        (b"From: a@b\nTo: loop\n\n", "alias 'loop' leads back"),
        (b"From: a@b\nTo: deep0\n\n", "leads back to itself or too deep"),
        (b"From: a@b\nTo: =?utf-8?q?c=40d?=\n\n", "an encoded word in an address"),
        (b"From: a@b\nTo: c@10.0.0.1\n\n", "an IP address needs brackets"),
        (b"Resent-From: a@b\nReceived: x\nResent-To: o@d\nFrom: x@y\nTo: c@d\n\n", "there is no recipient"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_a_reason(octets: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why.replace("(", r"\(")) as caught:
        envelope_of(octets)

    assert str(caught.value).endswith(".")
    assert "; " in str(caught.value)
    assert str(caught.value).isprintable()


def has_control(text: str) -> bool:
    """Whether a control character, a line or paragraph separator or a surrogate is in it."""
    return any(unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs") for character in text)


def injections() -> list[bytes]:
    """Return addresses that try to become more than one address or one command."""
    bad = [bytes([octet]) for octet in (*range(0x20), 0x7F)]
    bad += [chr(number).encode() for number in (*range(0x80, 0xA0), 0x2028, 0x2029)]
    bad += [b"\xff", b"\x80", b"\r\n", b"\n.\n", b"\r\nRCPT TO:<z@w>", b">\r\nRCPT TO:<z@w", b"> SIZE=1", b"\r\n.\r\n"]
    bad += [b" ", b",", b";", b"<", b">", b"(", b")", b"\\", b'"', b"[", b"]", b":"]
    places = [b"x%sy@example.org", b"x@ex%sample.org", b"x@example.org%sy"]
    vectors = [place % what for what in bad for place in places]
    vectors += [b"x" * 65 + b"@example.org", b"x@" + b"y" * 64 + b".org", b"x@" + b"y." * 130 + b"org"]
    vectors += [
        b"a@b, c@d",
        b"a@b@c",
        b"a..b@c",
        b".a@b",
        b"a.@b",
        b"@b",
        b"a@",
        b"a(c)@b",
        b"a>b@c",
        b"a@b;c",
        b"a@b\n",
    ]
    vectors += [b"@relay:u@d", b"a@b SIZE=1", b"a@[1.2.3]", b"a@[IPv6:zz]", b"a@1.2.3.4", b"a@b..c", b"a@.b", b"a@-b.c"]
    return vectors


def test_there_are_at_least_250injections() -> None:
    assert len(injections()) >= 250


@pytest.mark.parametrize("template", [b"X-Sender: s@t\nX-Receiver: <%s>\n\n", b"From: s@t\nTo: %s\n\n"])
def test_no_injection_gives_an_address_with_a_control_character_or_another_recipient(template: bytes) -> None:
    for vector in injections():
        refusal = refusal_of(partial(envelope_of, template % vector))
        assert refusal.isprintable(), vector
        if refusal:
            continue
        envelope = envelope_of(template % vector)
        for recipient in envelope.recipients:
            text = str(recipient.address)
            assert not has_control(text), vector
            assert not set(text) & set("<>()\\,; "), vector
            assert str(recipient.address.domain) not in ("w", "evil"), vector


@given(st.binary(max_size=60))
def test_no_octets_crash_it_or_bring_a_control_character_through(octets: bytes) -> None:
    for template in (b"X-Sender: s@t\nX-Receiver: %s\n\n", b"From: %s\nTo: <c@d>\n\n", b"From: a@b\nTo: %s\n\n"):
        try:
            envelope = envelope_of(template % octets)
        except Refused:
            continue
        for recipient in envelope.recipients:
            assert not has_control(str(recipient.address))
        assert not has_control(str(envelope.reverse_path))
