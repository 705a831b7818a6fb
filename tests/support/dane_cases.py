"""Domains with all kinds of TLSA records, and exchangers with all kinds of certificates: what RFC 7672 says of each.

Each case is a domain of its own in a small internet (tests/support/dnssec.py), whose exchangers listen on port 25 of
addresses of their own.  `expected` is what becomes of mail to it:

    dane       delivered to a server that a TLSA record proves
    encrypted  delivered over TLS, to whomever
    clear      delivered in clear text
    deferred   nothing is sent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from relayd.mail.tls import Tlsa
from tests.support.certificates import Certified, a_key, authority, certify, server_context, signed_with_sha1
from tests.support.dnssec import SignedInternet
from tests.support.smtp import ScriptedServer

SECURE, INSECURE, BOGUS = "secure.test", "insecure.test", "bogus.test"
TLS, NO_TLS = "250-mx.test\n250-8BITMIME\n250 STARTTLS", "250-mx.test\n250 8BITMIME"
NOW = datetime.now(UTC)
EXPIRED: dict[str, Any] = {"begins": NOW - timedelta(days=3), "ends": NOW - timedelta(days=1)}
ROOT = authority("A Root")
OTHER_ROOT = authority("Another Root")
UNKNOWN = x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0")


@dataclass
class Case:
    """One domain.  `of_one_host` is what becomes of mail at the first host that can be connected to, if that is not
    `expected`, since there are others."""

    name: str
    expected: str
    build: Callable[[Stage], None]
    zone: str = SECURE
    of_one_host: str = ""

    @property
    def domain(self) -> str:
        return f"{self.name}.{self.zone}"


@dataclass
class Stage:
    """What a case is built on.  `servers` has what is to listen, `names` what was asked for by SNI, by address."""

    internet: SignedInternet
    domain: str
    addresses: Callable[[], str]
    servers: list[ScriptedServer] = field(default_factory=list)
    names: dict[str, list[str | None]] = field(default_factory=dict)

    def mx(self, *hosts: str) -> None:
        """Let these be the domain's exchangers, in order."""
        self.internet.add(self.domain, "MX", *(f"{10 * n} {host}." for n, host in enumerate(hosts, 1)))

    def serve(self, host: str, *chain: Certified) -> str:
        """Let a server listen that shows these certificates, or has no TLS."""
        address = self.addresses()
        self.internet.add(host, "A", address)
        tls = server_context(*chain) if chain else None
        if tls is not None:
            tls.sni_callback = lambda connection, name, context: self.names.setdefault(address, []).append(name)
        self.servers.append(ScriptedServer({"EHLO": TLS if tls else NO_TLS}, tls=tls, host=address, port=25))
        return address

    def tlsa(self, host: str, *records: Tlsa) -> None:
        self.internet.add(f"_25._tcp.{host}", "TLSA", *(record.text for record in records))

    def alias(self, name: str, target: str) -> None:
        self.internet.add(name, "CNAME", f"{target}.")


CASES: list[Case] = []


def case(expected: str, **fields: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Make a case of a function, under its name."""

    def add(build: Callable[[Stage], None]) -> Callable[[Stage], None]:
        CASES.append(Case(build.__name__.replace("_", "-"), expected, build, **fields))
        return build

    return add


def table(expected: str, name: str, host_of: Callable[[Stage, str], None], **fields: Any) -> None:
    """Make a case whose one exchanger is `mx.` of the domain."""

    def build(stage: Stage) -> None:
        host = f"mx.{stage.domain}"
        stage.mx(host)
        host_of(stage, host)

    CASES.append(Case(name, expected, build, **fields))


def wrong(record: Tlsa) -> Tlsa:
    """Return a record that nothing matches."""
    return replace(record, content=bytes(len(record.content)))


# usage 3


def _own(fields: str) -> Callable[[Stage, str], None]:
    def build(stage: Stage, host: str) -> None:
        server = certify("any.name.example", **EXPIRED)
        stage.serve(host, server)
        stage.tlsa(host, server.tlsa(fields))

    return build


for _fields in ("3 1 1", "3 0 1", "3 1 2", "3 0 2", "3 1 0", "3 0 0"):
    table("dane", f"own-{_fields.replace(' ', '')}", _own(_fields))


@case("deferred")
def wrong_digest(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, wrong(server.tlsa()))


@case("dane", of_one_host="deferred")
def wrong_digest_then_a_good_host(stage: Stage) -> None:
    first, second = (f"{name}.{stage.domain}" for name in ("mx1", "mx2"))
    stage.mx(first, second)
    for host, change in ((first, wrong), (second, replace)):
        server = certify(host)
        stage.serve(host, server)
        stage.tlsa(host, change(server.tlsa()))


@case("dane")
def old_and_new_key(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, wrong(server.tlsa()), server.tlsa())


@case("deferred")
def the_better_digest_is_wrong(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, server.tlsa("3 1 1"), wrong(server.tlsa("3 1 2")))


@case("deferred")
def records_and_no_starttls(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host)
    stage.tlsa(host, certify(host).tlsa())


# no records, or none that can be used


@case("encrypted")
def no_records(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host, certify(host))


@case("encrypted")
def no_such_records(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host, certify(host))
    stage.internet.add(f"_25._tcp.{host}", "TXT", '"here"')


@case("clear")
def no_records_and_no_starttls(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host)


def _useless(*records: Tlsa) -> Callable[[Stage, str], None]:
    def build(stage: Stage, host: str) -> None:
        stage.serve(host, certify(host))
        stage.tlsa(host, *records)

    return build


def _record(usage: int, selector: int, matching: int, content: bytes) -> Tlsa:
    return Tlsa(usage=usage, selector=selector, matching=matching, content=content)


for _name, _made in {
    "web-authority": _record(0, 0, 1, bytes(32)),
    "web-certificate": _record(1, 1, 1, bytes(32)),
    "unknown-usage": _record(4, 1, 1, bytes(32)),
    "private-usage": _record(255, 1, 1, bytes(32)),
    "unknown-selector": _record(3, 2, 1, bytes(32)),
    "unknown-digest": _record(3, 1, 3, bytes(48)),
    "short-digest": _record(3, 1, 1, bytes(31)),
    "long-digest": _record(3, 1, 2, bytes(65)),
    "damaged-certificate": _record(3, 0, 0, certify("mx.example").der[:-1]),
    "damaged-key": _record(3, 1, 0, certify("mx.example").public[:-1]),
}.items():
    table("encrypted", f"useless-{_name}", _useless(_made))


@case("deferred")
def useless_records_and_no_starttls(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host)
    stage.tlsa(host, _record(1, 1, 1, bytes(32)))


@case("dane")
def a_useless_record_beside_a_good_one(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, _record(1, 1, 1, bytes(32)), server.tlsa())


# DNSSEC


@case("deferred")
def bogus_records(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, server.tlsa())
    stage.internet.spoil(f"_25._tcp.{host}", "TLSA")


@case("encrypted")
def bogus_records_then_another_host(stage: Stage) -> None:
    first, second = (f"{name}.{stage.domain}" for name in ("mx1", "mx2"))
    stage.mx(first, second)
    for host in (first, second):
        stage.serve(host, certify(host))
    stage.tlsa(first, certify(first).tlsa())
    stage.internet.spoil(f"_25._tcp.{first}", "TLSA")


@case("deferred")
def records_that_nobody_can_tell(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host, certify(host))
    stage.internet.lame(f"_25._tcp.{host}")


@case("deferred")
def bogus_addresses(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, server.tlsa())
    stage.internet.spoil(host, "A")


@case("deferred", zone=BOGUS)
def bogus_exchangers(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)


@case("encrypted", zone=INSECURE)
def insecure_records(stage: Stage) -> None:
    host, server = f"mx.{stage.domain}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, wrong(server.tlsa()))


@case("encrypted")
def a_host_in_an_insecure_zone(stage: Stage) -> None:
    host, server = f"mx-of-another.{INSECURE}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, wrong(server.tlsa()))


@case("dane", zone=INSECURE)
def a_domain_in_an_insecure_zone(stage: Stage) -> None:
    host, server = f"mx-of-insecure.{SECURE}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, server.tlsa())


@case("deferred", zone=INSECURE)
def a_domain_in_an_insecure_zone_and_a_wrong_digest(stage: Stage) -> None:
    host, server = f"wrong-mx-of-insecure.{SECURE}", certify("mx.example")
    stage.mx(host)
    stage.serve(host, server)
    stage.tlsa(host, wrong(server.tlsa()))


# aliases


@case("dane")
def alias_with_records_at_its_target(stage: Stage) -> None:
    host, target = f"mx.{stage.domain}", f"host.{stage.domain}"
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, certify(target, by=ROOT), ROOT)
    stage.tlsa(target, ROOT.tlsa("2 0 1"))
    stage.tlsa(host, wrong(ROOT.tlsa("2 0 1")))


@case("dane")
def alias_with_records_at_its_own_name(stage: Stage) -> None:
    host, target = f"mx.{stage.domain}", f"host.{stage.domain}"
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, certify(host, by=ROOT), ROOT)
    stage.tlsa(host, ROOT.tlsa("2 0 1"))


@case("deferred")
def alias_whose_server_has_the_other_name(stage: Stage) -> None:
    host, target = f"mx.{stage.domain}", f"host.{stage.domain}"
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, certify(host, by=ROOT), ROOT)
    stage.tlsa(target, ROOT.tlsa("2 0 1"))


@case("dane")
def alias_into_an_insecure_zone(stage: Stage) -> None:
    host, target = f"mx.{stage.domain}", f"astray.{INSECURE}"
    server = certify("mx.example")
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, server)
    stage.tlsa(host, server.tlsa())


@case("deferred")
def alias_into_an_insecure_zone_and_a_wrong_digest(stage: Stage) -> None:
    host, target = f"mx.{stage.domain}", f"wrong-astray.{INSECURE}"
    server = certify("mx.example")
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, server)
    stage.tlsa(host, wrong(server.tlsa()))
    stage.tlsa(target, server.tlsa())


@case("encrypted")
def alias_from_an_insecure_zone(stage: Stage) -> None:
    host, target = f"from-outside.{INSECURE}", f"host.{stage.domain}"
    server = certify("mx.example")
    stage.mx(host)
    stage.alias(host, target)
    stage.serve(target, server)
    stage.tlsa(target, wrong(server.tlsa()))
    stage.tlsa(host, wrong(server.tlsa()))


@case("dane")
def alias_of_the_records(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host, certify(host, by=ROOT), ROOT)
    stage.alias(f"_25._tcp.{host}", f"anchors.{stage.domain}")
    stage.internet.add(f"anchors.{stage.domain}", "TLSA", ROOT.tlsa("2 0 1").text)


@case("encrypted")
def alias_of_the_records_into_an_insecure_zone(stage: Stage) -> None:
    host = f"mx.{stage.domain}"
    stage.mx(host)
    stage.serve(host, certify(host))
    stage.alias(f"_25._tcp.{host}", f"records.{INSECURE}")
    stage.internet.add(f"records.{INSECURE}", "TLSA", wrong(ROOT.tlsa("2 0 1")).text)


@case("dane")
def a_domain_that_is_its_own_exchanger(stage: Stage) -> None:
    server = certify("mx.example")
    stage.serve(stage.domain, server)
    stage.tlsa(stage.domain, server.tlsa())


# usage 2: names


def _named(*names: str, anchor: str = "2 0 1", mx: Sequence[str] = (), **fields: Any) -> Callable[[Stage], None]:
    """A server under ROOT; in the names `@` is the domain."""

    def build(stage: Stage) -> None:
        (host,) = (name.replace("@", stage.domain) for name in mx or ("mx.@",))
        stage.mx(host)
        found = [name.replace("@", stage.domain) for name in names]
        more = {key: value.replace("@", stage.domain) for key, value in fields.items()}
        stage.serve(host, certify(*found, by=ROOT, **more), ROOT)
        stage.tlsa(host, ROOT.tlsa(anchor))

    return build


CASES += [
    Case("named-host", "dane", _named("mx.@")),
    Case("named-host-in-capitals", "dane", _named("MX.@")),
    Case("named-domain", "dane", _named("@")),
    Case("named-otherwise", "deferred", _named("other.@")),
    Case("named-by-star", "dane", _named("*.@")),
    Case("named-by-star-for-one-label", "deferred", _named("*.@", mx=("two.labels.@",))),
    Case("named-by-star-for-the-domain", "dane", _named(f"*.{SECURE}", mx=(f"mx.far.off.{SECURE}",))),
    Case("named-by-short-star", "deferred", _named("*.test", mx=("short-star.test",))),
    Case("named-by-part-of-a-label", "deferred", _named("m*.@")),
    Case("named-commonly", "dane", _named(subject="mx.@")),
    Case("named-commonly-but-otherwise-too", "deferred", _named("other.@", subject="mx.@")),
    Case("domain-of-insecure-exchangers", "dane", _named("@", mx=(f"only-mx.{SECURE}",)), INSECURE),
    Case("host-of-insecure-exchangers", "dane", _named(f"only-mx2.{SECURE}", mx=(f"only-mx2.{SECURE}",)), INSECURE),
]


@case("dane")
def named_as_what_the_domain_is_an_alias_of(stage: Stage) -> None:
    target = f"target.{stage.domain}"
    stage.alias(stage.domain, target)
    stage.internet.add(target, "MX", f"10 mx.{target}.")
    stage.serve(f"mx.{target}", certify(target, by=ROOT), ROOT)
    stage.tlsa(f"mx.{target}", ROOT.tlsa("2 0 1"))


@case("dane")
def named_as_a_domain_that_is_an_alias(stage: Stage) -> None:
    target = f"target.{stage.domain}"
    stage.alias(stage.domain, target)
    stage.internet.add(target, "MX", f"10 mx.{target}.")
    stage.serve(f"mx.{target}", certify(stage.domain, by=ROOT), ROOT)
    stage.tlsa(f"mx.{target}", ROOT.tlsa("2 0 1"))


# usage 2: chains


def _chain(make: Callable[[str], Sequence[Certified]], *records: Tlsa) -> Callable[[Stage, str], None]:
    def build(stage: Stage, host: str) -> None:
        chain = make(host)
        stage.serve(host, *chain)
        stage.tlsa(host, *records or [chain[-1].tlsa("2 0 1")])

    return build


def _under_root(host: str) -> list[Certified]:
    return [certify(host, by=ROOT), ROOT]


def _alone(host: str) -> list[Certified]:
    return [certify(host, by=ROOT)]


BETWEEN = authority("One Between", by=ROOT)
TIGHT = authority("A Tight Root", path_length=0)
LOOSE = authority("A Loose Root", path_length=1)
UNDER_TIGHT, UNDER_LOOSE = (authority("One Under It", by=above) for above in (TIGHT, LOOSE))
BOUND = authority("A Bound Root", extensions=[(x509.NameConstraints([x509.DNSName("elsewhere.test")], None), True)])
FREE = authority("A Free Root", extensions=[(x509.NameConstraints([x509.DNSName(SECURE)], None), True)])
OLD_ROOT = authority("An Old Root", **EXPIRED)
RSA_ROOT = authority("An RSA Root", key=rsa.generate_private_key(65537, 2048))
NO_AUTHORITY = certify("no.authority.test", by=ROOT)
CLIENTS = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
FORGED_ROOT = Certified(ROOT.certificate, a_key())

for _fields in ("2 0 1", "2 0 2", "2 1 1", "2 1 2", "2 0 0", "2 1 0"):
    table("dane", f"anchor-{_fields.replace(' ', '')}", _chain(_under_root, ROOT.tlsa(_fields)))
    _expected = "dane" if _fields.endswith("0") else "deferred"
    table(_expected, f"anchor-not-shown-{_fields.replace(' ', '')}", _chain(_alone, ROOT.tlsa(_fields)))
table("deferred", "anchor-of-others", _chain(_under_root, OTHER_ROOT.tlsa("2 0 1")))
table("deferred", "anchor-shown-but-not-issuing", _chain(lambda host: [certify(host, by=FORGED_ROOT), ROOT]))
table("dane", "anchor-between", _chain(lambda host: [certify(host, by=BETWEEN), BETWEEN]))
table("dane", "anchor-above-another", _chain(lambda host: [certify(host, by=BETWEEN), BETWEEN, ROOT]))
table("dane", "chain-out-of-order", _chain(lambda host: [certify(host, by=BETWEEN), OTHER_ROOT, BETWEEN, ROOT]))
table("deferred", "server-expired", _chain(lambda host: [certify(host, by=ROOT, **EXPIRED), ROOT]))
table("deferred", "anchor-expired", _chain(lambda host: [certify(host, by=OLD_ROOT), OLD_ROOT]))
table("deferred", "issued-by-a-server", _chain(lambda host: [certify(host, by=NO_AUTHORITY), NO_AUTHORITY, ROOT]))
table("deferred", "server-as-its-own-anchor", _chain(lambda host: [certify(host)]))
table("deferred", "path-too-long", _chain(lambda host: [certify(host, by=UNDER_TIGHT), UNDER_TIGHT, TIGHT]))
table("dane", "path-as-long-as-may-be", _chain(lambda host: [certify(host, by=UNDER_LOOSE), UNDER_LOOSE, LOOSE]))
table("deferred", "out-of-bounds", _chain(lambda host: [certify(host, by=BOUND), BOUND]))
table("dane", "within-bounds", _chain(lambda host: [certify(host, by=FREE), FREE]))
table("deferred", "unknown-critical", _chain(lambda host: [certify(host, by=ROOT, extensions=[(UNKNOWN, True)]), ROOT]))
table("dane", "unknown-uncritical", _chain(lambda host: [certify(host, by=ROOT, extensions=[(UNKNOWN, False)]), ROOT]))
table("deferred", "not-for-servers", _chain(lambda host: [certify(host, by=ROOT, extensions=[(CLIENTS, False)]), ROOT]))
table(
    "deferred",
    "signed-with-a-broken-hash",
    _chain(lambda host: [signed_with_sha1(certify(host, by=RSA_ROOT), RSA_ROOT), RSA_ROOT]),
)


def _either(stage: Stage, host: str) -> None:
    chain = _under_root(host)
    stage.serve(host, *chain)
    stage.tlsa(host, wrong(chain[0].tlsa()), ROOT.tlsa("2 0 1"))


def _or(stage: Stage, host: str) -> None:
    chain = _under_root(host)
    stage.serve(host, *chain)
    stage.tlsa(host, chain[0].tlsa(), OTHER_ROOT.tlsa("2 0 1"))


table("dane", "own-wrong-and-anchor-right", _either)
table("dane", "own-right-and-anchor-wrong", _or)


def build(internet: SignedInternet) -> dict[str, Stage]:
    """Add all cases to an internet, and return what each is built on, by its domain."""
    numbers = iter(range(1, 250))
    stages = {}
    for each in CASES:
        stage = Stage(internet, each.domain, lambda: f"127.0.1.{next(numbers)}")
        each.build(stage)
        stages[each.domain] = stage
    return stages
