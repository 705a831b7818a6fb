"""[tls.report]: what is read, who reports by default, and every mistake with its key and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from relayd.config import load
from relayd.identity import Identity
from relayd.mail.address import Address
from relayd.report.settings import ReportSettings
from relayd.report.signing import signer
from relayd.sections import Config
from relayd.settings import report_settings
from tests.report.keys import pem
from tests.test_config_tls import loaded, mistake

US = Identity("relay.example.org")
NOBODY = Identity("[192.0.2.1]", "this machine's name is not a full domain name")
SIGNED = '[tls.report]\ndkim_key_file = "key.pem"\ndkim_selector = "tls"\n'


def settings(directory: Path, text: str, us: Identity = US) -> ReportSettings | None:
    return report_settings(loaded(directory, text), us)


def a_key(directory: Path, content: bytes, mode: int = 0o400) -> None:
    (directory / "key.pem").write_bytes(content)
    (directory / "key.pem").chmod(mode)


def test_without_a_word_the_postmaster_of_this_machine_reports(tmp_path: Path) -> None:
    postmaster = Address.parse("postmaster@relay.example.org")

    assert settings(tmp_path, "") == ReportSettings(
        hostname="relay.example.org", organization="relay.example.org", contact=postmaster, sender=postmaster
    )


def test_it_can_be_switched_off(tmp_path: Path) -> None:
    assert settings(tmp_path, "[tls.report]\nenabled = false\n") is None


@pytest.mark.parametrize("us", [NOBODY, Identity("[192.0.2.1]")], ids=["no name", "an address by choice"])
def test_a_machine_without_a_name_reports_only_in_the_name_of_somebody(tmp_path: Path, us: Identity) -> None:
    assert settings(tmp_path, "", us) is None

    named = settings(tmp_path, '[tls.report]\nsender = "tls@example.org"\n', us)
    assert named is not None
    assert (named.hostname, named.organization) == ("example.org", "example.org")


def test_who_reports_can_be_said(tmp_path: Path) -> None:
    said = settings(
        tmp_path,
        '[tls.report]\norganization = "Example, Inc."\ncontact = "ops@example.org"\nsender = "tls@example.org"\n',
    )

    assert said is not None
    assert (said.organization, str(said.contact), str(said.sender)) == (
        "Example, Inc.",
        "ops@example.org",
        "tls@example.org",
    )
    assert said.hostname == "relay.example.org"


def test_the_contact_sends_if_nobody_else_is_named(tmp_path: Path) -> None:
    said = settings(tmp_path, '[tls.report]\ncontact = "ops@example.org"\n')

    assert said is not None
    assert str(said.sender) == "ops@example.org"


@pytest.mark.parametrize("form", [serialization.PrivateFormat.TraditionalOpenSSL, serialization.PrivateFormat.PKCS8])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_key_is_read_whatever_its_form(tmp_path: Path, form: serialization.PrivateFormat, line_end: bytes) -> None:
    a_key(tmp_path, pem(form=form).replace(b"\n", line_end))
    said = settings(tmp_path, SIGNED)

    assert said is not None
    assert said.dkim is not None
    assert said.dkim.selector == "tls"
    assert signer(said.dkim, "example.org")(b"From: a@example.org\r\n\r\nx\r\n").startswith(b"DKIM-Signature: v=1;")
    assert "PRIVATE" not in repr(loaded(tmp_path, SIGNED))


def not_rsa() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encrypted() -> bytes:
    return rsa.generate_private_key(65537, 1024).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )


@pytest.mark.parametrize(
    ("content", "mode", "sentence"),
    [
        (b"nothing", 0o400, "no key, in PEM and not encrypted, in {path}"),
        (encrypted(), 0o400, "no key, in PEM and not encrypted, in {path}"),
        (not_rsa(), 0o400, "the key in {path} is not an RSA key of at least 1024 bits"),
        (pem(), 0o444, "{path} can be read by everybody: chmod o= it"),
    ],
    ids=["no key", "encrypted", "another kind", "readable"],
)
def test_a_key_that_cannot_or_should_not_be_used_is_refused(
    tmp_path: Path, content: bytes, mode: int, sentence: str
) -> None:
    a_key(tmp_path, content, mode)

    expected = f"config.toml:2: tls.report.dkim_key_file: {sentence.format(path=tmp_path / 'key.pem')}"
    assert mistake(tmp_path, SIGNED) == expected.removeprefix(f"{tmp_path}/")


def test_a_key_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    assert mistake(tmp_path, SIGNED).startswith("config.toml:2: tls.report.dkim_key_file: [Errno 2]")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("enable = true", "config.toml:2: tls.report.enable: no such setting; enabled?"),
        ('enabled = "yes"', "config.toml:2: tls.report.enabled: should be a valid boolean"),
        ('sender = "tls"', "config.toml:2: tls.report.sender: not local-part@domain: 'tls'"),
        (
            'sender = "tls@localhost"',
            "config.toml:2: tls.report.sender: needs a full domain name, and ASCII only: 'tls@localhost'",
        ),
        (
            'contact = "tls@[192.0.2.1]"',
            "config.toml:2: tls.report.contact: needs a full domain name, and ASCII only: 'tls@[192.0.2.1]'",
        ),
        (
            'contact = "\u00fc@example.org"',
            "config.toml:2: tls.report.contact: needs a full domain name, and ASCII only: '\u00fc@example.org'",
        ),
        (
            'sender = "a@example.org"\ncontact = "b@example.com"',
            "config.toml:3: tls.report.contact: must be of the domain of the sender, which signs: example.org",
        ),
        (
            'organization = "a\\nb"',
            "config.toml:2: tls.report.organization: must be of at most 200 printable characters",
        ),
        ('dkim_selector = "x"', "config.toml:1: tls.report: dkim_key_file and dkim_selector go together"),
    ],
)
def test_every_mistake_has_its_key_and_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    assert mistake(tmp_path, f"[tls.report]\n{text}\n") == sentence


def test_a_selector_is_a_name(tmp_path: Path) -> None:
    a_key(tmp_path, pem())
    text = '[tls.report]\ndkim_key_file = "key.pem"\ndkim_selector = "a b"\n'

    assert mistake(tmp_path, text) == "config.toml:3: tls.report.dkim_selector: not a selector: 'a b'"


def test_it_stands_beside_the_other_tables_of_tls(tmp_path: Path) -> None:
    config: Config = loaded(
        tmp_path,
        '[tls]\npolicy = "require"\n[tls.report]\nenabled = false\n[[tls.domain]]\nmatch = ["example.com"]\n',
    )

    assert (config.tls_report.enabled, len(config.tls_rules)) == (False, 1)
    assert load(config.path) == config
