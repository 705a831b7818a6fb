"""[http] and [log]: what is refused, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from relayd.config import load
from relayd.mail.errors import ConfigError
from relayd.observe.settings import LogLevel, LogStyle
from relayd.sections import Config
from relayd.web.settings import Place


def loaded(directory: Path, text: str) -> Config:
    path = directory / "config.toml"
    path.write_text(text)
    return load(path)


def mistakes(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(directory, text)
    return [mistake.removeprefix(f"{directory}/") for mistake in refused.value.mistakes]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("secret\n")
    path.chmod(0o400)
    return path


def test_there_is_no_server_unless_it_has_a_place(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")

    assert (config.http_place, config.http_token) == (None, "")


@pytest.mark.parametrize("listen", ["127.0.0.1:8025", "[::1]:8025", "unix:/run/relayd/http.sock"])
def test_what_only_this_machine_can_reach_takes_no_token(tmp_path: Path, listen: str) -> None:
    assert loaded(tmp_path, f'[http]\nlisten = "{listen}"').http_place == Place.parse(listen)


@pytest.mark.parametrize("listen", ["0.0.0.0:8025", "[::]:8025", "192.0.2.1:8025"])
def test_what_others_could_reach_takes_a_token(tmp_path: Path, token: Path, listen: str) -> None:
    assert mistakes(tmp_path, f'[http]\nlisten = "{listen}"') == [
        f"config.toml:2: http.listen: others can reach {listen}: that takes a token_file, or a loopback address"
    ]

    config = loaded(tmp_path, f'[http]\nlisten = "{listen}"\ntoken_file = "token"')

    assert config.http_token == "secret"


def test_a_name_is_no_place(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, '[http]\nlisten = "localhost:8025"')

    assert mistake.startswith('config.toml:2: http.listen: "127.0.0.1:8025", "[::1]:8025" or "unix:')


def test_a_token_that_everybody_can_read_is_refused(tmp_path: Path, token: Path) -> None:
    token.chmod(0o444)

    (mistake,) = mistakes(tmp_path, '[http]\ntoken_file = "token"')

    assert mistake == f"config.toml:2: http.token_file: {token} can be read by everybody: chmod o= it"


def test_a_token_that_is_not_there_is_told_of_alone(tmp_path: Path) -> None:
    (mistake,) = mistakes(tmp_path, '[http]\nlisten = "0.0.0.0:80"\ntoken_file = "token"')

    assert "http.token_file" in mistake
    assert "No such file" in mistake


def test_the_style_and_the_level_of_the_log_are_words(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[log]\nstyle = "json"\nlevel = "warning"')

    assert (config.log.style, config.log.level) == (LogStyle.JSON, LogLevel.WARNING)
    assert mistakes(tmp_path, '[log]\nstyle = "xml"') == [
        "config.toml:2: log.style: should be 'auto', 'console', 'logfmt' or 'json'"
    ]
