"""relayd.report.counting: every session is counted once, within bounds, and nobody is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.tls import Source, TlsResult, TlsSession
from relayd.report.counting import (
    MAX_FAILURES,
    MAX_POLICIES,
    MAX_STRINGS,
    Failure,
    Policy,
    PolicyType,
    Tally,
    by_domain,
    counted,
)

DOMAIN = "example.net"
STS = ("version: STSv1", "mode: enforce", "mx: mx1.example.net", "mx: *.mail.example.net", "max_age: 86400")
SESSION = TlsSession(
    domains=(DOMAIN,),
    host="mx1.example.net",
    address="192.0.2.7",
    local="198.51.100.1",
    result=TlsResult.CERTIFICATE_EXPIRED,
    detail="the certificate has expired",
)
NOBODYS = Policy(type=PolicyType.NONE, domain=DOMAIN)

policies = st.builds(
    Policy,
    type=st.sampled_from(PolicyType),
    domain=st.sampled_from(["a.example", "b.example"]),
    strings=st.lists(st.text(max_size=5), max_size=3).map(tuple),
)
failures = st.builds(
    Failure,
    result=st.sampled_from([result for result in TlsResult if result is not TlsResult.SUCCESS]),
    local=st.sampled_from(["", "192.0.2.1", "2001:db8::1"]),
    host=st.sampled_from(["", "mx1.example.net"]),
    address=st.sampled_from(["", "192.0.2.2"]),
    detail=st.text(max_size=10),
)
entries = st.lists(st.tuples(policies, st.none() | failures, st.integers(1, 1000)))


def tally_of(counts: list[tuple[Policy, Failure | None, int]]) -> Tally:
    tally = Tally()
    for policy, failure, sessions in counts:
        tally.add(policy, failure, sessions)
    return tally


# what a session counts as


def test_a_success_counts_without_details() -> None:
    session = replace(SESSION, result=TlsResult.SUCCESS)

    assert counted(session, DOMAIN, ()) == (NOBODYS, None)


def test_a_failure_counts_with_all_that_is_known_of_it() -> None:
    assert counted(SESSION, DOMAIN, ()) == (
        NOBODYS,
        Failure(
            result=TlsResult.CERTIFICATE_EXPIRED,
            local="198.51.100.1",
            host="mx1.example.net",
            address="192.0.2.7",
            detail="the certificate has expired",
        ),
    )


def test_mta_sts_is_the_destinations_policy() -> None:
    policy, _ = counted(replace(SESSION, source=Source.MTA_STS), DOMAIN, STS)

    assert policy == Policy(type=PolicyType.STS, domain=DOMAIN, strings=STS)
    assert policy.mx == ("mx1.example.net", "*.mail.example.net")


def test_dane_is_the_policy_of_the_tlsa_base_domain() -> None:
    session = replace(SESSION, source=Source.DANE, records=("3 1 1 ab", "2 0 1 cd"), base="mx.other.example")
    policy, _ = counted(session, DOMAIN, STS)

    assert policy == Policy(type=PolicyType.TLSA, domain="mx.other.example", strings=("3 1 1 ab", "2 0 1 cd"))
    assert policy.mx == ()
    assert counted(replace(session, base=""), DOMAIN, ())[0].domain == SESSION.host


@pytest.mark.parametrize("source", [Source.CONFIGURED, Source.MESSAGE])
def test_what_we_demand_ourselves_is_no_policy_of_theirs(source: Source) -> None:
    assert counted(replace(SESSION, source=source), DOMAIN, STS)[0] == NOBODYS


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("", ""),
        ("mx.example", ""),
    ],
)
def test_addresses_are_told_as_the_rfc_wants_them(given: str, told: str) -> None:
    _, failure = counted(replace(SESSION, local=given, address=given), DOMAIN, ())

    assert failure is not None
    assert (failure.local, failure.address) == (told, told)


def test_a_hostile_word_is_one_line_of_ascii() -> None:
    _, failure = counted(replace(SESSION, detail="no\r\nX: \x1b[31m\u00fc" + "x" * 1000), DOMAIN, ())

    assert failure is not None
    assert failure.detail.startswith("no X: ?[31m?xxx")
    assert len(failure.detail) == 300


def test_a_long_policy_is_told_as_far_as_there_is_room_and_no_record_is_cut_off() -> None:
    records = ("3 1 1 ab", "3 0 0 " + "f" * MAX_STRINGS, "2 0 1 cd")

    policy, _ = counted(replace(SESSION, source=Source.DANE, records=records), DOMAIN, ())

    assert policy.strings == ("3 1 1 ab", "2 0 1 cd")


def test_each_domain_of_a_connection_has_its_own_count_but_not_an_address() -> None:
    session = replace(SESSION, domains=("a.example", "[192.0.2.1]", "b.example"), source=Source.MTA_STS)
    lines = {"a.example": ("mode: testing",)}

    told = {domain: policy.strings for domain, policy, _ in by_domain(session, lambda name: lines.get(name, ()))}

    assert told == {"a.example": ("mode: testing",), "b.example": ()}


# tallies


@given(entries)
def test_each_session_is_counted_once(counts: list[tuple[Policy, Failure | None, int]]) -> None:
    tally = tally_of(counts)

    assert tally.sessions == sum(sessions for *_, sessions in counts)
    assert tally.failed == sum(sessions for _, failure, sessions in counts if failure is not None)
    assert sum(summary.successes + summary.failed for summary in tally.summaries) == tally.sessions


@given(entries)
def test_what_is_kept_is_read_as_it_was(counts: list[tuple[Policy, Failure | None, int]]) -> None:
    tally = tally_of(counts)

    assert Tally.unpacked(tally.packed()) == tally


@given(entries, entries)
def test_two_counts_make_the_same_as_one(
    first: list[tuple[Policy, Failure | None, int]], second: list[tuple[Policy, Failure | None, int]]
) -> None:
    merged = tally_of(first)
    merged.merge(tally_of(second))

    assert merged == tally_of(first + second)


def test_nothing_grows_with_mail() -> None:
    tally = Tally()
    for number in range(3 * MAX_POLICIES):
        policy = Policy(type=PolicyType.TLSA, domain=f"mx{number}.example", strings=(f"3 1 1 {number:04x}",))
        for detail in range(10):
            tally.add(policy, Failure(result=TlsResult.TLSA_INVALID, detail=f"{number} {detail}"))
            tally.add(policy, None)

    summaries = list(tally.summaries)
    assert tally.sessions == 3 * MAX_POLICIES * 20
    assert len(summaries) == MAX_POLICIES + 1
    assert summaries[-1].policy == Policy(type=PolicyType.TLSA, domain="")
    assert sum(len(summary.failures) for summary in summaries) <= MAX_FAILURES + MAX_POLICIES + 1
    rest = [failure for summary in summaries for failure, _ in summary.failures if not failure.detail]
    assert set(rest) == {Failure(result=TlsResult.TLSA_INVALID)}


def test_a_merge_keeps_to_the_bounds_too() -> None:
    tally = Tally()
    for number in range(10):
        other = Tally()
        for detail in range(MAX_FAILURES):
            other.add(NOBODYS, Failure(result=TlsResult.VALIDATION_FAILURE, detail=f"{number} {detail}"))
        tally.merge(other)

    assert tally.sessions == 10 * MAX_FAILURES
    (summary,) = tally.summaries
    assert len(summary.failures) == MAX_FAILURES + 1
    assert Tally.unpacked(tally.packed()) == tally


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '[[["sts","a",[]],null,"x"]]', '[[["none","a",[]],null,1]]', "[[1,2,3]]"]
)
def test_what_is_no_tally_is_not_taken_for_one(text: str) -> None:
    with pytest.raises(ValueError, match="not a tally"):
        Tally.unpacked(text)
