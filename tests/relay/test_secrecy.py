"""What a server says is passed on without our password."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.reply import Reply
from relayd.mail.route import Credentials
from relayd.relay.secrecy import MASK, Secrecy

SECRET = Secrecy(Credentials(username="relay", password="S3cret.*"))
PLAIN, LOGIN = b64encode(b"\0relay\0S3cret.*").decode(), b64encode(b"S3cret.*").decode()


@given(st.text(), st.sampled_from(["S3cret.*", "s3CRET.*", PLAIN, PLAIN.rstrip("="), LOGIN, LOGIN.lower()]), st.text())
def test_the_password_is_masked_wherever_it_stands(before: str, form: str, after: str) -> None:
    reply = Reply(535, f"{before}{form}{after}")

    for outcome in (Deferred(reply, reason=str(reply)), Failed(reply, reason=str(reply)), Delivered(reply)):
        shown = str(SECRET.of_outcome(outcome))
        assert MASK in shown
        assert form not in shown


def test_all_else_stays_as_it_was() -> None:
    reply = Reply(550, "no such user: secret")

    assert SECRET.of_reply(reply) == reply
    assert SECRET.of_outcome(Failed(reply, reason="550")) == Failed(reply, reason="550")
    assert Secrecy(None).of_reply(Reply(535, "S3cret.*")) == Reply(535, "S3cret.*")


TOKEN = "ya29.a0AfH6SMBx-token_of/the+server=="


@given(st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["relay", "someuser@example.com"]))
def test_a_token_is_masked_inside_whatever_base64_it_is_sent_in(before: bytes, after: bytes, user: str) -> None:
    secrecy = Secrecy(Credentials(username=user, oauth=True), TOKEN)
    sent = [
        TOKEN.encode(),
        b64encode(before + TOKEN.encode() + after),
        b64encode(f"user={user}\1auth=Bearer {TOKEN}\1\1".encode()),
        b64encode(f"n,a={user},\1auth=Bearer {TOKEN}\1\1".encode()),
    ]

    for form in sent:
        shown = str(secrecy.of_reply(Reply(535, f"bad: {form.decode()}")))
        assert MASK in shown
        assert all(TOKEN[start : start + 12] not in decoded(shown) for start in range(len(TOKEN) - 12))


def decoded(text: str) -> str:
    """What can still be read in a text, and in base64 in it at any place."""
    found = [text]
    for word in re.findall(r"[A-Za-z0-9+/]+", text.replace(MASK, " ")):
        for start in range(4):
            whole = word[start : start + (len(word) - start) // 4 * 4]
            found.append(b64decode(whole).decode("latin-1"))
    return " ".join(found)


def test_what_was_learnt_before_stays_masked() -> None:
    secrecy = Secrecy(Credentials(username="relay", oauth=True))
    for token in ("first-token-of-it", "second-token-of-it"):
        secrecy.learn(token)

    assert secrecy.of_reply(Reply(535, "first-token-of-it second-token-of-it")).text == f"{MASK} {MASK}"
