"""[tls], [[tls.domain]] and the TLS of a [[route]]: what is read, and every mistake with its key and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from relayd.config import load
from relayd.mail.errors import ConfigError
from relayd.mail.tls import TlsPolicy, TlsSetup, TlsVersion
from relayd.sections import Config

ROUTE = '[[route]]\nname = "a"\nmatch = ["*"]\nhosts = ["h"]\n'


def loaded(directory: Path, text: str) -> Config:
    (directory / "config.toml").write_text(text)
    return load(directory / "config.toml")


def mistake(directory: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(directory, text)
    (sentence,) = caught.value.mistakes
    return sentence.removeprefix(f"{directory}/")


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(ca: trustme.CA, tmp_path: Path) -> Path:
    """A directory with authorities, and a certificate and its key, in files of their own and in one."""
    ours = ca.issue_cert("relay.example.org")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    ours.cert_chain_pems[0].write_to_path(tmp_path / "ours.pem")
    ours.private_key_pem.write_to_path(tmp_path / "key.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    ca.issue_cert("other.example.org").private_key_pem.write_to_path(tmp_path / "other.pem")
    for name in ("key.pem", "both.pem", "other.pem"):
        (tmp_path / name).chmod(0o400)
    return tmp_path


def test_what_is_left_out_is_as_in_tls(files: Path) -> None:
    config = loaded(
        files,
        '[tls]\npolicy = "require"\nminimum_version = "1.3"\nca_file = "ca.pem"\n'
        '[[tls.domain]]\nmatch = ["Example.COM"]\n'
        '[[tls.domain]]\nmatch = ["*"]\npolicy = "verify"\nminimum_version = "1.2"\ndane = false\n'
        f'{ROUTE}certificate_file = "ours.pem"\nkey_file = "key.pem"\n',
    )

    authorities = str(files / "ca.pem")
    assert config.tls_setup == TlsSetup(minimum_version=TlsVersion.TLS_1_3, ca_file=authorities)
    first, second = config.tls_rules
    assert (first.match, first.level, first.setup) == (("example.com",), TlsPolicy.REQUIRE, config.tls_setup)
    assert second.level is TlsPolicy.VERIFY
    assert (first.dane, second.dane) == (True, False)
    assert second.setup == TlsSetup(ca_file=authorities)
    assert config.routes[0].setup == TlsSetup(
        minimum_version=TlsVersion.TLS_1_3,
        ca_file=authorities,
        certificate_file=str(files / "ours.pem"),
        key_file=str(files / "key.pem"),
    )


def test_a_key_may_be_in_the_file_of_its_certificate(files: Path) -> None:
    setup = loaded(files, ROUTE + 'certificate_file = "both.pem"\n').routes[0].setup

    assert setup.certificate_file == setup.key_file == str(files / "both.pem")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[tls]\nca_file = "absent.pem"', "config.toml:2: tls.ca_file: [Errno 2] No such file or directory"),
        ('[tls]\nca_file = "key.pem"', "config.toml:2: tls.ca_file: {}/key.pem holds no certificates in PEM"),
        (
            '[tls]\nminimum_version = "1.4"',
            "config.toml:2: tls.minimum_version: should be '1.0', '1.1', '1.2' or '1.3'",
        ),
        ("[tls.domain]\nmatch = []", "config.toml:1: tls.domain: is written [[tls.domain]], with double brackets"),
        ("[[tls.domain]]\nmatch = []", "config.toml:2: tls.domain 1.match: needs at least one pattern to match"),
        (
            '[[tls.domain]]\nmatch = ["a.example"]\n[[tls.domain]]\nmatch = ["*"]\npolcy = "none"',
            "config.toml:5: tls.domain 2.polcy: no such setting; policy?",
        ),
        ('[[tls.domain]]\npolicy = "none"', "config.toml:1: tls.domain 1: match is missing"),
        (
            ROUTE + 'key_file = "key.pem"',
            "config.toml:5: route 1.key_file: is of no use without a certificate_file",
        ),
        (
            ROUTE + 'certificate_file = "ours.pem"\nkey_file = "other.pem"',
            "config.toml:6: route 1.key_file: the key in {0}/other.pem is not that of the certificate in {0}/ours.pem",
        ),
        (
            ROUTE + 'certificate_file = "ours.pem"',
            "config.toml:5: route 1.certificate_file: no certificate and key, in PEM and not encrypted, in"
            " {0}/ours.pem and {0}/ours.pem",
        ),
        (
            ROUTE + 'certificate_file = "ours.pem"\nkey_file = "absent.pem"',
            "config.toml:6: route 1.key_file: [Errno 2] No such file or directory",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(files: Path, text: str, sentence: str) -> None:
    (files / "ours.pem").chmod(0o400)

    assert mistake(files, text).startswith(sentence.format(files))


def test_a_key_that_everybody_can_read_is_refused(files: Path) -> None:
    (files / "key.pem").chmod(0o644)

    text = ROUTE + 'certificate_file = "ours.pem"\nkey_file = "key.pem"'
    assert "can be read by everybody: chmod o= it" in mistake(files, text)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(files: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key((files / "key.pem").read_bytes(), None)
    (files / "secret.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    (files / "secret.pem").chmod(0o400)

    text = ROUTE + 'certificate_file = "ours.pem"\nkey_file = "secret.pem"'
    assert "not encrypted" in mistake(files, text)
