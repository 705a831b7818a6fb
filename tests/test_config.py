"""The configuration: every mistake with its key and line; the example file is the manual and the defaults."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config import load
from relayd.mail.errors import ConfigError
from relayd.mail.route import AddressFamily, Credentials, Host
from relayd.mail.size import parse_size
from relayd.mail.tls import TlsPolicy
from relayd.sections import SECTIONS, Config, ReportSection

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"


def loaded(directory: Path, text: str) -> Config:
    path = directory / "config.toml"
    path.write_text(text)
    return load(path)


def mistakes(directory: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(directory, text)
    return [mistake.removeprefix(f"{directory}/") for mistake in refused.value.mistakes]


def test_the_example_runs_as_it_is_and_says_what_the_defaults_are() -> None:
    example = load(EXAMPLE)

    defaults = Config(path=EXAMPLE, spool=EXAMPLE.parent / "spool")
    assert example == defaults


def test_the_example_names_every_setting() -> None:
    text = EXAMPLE.read_text()

    for section, cls in {**SECTIONS, "tls.report": ReportSection}.items():
        table = text.split(f"[{section}]")[1].split("\n[")[0]
        for field in dataclasses.fields(cls):
            assert f"\n{field.name} = " in table, f"{section}.{field.name}"


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")

    assert config.spool == tmp_path / "spool"
    assert config.relay.check_interval == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[relay]\nmax_conections = 5", "config.toml:2: relay.max_conections: no such setting; max_connections?"),
        ("[relays]", "config.toml:1: relays: no such section; relay?"),
        ("[relay]\n\nport = 70000", "config.toml:3: relay.port: a port is a number from 1 to 65535, not 70000"),
        ("[relay]\nmax_connections = 0", "config.toml:2: relay.max_connections: must be 1 or more, not 0"),
        ('[relay]\nmax_connections = "5"', "config.toml:2: relay.max_connections: should be a valid integer"),
        ("[relay]\nallow_private = 1", "config.toml:2: relay.allow_private: should be a valid boolean"),
        (
            "[relay]\ncheck_interval = 5",
            'config.toml:2: relay.check_interval: must be a duration as "30s", "5m", "4h" or "5d", not 5',
        ),
        ('[relay]\nspool = "/"', "config.toml:2: relay.spool: the root directory cannot be a spool"),
        ('[relay]\nhostname = "a b"', "config.toml:2: relay.hostname: not a domain name: 'a b'"),
        ('[relay]\nhostname = "a\\nb.example"', "config.toml:2: relay.hostname: not a domain name: 'a\\nb.example'"),
        ('[relay]\nhostname = "box"', "config.toml:2: relay.hostname: needs a full domain name, not 'box'"),
        ('[relay]\nsource_address = "eth0"', "config.toml:2: relay.source_address: not an IP address: 'eth0'"),
        ('[retry]\nfirst = "0s"', "config.toml:1: retry: first, lifetime and greylist must be longer than 0s"),
        ('[dns]\nnameservers = ["ns"]', "config.toml:1: dns: a name server is an IP address"),
        (
            '[tls]\npolicy = "maybe"',
            "config.toml:2: tls.policy: should be 'none', 'opportunistic', 'require' or 'verify'",
        ),
        ('[aliases]\nroot = "a b@c"', "config.toml:2: aliases.root: not a local part"),
        ("[aliases]\nroot = 5", "config.toml:2: aliases.root: must be an address or a list of addresses"),
        ('[[route]]\nname = "a"\nmatch = ["*"]', "config.toml:1: route 1: hosts is missing"),
        (
            '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\n[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]',
            "config.toml:6: route 2.name: another route is named 'a' already",
        ),
        (
            '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\nusername = "u"',
            "config.toml:1: route 1: username and password_file go together",
        ),
        ('[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h:99999"]', "config.toml:1: route 1: a port is a number"),
        ("[route]", "config.toml:1: route: is written [[route]], with double brackets"),
        ("relay = 5", "relay: must be a table"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_line(tmp_path: Path, text: str, sentence: str) -> None:
    found = mistakes(tmp_path, text)

    assert any(sentence in mistake for mistake in found), found


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path,
        '[relay]\nport = "x"\nspol = "."\ncheck_interval = "soon"\n'
        '[retry]\nmaximum = "1h"\n[tls]\npolicy = "no"\n[x]\n',
    )

    assert [mistake.split(": ")[1] for mistake in found] == [
        "x",
        "relay.spol",
        "relay.check_interval",
        "relay.port",
        "retry.maximum",
        "tls.policy",
    ]


def test_a_syntax_error_is_told_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in mistakes(tmp_path, "[relay]\nport = \n")[0]


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load(tmp_path / "absent.toml")


def test_a_route_is_read_with_its_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)

    route = loaded(
        tmp_path,
        """
        [[route]]
        name = "provider"
        match = ["Example.NET", "*.example.net"]
        hosts = ["smtp.example.com:587", "smtps://backup.example.com"]
        username = "relay"
        password_file = "password"
        tls = "verify"
        source_address = ["192.0.2.1"]
        address_family = "ipv4"
        """,
    ).routes[0]

    assert route.match == ("example.net", "*.example.net")
    assert route.hosts == (
        Host(name="smtp.example.com", port=587),
        Host(name="backup.example.com", port=465, implicit_tls=True),
    )
    assert route.credentials == Credentials(username="relay", password="secret")
    assert (route.tls, route.source_addresses, route.address_family) == (
        TlsPolicy.VERIFY,
        ("192.0.2.1",),
        AddressFamily.IPV4,
    )
    assert "secret" not in repr(route)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o666])
def test_a_password_that_everybody_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(mode)
    route = '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\nusername = "u"\npassword_file = "password"\n'

    assert "chmod o=" in mistakes(tmp_path, route)[0]


def test_aliases_are_lists_or_single_addresses(tmp_path: Path) -> None:
    config = loaded(tmp_path, '[aliases]\nroot = ["ops@example.org", "admin"]\nadmin = "ann@example.org"\n')

    assert config.aliases == {"root": ("ops@example.org", "admin"), "admin": ("ann@example.org",)}


@pytest.mark.parametrize(("text", "octets"), [("512KiB", 524288), ("50MiB", 52428800), ("1MB", 1000000), (7, 7)])
def test_sizes_are_read(text: str | int, octets: int) -> None:
    assert parse_size(text) == octets


@given(st.text(alphabet='[]="\n #.0123456789abcrelayroutdnsmx{},', max_size=200))
def test_whatever_the_file_says_the_answer_is_settings_or_mistakes(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        try:
            outcome: Config | tuple[str, ...] = loaded(Path(directory), text)
        except ConfigError as error:
            outcome = error.mistakes
        assert outcome


def test_a_date_where_a_setting_is_wanted_is_a_mistake_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[relay]\nhostname = 1979-05-27\n[[site]]\nmatch = ["example.org", 07:32:00]\n')

    with pytest.raises(ConfigError) as refused:
        load(path)

    assert [mistake.partition(": ")[2] for mistake in refused.value.mistakes] == [
        "relay.hostname: must not be a date or a time, as 1979-05-27 is",
        "site 1.match: must not be a date or a time, as 07:32:00 is",
    ]


ROUTE = '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\nusername = "u"\npassword_file = "password"\n'


@pytest.mark.parametrize(
    ("mode", "public", "refused"), [(0o640, 0o3770, True), (0o600, 0o3770, False), (0o640, 0o700, False)]
)
def test_a_password_that_whoever_drops_mail_can_read_is_refused(
    tmp_path: Path, mode: int, public: int, refused: bool
) -> None:
    (tmp_path / "spool" / "new").mkdir(parents=True)
    (tmp_path / "spool" / "new").chmod(public)
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(mode)

    if refused:
        assert "all who may drop mail" in mistakes(tmp_path, ROUTE)[0]
    else:
        assert loaded(tmp_path, ROUTE).routes[0].credentials == Credentials(username="u", password="secret")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_password_file_that_is_none_is_refused_and_not_waited_for(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "password")

    assert "password_file" in mistakes(tmp_path, ROUTE)[0]
