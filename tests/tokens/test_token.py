"""When a token is due, and what a token server means."""

from __future__ import annotations

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.https import Response
from relayd.tokens.exchange import Granted, Refused, Unavailable, form, secrets_in, understood
from relayd.tokens.settings import ClientAuth, TokenRule
from relayd.tokens.token import Token

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
RULE = TokenRule(route="r", url="https://login.test/token", client_id="us", client_secret="S3 cret&", scope="a b")


def a_token(seconds: float) -> Token:
    return Token(text="t", obtained=NOW, expires=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("life", "due"), [(3600, 2880), (86400, 69120), (300, 240), (200, 140), (120, 60), (100, 50), (4, 2)]
)
def test_a_token_is_due_a_fifth_of_its_life_or_a_minute_before_its_end(life: int, due: int) -> None:
    token = a_token(life)

    assert not token.due(NOW + timedelta(seconds=due - 1))
    assert token.due(NOW + timedelta(seconds=due))
    assert not token.expired(NOW + timedelta(seconds=life - 1))
    assert token.expired(NOW + timedelta(seconds=life))


@given(st.floats(1, 10**7), st.floats(0, 10**7))
def test_an_expired_token_is_due_and_a_new_one_is_not(life: float, later: float) -> None:
    token = a_token(life)

    assert not token.due(NOW)
    assert token.due(NOW + timedelta(seconds=later)) or not token.expired(NOW + timedelta(seconds=later))


def test_a_client_asks_as_itself() -> None:
    """RFC 6749 section 4.4.2."""
    body, headers = form(RULE, "")

    assert parse_qs(body.decode()) == {
        "grant_type": ["client_credentials"],
        "scope": ["a b"],
        "client_id": ["us"],
        "client_secret": ["S3 cret&"],
    }
    assert "Authorization" not in headers


def test_a_client_asks_by_a_refresh_token_and_proves_itself_by_http_basic() -> None:
    """RFC 6749 sections 6 and 2.3.1: id and secret are encoded as in a form before."""
    rule = TokenRule(
        route="r", url="u", client_id="u:s", client_secret="S3 cret&", client_auth=ClientAuth.BASIC, scope=""
    )
    body, headers = form(rule, "1//refresh")

    assert parse_qs(body.decode()) == {"grant_type": ["refresh_token"], "refresh_token": ["1//refresh"]}
    assert headers["Authorization"] == "Basic " + b64encode(b"u%3As:S3+cret%26").decode()
    for secret in ("S3 cret&", "S3+cret%26", "1//refresh", "1%2F%2Frefresh", headers["Authorization"][6:]):
        assert secret in secrets_in(rule, "1//refresh")


def said(status: int, members: Any) -> Granted | Refused | Unavailable:
    body = members if isinstance(members, bytes) else json.dumps(members).encode()
    return understood(Response(status=status, content_type="application/json", body=body), NOW)


GRANT = {"access_token": "abc", "token_type": "Bearer", "expires_in": 3599}


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 3599),
        ({"expires_in": "3599"}, 3599),
        ({"token_type": "bearer"}, 3599),
        ({"expires_in": None}, 3600),
        ({"expires_in": [1]}, 3600),
        ({"expires_in": "soon"}, 3600),
        ({"expires_in": -5}, 1),
        ({"expires_in": 1e12}, 30 * 86400),
        ({"expires_in": 1e300}, 3600),
    ],
)
def test_a_grant_is_understood(changes: dict[str, Any], seconds: int) -> None:
    granted = said(200, {**GRANT, **changes})

    assert isinstance(granted, Granted)
    assert granted.token.text == "abc"
    assert granted.token.expires - NOW == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": "a\r\nMAIL FROM:<x>"},
        {"access_token": "a\x01auth=Bearer b"},
        {"access_token": "a b"},
        {"access_token": ""},
        {"access_token": 5},
        {"access_token": "x" * 8193},
        {"token_type": "mac"},
        {"token_type": 5},
    ],
)
def test_what_is_no_token_is_not_used(changes: dict[str, Any]) -> None:
    assert isinstance(said(200, {**GRANT, **changes}), Unavailable)


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "consent_required", "invalid_scope"])
@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refusal_is_for_the_operator(status: int, error: str) -> None:
    """RFC 6749 section 5.2."""
    assert said(status, {"error": error, "error_description": "a\r\nb\x1b"}) == Refused(error=error, detail="a b")


@pytest.mark.parametrize(
    ("status", "members"),
    [
        (500, {"error": "invalid_grant"}),
        (503, b"<html>"),
        (429, {"error": "invalid_request"}),
        (400, {"error": "temporarily_unavailable"}),
        (400, b"no JSON"),
        (400, [1]),
        (302, b""),
        (200, b"[" * 100_000),
        (204, b""),
    ],
)
def test_all_else_may_pass(status: int, members: Any) -> None:
    assert isinstance(said(status, members), Unavailable)


@given(
    st.integers(100, 599),
    st.recursive(
        st.none() | st.floats() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(
                ["error", "error_description", "access_token", "token_type", "expires_in", "refresh_token", "x"]
            ),
            inner,
        ),
    ),
)
def test_no_answer_is_an_exception(status: int, members: Any) -> None:
    answer = said(status, members)

    words = answer.why if isinstance(answer, Unavailable) else answer.detail if isinstance(answer, Refused) else ""
    assert words.isprintable() or not words


def test_nothing_that_is_secret_is_shown() -> None:
    granted = said(200, {**GRANT, "access_token": "t0ken", "refresh_token": "r3fresh"})

    assert "t0ken" not in repr(granted)
    assert "r3fresh" not in repr(granted)
    assert "S3 cret" not in repr(RULE)
