"""Replies: judged by the first digit, with an enhanced status only where it agrees."""

from __future__ import annotations

import pytest

from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.reply import EnhancedStatus, Reply


@pytest.mark.parametrize(
    ("code", "text", "reply"),
    [
        (250, "2.0.0 queued", Reply(250, "queued", EnhancedStatus(2, 0, 0))),
        (250, "", Reply(250)),
        (250, "2.0.0", Reply(250, "", EnhancedStatus(2, 0, 0))),
        (550, "4.1.1 odd", Reply(550, "4.1.1 odd")),
        (550, "5.1.1x", Reply(550, "5.1.1x")),
        (550, "5.1.1 no\n5.1.1 such user", Reply(550, "no\nsuch user", EnhancedStatus(5, 1, 1))),
        (421, "4.7.999 later", Reply(421, "later", EnhancedStatus(4, 7, 999))),
    ],
)
def test_an_enhanced_status_is_split_off_where_it_agrees_with_the_code(code: int, text: str, reply: Reply) -> None:
    assert Reply.parse(code, text) == reply


def test_a_reply_is_shown_on_one_line() -> None:
    assert str(Reply.parse(550, "5.1.1 no\n5.1.1 such user")) == "550 5.1.1 no such user"


def test_the_status_of_an_outcome_has_the_class_of_the_outcome() -> None:
    odd = Reply(552, "full", EnhancedStatus(5, 2, 2))

    assert str(Deferred(odd).dsn) == "4.2.2"
    assert str(Failed(Reply(550, "no")).dsn) == "5.0.0"
    assert str(Failed(odd, status=EnhancedStatus(5, 4, 7)).dsn) == "5.4.7"
    assert str(Delivered(Reply(250)).dsn) == "2.0.0"
