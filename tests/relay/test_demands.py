"""What a target demands of TLS, with real handshakes: trials, setups, and what is told for reports."""

from __future__ import annotations

import hashlib
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host, Site
from relayd.mail.tls import Dane, Demand, Source, Sts, Tlsa, TlsPolicy, TlsResult, TlsSetup, TlsVersion
from tests.relay.kit import Bench, a_delivery, a_site, on, trusting
from tests.support.smtp import Answer, ScriptedServer

EHLO = "250-mx.test\n250-PIPELINING\n250 STARTTLS"
TRIAL = Demand(trial=True)
VERIFIED = Demand(level=TlsPolicy.VERIFY, source=Source.MTA_STS)
EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def bench(ca: trustme.CA, tmp_path: Path) -> Bench:
    return Bench(contexts=trusting(ca.cert_pem.bytes(), tmp_path))


@asynccontextmanager
async def serving(certificate: trustme.LeafCert, **replies: str | Answer) -> AsyncIterator[ScriptedServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    async with ScriptedServer({"EHLO": EHLO, **replies}, tls=context) as server:
        yield server


async def test_a_trial_that_succeeds_costs_nothing_and_is_told(bench: Bench, ca: trustme.CA) -> None:
    bench.book.demand = TRIAL
    async with serving(ca.issue_cert("mx1.test")) as server:
        assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1

        assert len(server.connections) == 1
        assert str(bench.reports.of("M1").tls) == "1.3/verified"
        (session,) = bench.sessions
        assert (session.result, session.source) == (TlsResult.SUCCESS, Source.MTA_STS)
        assert (session.domains, session.host, session.address) == (("example.org",), "mx1.test", "127.0.0.1")
        assert session.local == "127.0.0.1"


async def test_a_trial_that_fails_goes_on_encrypted_is_told_and_is_not_repeated_for_a_while(
    bench: Bench, ca: trustme.CA
) -> None:
    """RFC 8461 section 5: a policy in testing mode must not keep mail from being delivered."""
    bench.book.demand = TRIAL
    async with serving(ca.issue_cert("mx1.test", not_after=EXPIRED)) as server:
        for name in ("M1", "M2"):
            assert (await bench.run(a_site(server.port), [a_delivery(name=name)])).delivered == 1
            assert str(bench.reports.of(name).tls) == "1.3/encrypted"
        assert len(server.connections) == 3

        bench.now += timedelta(hours=1)
        await bench.run(a_site(server.port), [a_delivery(name="M3")])

        assert len(server.connections) == 5
        assert {session.result for session in bench.sessions} == {TlsResult.CERTIFICATE_EXPIRED}
        assert len(bench.sessions) == 3


async def test_a_trial_at_a_server_without_tls_goes_on_in_clear_text(bench: Bench) -> None:
    bench.book.demand = TRIAL
    async with ScriptedServer() as server:
        assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1

        assert len(server.connections) == 1
        assert [session.result for session in bench.sessions] == [TlsResult.STARTTLS_NOT_SUPPORTED]


async def test_a_trial_never_lets_through_what_is_required_beside_it(bench: Bench) -> None:
    bench.book.demand = Demand(level=TlsPolicy.REQUIRE, trial=True)
    async with ScriptedServer({"EHLO": EHLO, "STARTTLS": Answer("220 go", then="close")}) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert ended.failure is not None
        assert all("MAIL" not in connection.verbs for connection in server.connections)


@pytest.mark.parametrize("names", [["mx1.test"], ["mx2.test"], []])
async def test_a_host_that_a_policy_in_testing_mode_does_not_name_is_used_and_told_of(
    bench: Bench, ca: trustme.CA, names: list[str]
) -> None:
    sts = Sts(enforce=False, hosts=frozenset(names))
    bench.book.demand = Demand(trial="mx1.test" in names)
    async with serving(ca.issue_cert("mx1.test")) as server:
        assert (await bench.run(a_site(server.port, sts=sts), [a_delivery()])).delivered == 1

    (session,) = bench.sessions
    assert session.source is Source.MTA_STS
    assert session.result is (TlsResult.SUCCESS if "mx1.test" in names else TlsResult.VALIDATION_FAILURE)


@pytest.mark.parametrize(
    ("status", "named", "told"),
    [
        (EnhancedStatus(4, 7, 5), False, (TlsResult.VALIDATION_FAILURE, Source.MTA_STS)),
        (EnhancedStatus(4, 7, 10), False, (TlsResult.DNSSEC_INVALID, Source.DANE)),
        (EnhancedStatus(4, 4, 3), False, None),
        (EnhancedStatus(4, 4, 3), True, None),
    ],
)
async def test_a_host_that_a_policy_bars_is_told_of_without_a_connection(
    bench: Bench, status: EnhancedStatus, named: bool, told: tuple[TlsResult, Source] | None
) -> None:
    bench.book.known["mx1.test"] = Deferred(scope=Scope.HOST, reason="no", status=status)
    sts = Sts(enforce=True, hosts=frozenset({"mx1.test"} if named else ()))
    assert (await bench.run(a_site(25, sts=sts), [a_delivery()])).failure is not None

    expected = [("mx1.test", "", *told)] if told else []
    assert [(each.host, each.address, each.result, each.source) for each in bench.sessions] == expected


@pytest.mark.parametrize(
    ("name", "not_after", "own", "result"),
    [
        ("mx1.test", None, True, TlsResult.SUCCESS),
        ("other.test", None, True, TlsResult.CERTIFICATE_HOST_MISMATCH),
        ("mx1.test", EXPIRED, True, TlsResult.CERTIFICATE_EXPIRED),
        ("mx1.test", None, False, TlsResult.CERTIFICATE_NOT_TRUSTED),
    ],
)
async def test_what_was_wrong_with_a_certificate_is_told_in_the_words_of_reports(
    bench: Bench, ca: trustme.CA, name: str, not_after: datetime | None, own: bool, result: TlsResult
) -> None:
    bench.book.demand = VERIFIED
    issuer = ca if own else trustme.CA()
    async with serving(issuer.issue_cert(name, not_after=not_after)) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert (ended.delivered == 1) is (result is TlsResult.SUCCESS)
        assert [session.result for session in bench.sessions] == [result]
        assert bench.sessions[0].source is Source.MTA_STS


async def test_tls_that_nobody_demands_is_told_as_nobodys_policy(bench: Bench, ca: trustme.CA) -> None:
    async with serving(ca.issue_cert("other.test")) as server:
        await bench.run(a_site(server.port, tls=TlsPolicy.OPPORTUNISTIC), [a_delivery()])

        (session,) = bench.sessions
        assert (session.result, session.source) == (TlsResult.SUCCESS, Source.CONFIGURED)


@pytest.mark.parametrize("fields", [{"tls": TlsPolicy.NONE}, {"configured": True}])
async def test_smart_hosts_and_sites_without_tls_are_nobodys_to_report(
    bench: Bench, ca: trustme.CA, fields: dict[str, Any]
) -> None:
    async with serving(ca.issue_cert("mx1.test")) as server:
        site = a_site(server.port, **{"tls": TlsPolicy.REQUIRE, **fields})
        assert (await bench.run(site, [a_delivery()])).delivered == 1

        assert bench.sessions == []


async def test_a_host_that_was_never_reached_is_not_told(bench: Bench) -> None:
    await bench.run(a_site(1, tls=TlsPolicy.OPPORTUNISTIC), [a_delivery()])

    assert bench.sessions == []


# setups


async def test_a_server_that_wants_a_certificate_gets_the_routes_own(
    bench: Bench, ca: trustme.CA, tmp_path: Path
) -> None:
    ours = ca.issue_cert("relay.example.org")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mx1.test").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with ScriptedServer({"EHLO": EHLO}, tls=context) as server:
        site = replace(a_site(server.port), tls=TlsPolicy.REQUIRE, configured=True)
        with_it = replace(site, setup=TlsSetup(certificate_file=str(tmp_path / "ours.pem")))

        assert (await bench.run(with_it, [a_delivery()])).delivered == 1
        assert (await bench.run(site, [a_delivery(name="M2")])).failure is not None


async def test_authorities_of_a_setup_are_trusted_alone(bench: Bench, ca: trustme.CA, tmp_path: Path) -> None:
    private = trustme.CA()
    private.cert_pem.write_to_path(tmp_path / "private.pem")
    setup = TlsSetup(ca_file=str(tmp_path / "private.pem"))
    for issuer, delivered in ((private, 1), (ca, 0)):
        async with serving(issuer.issue_cert("mx1.test")) as server:
            site = replace(a_site(server.port), tls=TlsPolicy.VERIFY, setup=setup)
            assert (await bench.run(site, [a_delivery()])).delivered == delivered


async def test_a_reload_reads_the_files_of_a_setup_again(bench: Bench, ca: trustme.CA, tmp_path: Path) -> None:
    """A certificate that was renewed, authorities that were exchanged."""
    private, authorities = trustme.CA(), tmp_path / "private.pem"
    ca.cert_pem.write_to_path(authorities)
    site: dict[str, Any] = {"tls": TlsPolicy.VERIFY, "setup": TlsSetup(ca_file=str(authorities))}
    async with serving(private.issue_cert("mx1.test")) as server:
        assert (await bench.run(a_site(server.port, **site), [a_delivery()])).failure is not None
        private.cert_pem.write_to_path(authorities)
        assert (await bench.run(a_site(server.port, **site), [a_delivery()])).failure is not None
        bench.contexts.reload()
        assert (await bench.run(a_site(server.port, **site), [a_delivery()])).delivered == 1


@pytest.mark.parametrize(
    ("version", "encrypted"), [(TlsVersion.TLS_1_0, True), (TlsVersion.TLS_1_2, True), (TlsVersion.TLS_1_3, False)]
)
async def test_the_least_version_is_what_is_configured(
    bench: Bench, ca: trustme.CA, version: TlsVersion, encrypted: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mx1.test").configure_cert(context)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with ScriptedServer({"EHLO": EHLO}, tls=context) as server:
        site = a_site(server.port, tls=TlsPolicy.OPPORTUNISTIC, setup=TlsSetup(minimum_version=version))
        assert (await bench.run(site, [a_delivery()])).delivered == 1
        assert server.connections[-1].encrypted is encrypted


@pytest.mark.parametrize(("version", "encrypted"), [(TlsVersion.TLS_1_0, True), (TlsVersion.TLS_1_2, False)])
async def test_a_server_of_another_age_is_spoken_to_in_its_own_way_where_that_is_configured(
    bench: Bench, ca: trustme.CA, version: TlsVersion, encrypted: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("mx1.test").configure_cert(context)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1
    async with ScriptedServer({"EHLO": EHLO}, tls=context) as server:
        site = a_site(server.port, tls=TlsPolicy.OPPORTUNISTIC, setup=TlsSetup(minimum_version=version))
        assert (await bench.run(site, [a_delivery()])).delivered == 1
        assert server.connections[-1].encrypted is encrypted
        assert str(bench.reports.of("M1").tls or "") == ("1.0/encrypted" if encrypted else "")


async def test_a_setup_whose_file_has_gone_puts_the_mail_off_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    async with ScriptedServer() as server:
        site = a_site(server.port, setup=TlsSetup(certificate_file=str(tmp_path / "gone.pem")))
        ended = await bench.run(site, [a_delivery()])

        assert "our TLS cannot be set up" in str(ended.failure)
        assert server.connections == []


async def test_a_host_by_address_has_to_prove_its_address(bench: Bench, ca: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedServer({"EHLO": EHLO}, tls=context) as server:
        host = Host(name="127.0.0.1", port=server.port)
        ended = await bench.run(Site(key="test", hosts=((host,),), tls=TlsPolicy.VERIFY), [a_delivery()])

        assert ended.delivered == 1


# DANE


def record_of(certificate: trustme.LeafCert) -> Tlsa:
    """The record of a certificate's key, by its SHA-256."""
    pem = certificate.cert_chain_pems[0].bytes()
    key = x509.load_pem_x509_certificate(pem).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return Tlsa(usage=3, selector=1, matching=1, content=hashlib.sha256(spki).digest())


def by_dane(*records: Tlsa, level: TlsPolicy = TlsPolicy.REQUIRE) -> Demand:
    return Demand(level=level, source=Source.DANE, dane=Dane(records=records, names=("mx1.test",)))


OTHER_RECORD = Tlsa(usage=3, selector=1, matching=1, content=bytes(32))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("matches", [True, False])
def test_a_record_that_matches_is_proof_enough_and_none_is_a_bar(
    loop: str, implicit: bool, matches: bool, bench: Bench, ca: trustme.CA
) -> None:
    """RFC 7672 section 3.1.1: neither the name nor the date of the certificate counts, nor who issued it."""

    async def story() -> None:
        certificate = trustme.CA().issue_cert("other.test", not_after=EXPIRED)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        bench.book.demand = by_dane(OTHER_RECORD, *([record_of(certificate)] if matches else []))
        async with ScriptedServer({"EHLO": EHLO}, tls=context, implicit_tls=implicit) as server:
            host = Host(name="mx1.test", port=server.port, implicit_tls=implicit)
            site = Site(key="test", hosts=((host,),))
            for name in ("M1", "M2"):  # the second resumes the session of the first
                ended = await bench.run(site, [a_delivery(name=name)])
                if matches:
                    assert ended.delivered == 1
                    assert str(bench.reports.of(name).tls) == "1.3/dane:3-1-1"
                else:
                    assert "matches none of its TLSA records" in str(ended.failure)
            assert all("MAIL" not in connection.verbs for connection in server.connections) is not matches
            (result,) = {session.result for session in bench.sessions}
            assert result is (TlsResult.SUCCESS if matches else TlsResult.CERTIFICATE_NOT_TRUSTED)
            assert bench.sessions[0].records[0] == "3 1 1 " + "0" * 64

    on(loop, story())


async def test_authorities_and_records_that_are_both_demanded_are_both_checked(bench: Bench, ca: trustme.CA) -> None:
    good, expired = ca.issue_cert("mx1.test"), ca.issue_cert("mx1.test", not_after=EXPIRED)
    for certificate, record, delivered in (
        (good, record_of(good), 1),
        (good, OTHER_RECORD, 0),
        (expired, record_of(expired), 0),
    ):
        bench.book.demand = by_dane(record, level=TlsPolicy.VERIFY)
        async with serving(certificate) as server:
            assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == delivered


async def test_records_that_cannot_be_used_demand_encryption_alone(bench: Bench) -> None:
    bench.book.demand = by_dane()
    async with serving(trustme.CA().issue_cert("other.test")) as server:
        assert (await bench.run(a_site(server.port), [a_delivery()])).delivered == 1
        assert str(bench.reports.of("M1").tls) == "1.3/encrypted"
        assert [(each.result, each.source) for each in bench.sessions] == [(TlsResult.TLSA_INVALID, Source.DANE)]
    async with ScriptedServer() as server:
        ended = await bench.run(a_site(server.port), [a_delivery(name="M2")])
        assert ended.failure is not None
        assert "MAIL" not in server.connections[0].verbs


async def test_a_session_without_proof_is_not_resumed_where_records_are_demanded(bench: Bench) -> None:
    certificate = trustme.CA().issue_cert("other.test")
    async with serving(certificate) as server:
        for name, demand in (("M1", Demand()), ("M2", by_dane(OTHER_RECORD)), ("M3", by_dane(record_of(certificate)))):
            bench.book.demand = demand
            await bench.run(a_site(server.port), [a_delivery(name=name)])
        assert [connection.resumed for connection in server.connections] == [False] * 3


# stripping and injection, H20 and H21


DEMANDS = {
    "require": Demand(level=TlsPolicy.REQUIRE),
    "verify": Demand(level=TlsPolicy.VERIFY),
    "mta-sts": VERIFIED,
    "dane": by_dane(OTHER_RECORD),
    "dane, unusable": by_dane(),
    "trial over require": Demand(level=TlsPolicy.REQUIRE, trial=True),
}
ATTACKS: dict[str, dict[str, str | Answer]] = {
    "STARTTLS is missing": {"EHLO": "250-mx.test\n250 PIPELINING"},
    "502": {"STARTTLS": "502 no"},
    "454": {"STARTTLS": "454 no"},
    "354": {"STARTTLS": "354 go"},
    "250": {"STARTTLS": "250 go"},
    "EHLO is refused": {"EHLO": "502 what"},
    "injection": {"STARTTLS": Answer(b"220 go\r\n250-SIZE 1\r\n250 AUTH PLAIN\r\n")},
    "garbage": {"STARTTLS": Answer(b"220 go\r\nthis is no handshake\r\n", then="stall")},
    "stalled": {"STARTTLS": Answer("220 go", then="stall")},
    "closed": {"STARTTLS": Answer("220 go", then="close")},
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("demand", DEMANDS)
async def test_no_attack_on_starttls_lets_a_policy_through(
    demand: str, attack: str, bench: Bench, ca: trustme.CA
) -> None:
    quick = replace(bench.settings.timeouts, starttls=timedelta(seconds=0.3))
    bench = Bench(contexts=bench.contexts, timeouts=quick)
    bench.book.demand = DEMANDS[demand]
    async with serving(ca.issue_cert("mx1.test"), **ATTACKS[attack]) as server:
        ended = await bench.run(a_site(server.port), [a_delivery()])

        assert ended.failure is not None
        assert [one.id for one in ended.undone] == ["M1"]
        assert all("MAIL" not in connection.verbs for connection in server.connections)
