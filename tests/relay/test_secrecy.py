"""What a server says is passed on without our password."""

from __future__ import annotations

from base64 import b64encode

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
