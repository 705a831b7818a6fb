"""What a server has shown against the TLSA records of its name (RFC 7672 section 3, RFC 7671; RFC.md R31)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import permutations
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.tls import Dane, Tlsa, TlsResult
from relayd.relay.certificate import read
from relayd.relay.dane import DaneMismatch, authenticate, names_host
from relayd.relay.issuers import MAX_SIGNATURES, counted
from tests.support.certificates import Certified, Key, a_key, authority, certify, signed_with_sha1

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
MX = "mx.example.org"
ALL_SELECTORS = ["0 0", "0 1", "0 2", "1 0", "1 1", "1 2"]
EXPIRED: dict[str, Any] = {"begins": NOW - 3 * DAY, "ends": NOW - DAY}
FUTURE: dict[str, Any] = {"begins": NOW + DAY, "ends": NOW + 2 * DAY}

ROOT = authority("A Root")
OTHER = authority("Another Root")
SERVER = certify(MX, by=ROOT)


def judged(records: Sequence[Tlsa], *chain: Certified, names: Sequence[str] = (MX,)) -> str | DaneMismatch:
    return authenticate(Dane(records=tuple(records), names=tuple(names)), [each.der for each in chain], NOW)


def refused(verdict: str | DaneMismatch, words: str = "", result: TlsResult | None = None) -> bool:
    return (
        isinstance(verdict, DaneMismatch) and words in verdict.reason and (result is None or verdict.result is result)
    )


class TestItsOwnCertificate:
    """Usage 3."""

    @pytest.mark.parametrize("fields", ALL_SELECTORS)
    def test_it_matches_by_each_selector_and_each_digest(self, fields: str) -> None:
        server = certify("other.name.example", **EXPIRED)

        assert judged([server.tlsa(f"3 {fields}")], server) == f"3 {fields}"
        assert refused(judged([server.tlsa(f"3 {fields}")], SERVER), "matches none of its TLSA records")

    @pytest.mark.parametrize("flaw", [EXPIRED, FUTURE, {"ca": True}, {"by": OTHER}, {"subject": "nobody"}])
    def test_neither_names_nor_dates_nor_issuers_matter(self, flaw: dict[str, Any]) -> None:
        server = certify("nothing.alike.example", **flaw)

        assert judged([server.tlsa()], server) == "3 1 1"

    def test_a_new_certificate_with_the_old_key_matches_by_the_key(self) -> None:
        old = certify(MX)
        new = certify(MX, key=old.key)

        assert judged([old.tlsa("3 1 1")], new) == "3 1 1"
        assert refused(judged([old.tlsa("3 0 1")], new))

    def test_one_of_several_records_is_enough(self) -> None:
        records = [OTHER.tlsa("3 1 1"), certify(MX).tlsa("3 0 2"), SERVER.tlsa("3 1 2")]

        assert judged(records, SERVER) == "3 1 2"

    def test_only_the_first_certificate_is_the_servers_own(self) -> None:
        assert refused(judged([SERVER.tlsa()], OTHER, SERVER))

    @pytest.mark.parametrize("cut", [slice(0, 31), slice(0, 0), slice(1, None)])
    def test_a_part_of_a_digest_matches_nothing(self, cut: slice) -> None:
        whole = SERVER.tlsa()
        part = Tlsa(usage=3, selector=1, matching=1, content=whole.content[cut])

        assert refused(judged([part], SERVER))

    def test_without_a_certificate_or_without_records_nothing_matches(self) -> None:
        assert refused(judged([SERVER.tlsa()]), "no certificate")
        assert refused(judged([], SERVER))


class TestAnAuthority:
    """Usage 2."""

    @pytest.mark.parametrize("fields", ALL_SELECTORS)
    def test_it_vouches_for_the_server_it_issued_by_each_selector_and_digest(self, fields: str) -> None:
        assert judged([ROOT.tlsa(f"2 {fields}")], SERVER, ROOT) == f"2 {fields}"
        assert refused(judged([OTHER.tlsa(f"2 {fields}")], SERVER, ROOT), "no authority of its TLSA records")

    @pytest.mark.parametrize("fields", ["0 0", "1 0"])
    def test_a_record_that_is_the_authority_serves_though_the_server_does_not_show_it(self, fields: str) -> None:
        assert judged([ROOT.tlsa(f"2 {fields}")], SERVER) == f"2 {fields}"
        assert refused(judged([OTHER.tlsa(f"2 {fields}")], SERVER))

    @pytest.mark.parametrize("fields", ["0 1", "1 1"])
    def test_a_digest_is_of_no_use_without_the_certificate(self, fields: str) -> None:
        assert refused(judged([ROOT.tlsa(f"2 {fields}")], SERVER))

    def test_to_show_an_authority_is_not_to_be_vouched_for_by_it(self) -> None:
        """Anybody can show it, and issue himself a certificate in its name."""
        forged = certify(MX, by=Certified(ROOT.certificate, a_key()))

        assert refused(judged([ROOT.tlsa("2 0 1"), ROOT.tlsa("2 1 0"), ROOT.tlsa("2 0 0")], forged, ROOT))

    def test_an_authority_is_not_vouched_for_by_a_server_of_its_own(self) -> None:
        """A certificate of somebody whom the authority certified as no authority."""
        somebody = certify("somebody.example", by=ROOT)
        forged = certify(MX, by=somebody)

        assert refused(judged([ROOT.tlsa("2 0 1")], forged, somebody, ROOT), "may not issue others")

    def test_one_between_serves_and_any_order_and_more_than_needed(self) -> None:
        between = authority("One Between", by=ROOT)
        server = certify(MX, by=between)

        for others in permutations([between, ROOT, OTHER]):
            assert judged([ROOT.tlsa("2 0 1")], server, *others) == "2 0 1"
            assert judged([between.tlsa("2 1 1")], server, *others) == "2 1 1"
        assert judged([ROOT.tlsa("2 1 0")], server, between) == "2 1 0"
        assert refused(judged([ROOT.tlsa("2 1 0"), ROOT.tlsa("2 0 0")], server))

    def test_the_server_itself_is_no_authority_for_itself(self) -> None:
        alone = certify(MX, ca=True)

        assert refused(judged([alone.tlsa("2 0 1")], alone))

    @pytest.mark.parametrize("when", [EXPIRED, FUTURE])
    @pytest.mark.parametrize("which", ["server", "between", "root"])
    def test_each_on_the_way_has_to_be_valid_now(self, when: dict[str, Any], which: str) -> None:
        root = authority("A Root", **(when if which == "root" else {}))
        between = authority("One Between", by=root, **(when if which == "between" else {}))
        server = certify(MX, by=between, **(when if which == "server" else {}))

        verdict = judged([root.tlsa("2 0 1")], server, between, root)

        assert refused(verdict, "expired at" if when is EXPIRED else "not valid before")

    def test_an_expired_certificate_of_an_authority_that_has_a_newer_one_does_no_harm(self) -> None:
        key = a_key()
        old = authority("One Between", by=ROOT, key=key, **EXPIRED)
        new = authority("One Between", by=ROOT, key=key)
        server = certify(MX, by=new)

        assert judged([ROOT.tlsa("2 0 1")], server, old, new, ROOT) == "2 0 1"

    def test_a_path_may_be_as_long_as_the_authority_allows(self) -> None:
        def chain(path_length: int) -> list[Certified]:
            root = authority("A Root", path_length=path_length)
            upper = authority("Upper", by=root)
            lower = authority("Lower", by=upper)
            return [certify(MX, by=lower), lower, upper, root]

        good, bad = chain(2), chain(1)
        assert judged([good[-1].tlsa("2 0 1")], *good) == "2 0 1"
        assert refused(judged([bad[-1].tlsa("2 0 1")], *bad))

    def test_one_that_an_authority_issued_to_itself_makes_no_path_longer(self) -> None:
        """As when it changes its key (RFC 5280 section 4.2.1.9)."""
        root = authority("A Root", path_length=0)
        newer = authority("A Root", by=root)

        assert judged([root.tlsa("2 0 1")], certify(MX, by=newer), newer, root) == "2 0 1"

    @pytest.mark.parametrize(
        ("extension", "critical", "serves"),
        [
            (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0"), False, True),
            (x509.UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\5\0"), True, False),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True, True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), True, True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False, False),
            (x509.CertificatePolicies([x509.PolicyInformation(ObjectIdentifier("1.2.3"), None)]), True, True),
            (x509.InhibitAnyPolicy(0), True, True),
        ],
    )
    @pytest.mark.parametrize("which", ["server", "root"])
    def test_what_an_extension_says_holds(
        self, extension: x509.ExtensionType, critical: bool, serves: bool, which: str
    ) -> None:
        extensions = [(extension, critical)]
        root = authority("A Root", extensions=extensions if which == "root" else [])
        server = certify(MX, by=root, extensions=extensions if which == "server" else [])

        verdict = judged([root.tlsa("2 0 1")], server, root)

        assert verdict == "2 0 1" if serves else refused(verdict)

    @pytest.mark.parametrize("may_sign", [True, False])
    def test_an_authority_whose_key_is_not_for_certificates_issues_none(self, may_sign: bool) -> None:
        root = authority("A Root", extensions=[(usage(key_cert_sign=may_sign), True)])
        server = certify(MX, by=root)

        assert refused(judged([root.tlsa("2 0 1")], server, root)) is not may_sign

    @pytest.mark.parametrize("names", [(MX,), ("example.org", MX), ("*.example.org",), ("a.test", "b.test", MX)])
    def test_the_server_has_to_have_one_of_the_names(self, names: tuple[str, ...]) -> None:
        assert judged([ROOT.tlsa("2 0 1")], certify(*names, by=ROOT), ROOT) == "2 0 1"

        verdict = judged([ROOT.tlsa("2 0 1")], certify(*names, by=ROOT), ROOT, names=("else.test", "net.test"))

        assert refused(verdict, "another name than else.test or net.test", TlsResult.CERTIFICATE_HOST_MISMATCH)

    def test_any_of_the_names_that_are_looked_for_will_do(self) -> None:
        server = certify("example.org", by=ROOT)

        assert judged([ROOT.tlsa("2 0 1")], server, ROOT, names=(MX, "example.org")) == "2 0 1"

    def test_a_common_name_counts_only_where_there_is_no_other(self) -> None:
        records = [ROOT.tlsa("2 0 1")]
        bare = certify(by=ROOT, subject=MX)
        overruled = certify("other.example.org", by=ROOT, subject=MX)
        addressed = certify(by=ROOT, subject=MX, alternatives=[x509.IPAddress(IPv4Address("192.0.2.1"))])

        assert judged(records, bare, ROOT) == judged(records, addressed, ROOT) == "2 0 1"
        assert refused(judged(records, overruled, ROOT), result=TlsResult.CERTIFICATE_HOST_MISMATCH)


class TestTheDomainsWhoseMailItIsFor:
    """A server may be called as they are instead, if all are."""

    def judged_for(self, server: Certified, *next_hops: tuple[str, ...]) -> str | DaneMismatch:
        dane = Dane(records=(ROOT.tlsa("2 0 1"),), names=(MX,), next_hops=next_hops)
        return authenticate(dane, [server.der, ROOT.der], NOW)

    def test_one_is_enough_for_one(self) -> None:
        server = certify("example.org", by=ROOT)

        assert self.judged_for(server, ("example.org",)) == "2 0 1"
        assert self.judged_for(server, ("www.example.net", "example.org")) == "2 0 1"
        assert refused(self.judged_for(server, ("example.net",)), result=TlsResult.CERTIFICATE_HOST_MISMATCH)

    def test_for_several_it_has_to_be_called_as_each(self) -> None:
        one, both = certify("example.org", by=ROOT), certify("example.org", "example.net", by=ROOT)

        assert refused(self.judged_for(one, ("example.org",), ("example.net",)))
        assert self.judged_for(both, ("example.org",), ("example.net",)) == "2 0 1"

    def test_its_own_name_serves_for_all(self) -> None:
        assert self.judged_for(SERVER, ("example.org",), ("example.net",)) == "2 0 1"

    def test_none_is_not_all(self) -> None:
        assert refused(self.judged_for(certify("example.org", by=ROOT)))


class TestNameConstraints:
    """RFC 5280 section 4.2.1.10."""

    @pytest.mark.parametrize(
        ("permitted", "excluded", "serves"),
        [
            ([x509.DNSName("example.org")], None, True),
            ([x509.DNSName(".example.org")], None, True),
            ([x509.DNSName(MX)], None, True),
            ([x509.DNSName("x.example.org")], None, False),
            ([x509.DNSName("ample.org")], None, False),
            ([x509.DNSName("example.net"), x509.DNSName("EXAMPLE.ORG")], None, True),
            (None, [x509.DNSName("example.net")], True),
            (None, [x509.DNSName("org")], False),
            ([x509.DNSName("example.org")], [x509.DNSName(MX)], False),
            (None, [x509.IPAddress(IPv4Network("0.0.0.0/0")), x509.IPAddress(IPv6Network("::/0"))], True),
            ([x509.DirectoryName(x509.Name([]))], None, True),
            ([x509.DirectoryName(OTHER.certificate.subject)], None, False),
            ([x509.RFC822Name("example.org")], None, True),
        ],
    )
    def test_an_authority_issues_for_the_names_it_may(
        self, permitted: list[x509.GeneralName] | None, excluded: list[x509.GeneralName] | None, serves: bool
    ) -> None:
        limits = x509.NameConstraints(permitted, excluded)
        root = authority("A Root", extensions=[(limits, True)])
        between = authority("A Root", by=root)  # self-issued: the limits are not for its own name

        for chain in ([certify(MX, by=root), root], [certify(MX, by=between), between, root]):
            verdict = judged([root.tlsa("2 0 1")], *chain)
            assert verdict == "2 0 1" if serves else refused(verdict)

    def test_a_name_of_a_kind_that_nobody_can_judge_is_refused_where_that_kind_is_limited(self) -> None:
        mail = x509.RFC822Name("ann@example.org")
        names = [x509.DNSName(MX), mail]
        for limits in (x509.NameConstraints([mail], None), x509.NameConstraints(None, [mail])):
            root = authority("A Root", extensions=[(limits, True)])
            assert refused(judged([root.tlsa("2 0 1")], certify(by=root, alternatives=names), root))

    def test_addresses_are_limited_too(self) -> None:
        root = authority(extensions=[(x509.NameConstraints([x509.IPAddress(IPv4Network("192.0.2.0/24"))], None), True)])
        for address, serves in (("192.0.2.7", True), ("198.51.100.7", False)):
            alternatives = [x509.DNSName(MX), x509.IPAddress(IPv4Address(address))]
            verdict = judged([root.tlsa("2 0 1")], certify(by=root, alternatives=alternatives), root)
            assert verdict == "2 0 1" if serves else refused(verdict)

    def test_a_common_name_that_stands_for_a_host_is_limited_as_one(self) -> None:
        root = authority(extensions=[(x509.NameConstraints([x509.DNSName("example.net")], None), True)])

        assert refused(judged([root.tlsa("2 0 1")], certify(by=root, subject=MX), root))


class TestSignatures:
    """Of which kinds they may be, and how many are looked at."""

    @pytest.mark.parametrize(
        "key",
        [
            rsa.generate_private_key(65537, 2048),
            ed25519.Ed25519PrivateKey.generate(),
            ed448.Ed448PrivateKey.generate(),
        ],
        ids=["RSA", "Ed25519", "Ed448"],
    )
    @pytest.mark.parametrize("fields", ["2 0 1", "2 1 0"])
    def test_they_may_be_of_any_modern_kind(self, key: Key, fields: str) -> None:
        root = authority(key=key)

        assert judged([root.tlsa(fields)], certify(MX, by=root), root) == fields

    def test_one_by_a_broken_hash_is_none(self) -> None:
        root = authority(key=rsa.generate_private_key(65537, 2048))
        server = signed_with_sha1(certify(MX, by=root), root)
        assert refused(judged([root.tlsa("2 0 1"), root.tlsa("2 1 0")], server, root))
        assert judged([server.tlsa("3 1 1")], server, root) == "3 1 1"

    def test_one_by_a_key_of_a_kind_that_has_gone_is_none(self) -> None:
        root = authority(key=dsa.generate_private_key(1024))

        assert refused(judged([root.tlsa("2 0 1")], certify(MX, by=root), root))

    def test_hosts_of_certificates_that_all_might_have_issued_each_other_cost_little(self) -> None:
        key = rsa.generate_private_key(65537, 4096)
        namesakes = [authority("Namesake", key=key) for _ in range(30)]
        server = certify(MX, by=namesakes[0])
        records = [OTHER.tlsa("2 0 1"), *(each.tlsa("2 0 0") for each in namesakes[10:]), OTHER.tlsa("2 1 0")]
        began = time.process_time()

        verdict = judged(records[:1], server, *namesakes)
        mine = judged(records, server, *namesakes)

        assert refused(verdict)
        assert mine == "2 0 0"
        assert time.process_time() - began < 1

    def test_so_many_are_looked_at_and_none_is_good_after_that(self) -> None:
        signed_by, server = counted(), read(SERVER.der)
        assert server is not None

        good = [signed_by(server, ROOT.public) for _ in range(MAX_SIGNATURES + 5)]

        assert good == [True] * MAX_SIGNATURES + [False] * 5

    def test_of_a_long_chain_the_first_ten_are_looked_at(self) -> None:
        between = [authority("B0", by=ROOT)]
        for number in range(1, 12):
            between.append(authority(f"B{number}", by=between[-1]))
        server = certify(MX, by=between[-1])

        chain = [server, *reversed(between), ROOT]

        assert judged([chain[9].tlsa("2 0 1")], *chain) == "2 0 1"
        assert refused(judged([chain[10].tlsa("2 0 1")], *chain))


class TestHostileOctets:
    """Whatever a server shows, there is an answer, and soon."""

    RECORDS = (SERVER.tlsa("3 1 1"), SERVER.tlsa("3 0 1"), ROOT.tlsa("2 0 1"), ROOT.tlsa("2 1 0"), ROOT.tlsa("2 0 0"))

    @given(st.lists(st.binary(max_size=300), max_size=12))
    def test_garbage_matches_nothing(self, chain: list[bytes]) -> None:
        assert refused(authenticate(Dane(records=self.RECORDS, names=(MX,)), chain, NOW))

    @given(st.integers(0, len(SERVER.der) - 1), st.integers(1, 255))
    def test_an_octet_that_was_changed_spoils_the_certificate(self, at: int, by: int) -> None:
        """All but the key's records: it may be the same though another octet is not."""
        octets = bytearray(SERVER.der)
        octets[at] ^= by

        verdict = authenticate(Dane(records=self.RECORDS[1:], names=(MX,)), [bytes(octets), ROOT.der], NOW)

        assert refused(verdict)

    @pytest.mark.parametrize(
        "octets",
        [b"\x30" * 2**20, SERVER.der + bytes(2**20), bytes(2**20), b"\x30\x80" * 2**19],
        ids=["tags", "a certificate and zeros", "zeros", "open sequences"],
    )
    def test_a_megabyte_takes_no_time(self, octets: bytes) -> None:
        began = time.process_time()

        verdict = authenticate(Dane(records=self.RECORDS[1:], names=(MX,)), [octets] * 100, NOW)

        assert refused(verdict)
        assert time.process_time() - began < 1

    def test_a_record_that_is_garbage_matches_nothing_and_hides_no_other(self) -> None:
        garbage = [Tlsa(usage=2, selector=s, matching=0, content=b"\x30\x03garbage") for s in (0, 1)]

        assert refused(judged(garbage, SERVER, ROOT))
        assert judged([*garbage, ROOT.tlsa("2 0 1")], SERVER, ROOT) == "2 0 1"


@pytest.mark.parametrize(
    ("pattern", "name", "covers"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("MX.Example.ORG", "mx.example.org", True),
        ("mx.example.org", "mx.example.net", False),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "a.mx.example.org", False),
        ("*.example.org", "example.org", False),
        ("*.mx.example.org", "mx.example.org", False),
        ("m*.example.org", "mx.example.org", False),
        ("*x.example.org", "mx.example.org", False),
        ("mx.*.org", "mx.example.org", False),
        ("*.*.org", "mx.example.org", False),
        ("*", "org", False),
        ("*.org", "example.org", False),
        ("*.", "org.", False),
        ("*.example.org", ".example.org", False),
        ("mx.example.org\0.evil.test", "mx.example.org", False),
        ("", "mx.example.org", False),
    ],
)
def test_a_name_covers_itself_and_a_star_one_label(pattern: str, name: str, covers: bool) -> None:
    assert names_host(pattern, name) is covers


def usage(*, key_cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
