"""The configuration of OAuth, and of secrets in systemd's credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config import load
from relayd.mail.errors import ConfigError
from relayd.mail.route import Credentials
from relayd.tokens.settings import ClientAuth, TokenRule
from tests.test_config import ROUTE, loaded, mistakes

TOKENS = """[[route]]
name = "a"
match = ["*"]
hosts = ["h"]
username = "u@example.org"
oauth_token_url = "https://login.example.org/token"
oauth_client_id = "us"
oauth_client_secret_file = "client"
oauth_refresh_token_file = "refresh"
"""
BARE = '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\n'


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name in ("client", "refresh", "password"):
        (tmp_path / name).write_text(f"{name}-secret\n")
        (tmp_path / name).chmod(0o600)


def test_it_is_read_with_its_secrets_which_are_never_shown(tmp_path: Path) -> None:
    config = loaded(tmp_path, TOKENS + 'oauth_scope = "a b"\noauth_client_auth = "basic"\nauth = ["xoauth2"]\n')

    expected = Credentials(username="u@example.org", oauth=True, mechanisms=("XOAUTH2",))
    assert config.routes[0].credentials == expected
    [rule] = config.token_rules
    assert rule == TokenRule(
        route="a",
        url="https://login.example.org/token",
        client_id="us",
        client_secret="client-secret",
        client_secret_file="client",
        client_auth=ClientAuth.BASIC,
        refresh_token="refresh-secret",
        refresh_token_file=tmp_path / "refresh",
        scope="a b",
    )
    assert "-secret" not in repr(config)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("oauth_client_id", 'password_file = "password"\noauth_client_id', ":7: route 1.password_file: a route has"),
        ('username = "u@example.org"\n', "", ":1: route 1: username is missing, which OAuth needs"),
        ("https://login", "http://login", ":6: route 1.oauth_token_url: not an https URL"),
        ("https://login", "https://me:pw@login", ":6: route 1.oauth_token_url: not an https URL"),
        ("https://login.example.org/token", "https://[", ":6: route 1.oauth_token_url: not an https URL"),
        ('oauth_client_id = "us"\n', "", ":1: route 1: oauth_client_id is missing"),
        ('"client"', '"absent"', ":8: route 1.oauth_client_secret_file: "),
        ('"refresh"', '"$CREDENTIALS_DIRECTORY/x"', ":9: route 1.oauth_refresh_token_file: there is no $CRED"),
        ("oauth_client_id", 'auth = ["PLAIN"]\noauth_client_id', ":7: route 1.auth: 'PLAIN' is none of those"),
        ("u@example.org", "u\\u0001auth=Bearer x", ":5: route 1.username: must not have control characters"),
    ],
)
def test_a_mistake_is_told(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    found = mistakes(tmp_path, TOKENS.replace(old, new, 1))

    assert any(sentence in mistake for mistake in found), found
    assert not any("-secret" in mistake or "pw@" in mistake for mistake in found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(tmp_path, BARE + 'oauth_client_auth = "basic"\nauth = ["x"]\n')

    for words in ("username is", "oauth_token_url is", "oauth_client_id is", "OAuth needs an", '"basic"', "'X' is"):
        assert any(words in mistake for mistake in found), words


def test_mechanisms_without_credentials_are_a_mistake(tmp_path: Path) -> None:
    assert "of no use without" in mistakes(tmp_path, BARE + 'auth = ["PLAIN"]\n')[0]


@pytest.mark.parametrize("key", ["client", "refresh"])
@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
def test_a_secret_that_everybody_can_read_is_refused(tmp_path: Path, key: str, mode: int) -> None:
    (tmp_path / key).chmod(mode)

    assert "can be read by everybody" in mistakes(tmp_path, TOKENS)[0]


@pytest.mark.parametrize("content", [b"", b"\n", b"s3cret\ns3cret\n", b"s3cret\xff\n", b"s3cret" * 1000])
def test_a_file_without_one_line_is_refused_and_not_quoted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "client").write_bytes(content)

    [mistake] = mistakes(tmp_path, TOKENS)
    assert "oauth_client_secret_file" in mistake
    assert "s3cret" not in mistake


def test_secrets_may_be_the_units_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = TOKENS.replace('"client"', '"$CREDENTIALS_DIRECTORY/client"')

    assert loaded(tmp_path, text).token_rules[0].client_secret == "client-secret"


def test_commands_that_send_nothing_do_without_the_units_credentials(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ROUTE.replace('"password"', '"$CREDENTIALS_DIRECTORY/relay"'))

    assert load(path, unit=False).routes[0].credentials == Credentials(username="u")
    with pytest.raises(ConfigError, match="there is no"):
        load(path)
