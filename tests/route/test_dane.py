"""Where TLSA records are looked for, and which count (RFC 7672 section 2.2, RFC 7671; RFC.md R30, R31)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.tls import Dane, Tlsa
from relayd.route.answers import Exchanger, Found, LookUp, NoData, NoName, Unavailable
from relayd.route.dane import MAX_USABLE, judge, next_hop_names, own_name, owner, secure_names, usable
from relayd.route.policy import BrokenDane, NoDane
from tests.support.certificates import certify

MX = "mx.example.org"
SERVER = certify(MX)
NOW = timedelta(0)
SECURE: LookUp[str] = Found(("192.0.2.1",), NOW, True)
INSECURE: LookUp[str] = Found(("192.0.2.1",))
ALIASED: LookUp[str] = Found(("192.0.2.1",), NOW, True, "host.example.net")
ASTRAY: LookUp[str] = Found(("192.0.2.1",), NOW, False, "host.example.net")
BOGUS = Unavailable("SERVFAIL")


def a_record(usage: int = 3, selector: int = 1, matching: int = 1, content: bytes | None = None) -> Tlsa:
    octets = bytes({1: 32, 2: 64}.get(matching, 8)) if content is None else content
    return Tlsa(usage=usage, selector=selector, matching=matching, content=octets)


@pytest.mark.parametrize(
    ("a", "aaaa", "names"),
    [
        (SECURE, NoData(), (MX,)),
        (NoData(), SECURE, (MX,)),
        (SECURE, SECURE, (MX,)),
        (SECURE, BOGUS, (MX,)),
        (INSECURE, NoData(), ()),
        (INSECURE, INSECURE, ()),
        (INSECURE, BOGUS, ()),
        (SECURE, INSECURE, ()),
        (ALIASED, NoData(), ("host.example.net", MX)),
        (ALIASED, ALIASED, ("host.example.net", MX)),
        (ASTRAY, NoData(), None),
        (NoName(), BOGUS, ()),
        (BOGUS, BOGUS, ()),
    ],
)
def test_records_may_be_where_the_addresses_are_secure(
    a: LookUp[str], aaaa: LookUp[str], names: tuple[str, ...] | None
) -> None:
    assert secure_names(MX, a, aaaa) == names


def test_an_alias_that_leads_astray_may_have_records_at_its_own_name_if_it_is_secure_itself() -> None:
    assert own_name(MX, Found(("host.example.net",), NOW, True)) == (MX,)
    assert own_name(MX, Found(("host.example.net",))) == ()
    assert own_name(MX, NoData(NOW, True)) == ()
    assert own_name(MX, BOGUS) == BrokenDane("SERVFAIL")


def test_the_port_is_in_the_name() -> None:
    assert owner(MX, 25) == "_25._tcp.mx.example.org"
    assert owner(MX, 587) == "_587._tcp.mx.example.org"


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Found((a_record(),), NOW, True), Dane(records=(a_record(),), names=(MX,))),
        (Found((a_record(1),), NOW, True), Dane(records=(), names=(MX,))),
        (Found((a_record(),)), NoDane("its TLSA records are not secure")),
        (NoData(NOW, True), NoDane("it has no TLSA records")),
        (NoData(), NoDane("it has no TLSA records")),
        (NoName(), NoDane("it has no TLSA records")),
        (BOGUS, BrokenDane("SERVFAIL")),
    ],
)
def test_what_the_records_at_a_name_say(answer: LookUp[Tlsa], verdict: object) -> None:
    assert judge(MX, answer) == verdict


class TestUsable:
    """Which records can be used."""

    @pytest.mark.parametrize("usage", [2, 3])
    @pytest.mark.parametrize("selector", [0, 1])
    @pytest.mark.parametrize("matching", [0, 1, 2])
    def test_both_usages_of_dane_with_every_selector_and_digest(self, usage: int, selector: int, matching: int) -> None:
        record = SERVER.tlsa(f"{usage} {selector} {matching}")

        assert usable([record]) == (record,)

    @pytest.mark.parametrize(
        "record",
        [
            a_record(0),
            a_record(1),
            a_record(4),
            a_record(255),
            a_record(selector=2),
            a_record(selector=255),
            a_record(matching=3),
            a_record(matching=255),
            a_record(content=bytes(31)),
            a_record(content=bytes(33)),
            a_record(content=b""),
            a_record(matching=2, content=bytes(32)),
            a_record(matching=0, content=b""),
            a_record(matching=0, content=b"garbage"),
            a_record(matching=0, selector=0, content=SERVER.der[:-1]),
            a_record(matching=0, selector=0, content=SERVER.public),
            a_record(matching=0, selector=1, content=SERVER.der),
        ],
        ids=str,
    )
    def test_not_what_is_for_the_web_or_unknown_or_damaged(self, record: Tlsa) -> None:
        good = a_record(2)

        assert usable([record]) == ()
        assert usable([record, good]) == (good,)

    def test_of_one_usage_and_selector_the_best_digest_alone(self) -> None:
        """RFC 7671 section 9: who can break the other gains nothing."""
        weak, strong = a_record(matching=1), a_record(matching=2)
        others = [a_record(2, 1, 1), a_record(3, 0, 1)]

        assert usable([weak, strong, *others]) == (strong, *others)

    def test_a_record_in_full_is_beside_any_digest(self) -> None:
        full = SERVER.tlsa("3 1 0")

        assert usable([full, a_record()]) == (a_record(), full)

    def test_a_damaged_record_of_the_best_digest_does_not_count(self) -> None:
        assert usable([a_record(), a_record(matching=2, content=bytes(63))]) == (a_record(),)

    def test_so_many_are_kept_and_digests_first(self) -> None:
        digests = [a_record(content=bytes([number]) * 32) for number in range(MAX_USABLE + 5)]

        assert usable([SERVER.tlsa("3 1 0"), *digests, *digests]) == tuple(digests[:MAX_USABLE])

    octet = st.integers(0, 255)

    @given(st.lists(st.builds(a_record, octet, octet, octet, st.binary(max_size=70)), max_size=30))
    def test_whatever_is_published_what_is_left_can_be_used(self, records: list[Tlsa]) -> None:
        left = usable(records)

        assert set(left) <= set(records)
        assert usable(left) == left
        assert all(record.usage in (2, 3) and record.selector in (0, 1) and record.content for record in left)


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        (Found((Exchanger(10, MX),), NOW, True), ("example.org",)),
        (Found((Exchanger(10, MX),), NOW, True, "example.net"), ("example.org", "example.net")),
        (Found((Exchanger(10, MX),), NOW, False, "example.net"), ("example.org",)),
        (Found((Exchanger(10, MX),)), ("example.org",)),
        (NoData(), ("example.org",)),
        (BOGUS, ("example.org",)),
    ],
)
def test_a_server_may_be_called_as_the_domain_and_as_what_that_is_an_alias_of_for_sure(
    answer: LookUp[Exchanger], names: tuple[str, ...]
) -> None:
    assert next_hop_names("example.org", answer) == names
