"""config.toml of any octets, and of the manual's lines with other values: a configuration, or words for each mistake.

A configuration that is accepted can be used: every stage's settings can be made of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from relayd.config import load
from relayd.identity import Identity
from relayd.mail.errors import ConfigError
from relayd.mail.tls import TlsPolicy
from relayd.settings import (
    manager_settings,
    relay_settings,
    route_settings,
    schedule_settings,
    submission_settings,
)
from tests.fuzz.choices import Choices

ROOT = Path(__file__).parents[2]
_SETTING = re.compile(r"^(?:# )?(\[+[a-z]+\]+|[a-z_]+ = (?:\"[^\"]*\"|\[[^\]]*\]|\S+))", re.MULTILINE)
_MANUAL = (ROOT / "config.example.toml").read_text(encoding="utf-8")
LINES: tuple[str, ...] = tuple(dict.fromkeys(_SETTING.findall(_MANUAL)))
VALUES = (
    *(
        b"0",
        b"-1",
        b"1",
        b"1.5",
        b"nan",
        b"inf",
        b"true",
        b'""',
        b'"s"',
        b"[]",
        b'["a"]',
        b"{}",
        b"1979-05-27",
        b"1e400",
    ),
    *(b'"5m"', b'"99999999999d"', b'"0s"', b'"-1s"', b'"1e3s"', b'"1KiB"', b'"0"', b'"' + b"9" * 400 + b'GiB"', b"1_0"),
    *(
        b'"*"',
        b'"*.example.org"',
        b'"example.org"',
        b'"[::1]:25"',
        b'"smtps://h:465"',
        b'"h:99999"',
        b'"10/1s"',
        b'"/"',
    ),
    *(
        b'"127.0.0.1"',
        b'"\\u0000"',
        '"ü.example"'.encode(),
        b'"password"',
        b'"missing"',
        b'"open"',
        b'"verify"',
        b"[[]]",
    ),
    *(
        b'"any"',
        b"[1, 2]",
        b"99999999999999999999999",
        b"0x7fffffffffffffff",
        b'["127.0.0.1:53", "x"]',
        b'"."',
        b'"a@b"',
    ),
    b'"00:00"',
)
WORDS = (*VALUES, *(line.encode() for line in LINES), b"\n", b" = ", b".", b"#", b'"""', b"[relay]\n", b"[[route]]\n")
_DIRECTORY = tempfile.TemporaryDirectory(prefix="relayd-fuzz-")
_PATH = Path(_DIRECTORY.name, "config.toml")
_PATH.with_name("password").write_text("s3cret\n")
_PATH.with_name("password").chmod(0o600)
_PATH.with_name("open").write_text("s3cret\n")
_PATH.with_name("open").chmod(0o644)
WHO = Identity(hostname="relay.example.org", warning="")


def one(octets: bytes) -> None:
    """See the module."""
    choices = Choices(octets)
    written = b""
    for _ in range(choices.number(24)):
        written += a_line(choices) + b"\n"
    check(written)


def a_line(choices: Choices) -> bytes:
    """Return a line: of the manual, of the manual with another value, or of anything."""
    line = choices.pick(LINES).encode()
    match choices.number(4):
        case 0:
            return line
        case 1 | 2:
            key, equals, _ = line.partition(b" = ")
            return key + equals + choices.pick(VALUES) if equals else line
        case _:
            return choices.mixed(WORDS, 4)


def check(written: bytes) -> None:
    """Claim it of one file."""
    _PATH.write_bytes(written)
    try:
        config = load(_PATH)
    except ConfigError as error:
        claim_words(error.mistakes)
        return
    assert "s3cret" not in repr(config)
    assert config.spool.is_absolute()
    for rule in config.routes:
        assert rule.hosts
        assert rule.tls is None or isinstance(rule.tls, TlsPolicy)
    relay_settings(config, WHO)
    route_settings(config, WHO)
    submission_settings(config, WHO)
    schedule_settings(config)
    manager_settings(config)


def claim_words(mistakes: Sequence[str]) -> None:
    """Claim that there is a mistake, and of each that it names the file and no secret."""
    assert mistakes
    for mistake in mistakes:
        assert mistake.startswith(str(_PATH)), mistake
        assert "s3cret" not in mistake
