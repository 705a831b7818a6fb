"""What a status means is said for people, and nothing is said where nothing is meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.meaning import meaning


@pytest.mark.parametrize("status", ["4.2.2", "5.2.2"])
def test_it_is_the_same_for_now_and_for_good(status: str) -> None:
    assert meaning(status) == "The mailbox is full."


@given(st.text())
def test_what_is_no_status_means_nothing_or_a_sentence(text: str) -> None:
    assert meaning(text) == "" or meaning(text).endswith(".")


def test_an_unknown_status_means_nothing() -> None:
    assert meaning("") == meaning("5.0.0") == meaning("5.99.99") == ""
