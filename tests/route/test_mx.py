from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.outcome import Deferred, Failed
from relayd.mail.reply import EnhancedStatus
from relayd.mail.route import Host
from relayd.route.answers import Exchanger, Found, LookUp, NoData, NoName, Unavailable
from relayd.route.mx import (
    MAX_HOSTS,
    MAX_KEY,
    Candidates,
    candidates,
    foremost,
    groups,
    host_name,
    site_key,
    unreachable,
    without_self,
)
from relayd.route.targets import Sifted

PERMITTED = Sifted(permitted=("192.0.2.1",), found=("192.0.2.1",))
LOOPBACK = Sifted(found=("127.0.0.1",), refusals=("127.0.0.1 is a loopback address",))
BROKEN = Sifted(trouble="SERVFAIL")
OTHER_FAMILY = Sifted(found=("2001:db8::1",))
NOTHING = Sifted()

NAMES = st.sampled_from([f"mx{number}.example.org" for number in range(8)])
EXCHANGERS = st.lists(st.builds(Exchanger, st.integers(0, 4), NAMES), min_size=1, max_size=12)


def found(*records: tuple[int, str]) -> Found[Exchanger]:
    return Found(tuple(Exchanger(preference, host) for preference, host in records))


def those(*records: tuple[int, str], implicit: bool = False) -> Candidates:
    return Candidates(tuple(Exchanger(preference, host) for preference, host in records), implicit)


@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        (NoName(), Failed, "5.1.2"),
        (Unavailable("SERVFAIL"), Deferred, "4.4.3"),
        (found((0, "")), Failed, "5.1.10"),
        (found((10, "")), Failed, "5.1.10"),
        (found((10, "10.0.0.1")), Deferred, "4.4.4"),
        (found((10, "bad host"), (20, "[192.0.2.1]")), Deferred, "4.4.4"),
    ],
)
def test_answers_that_name_no_exchanger_are_outcomes(
    answer: LookUp[Exchanger], kind: type[Deferred | Failed], status: str
) -> None:
    outcome = candidates("example.org", answer)

    assert isinstance(outcome, kind)
    assert str(outcome.dsn) == status
    assert "example.org" in str(outcome)


def test_a_domain_without_exchangers_is_its_own() -> None:
    assert candidates("example.org", NoData()) == those((0, "example.org"), implicit=True)


def test_a_null_mx_beside_others_is_ignored() -> None:
    assert candidates("example.org", found((0, ""), (10, "mx.example.org"))) == those((10, "mx.example.org"))


def test_an_exchanger_that_is_no_host_name_is_ignored_beside_others() -> None:
    answer = found((5, "10.0.0.1"), (10, "mx.example.org"), (20, "-bad.example.org"))

    assert candidates("example.org", answer) == those((10, "mx.example.org"))


def test_an_exchanger_that_is_named_twice_has_its_best_preference() -> None:
    answer = found((30, "a.example.org"), (20, "b.example.org"), (10, "a.example.org"))

    assert candidates("example.org", answer) == those((10, "a.example.org"), (20, "b.example.org"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("MX.example.org.", "mx.example.org"),
        ("my_mx.example.org", "my_mx.example.org"),
        ("localhost", "localhost"),
        ("10.0.0.1", ""),
        ("10.0.0.1.", ""),
        ("[10.0.0.1]", ""),
        ("a\\032b.example", ""),
        ("", ""),
    ],
)
def test_a_host_name_is_an_a_label_and_never_an_address(text: str, name: str) -> None:
    assert host_name(text) == name


def test_we_and_all_that_are_no_better_are_left_out() -> None:
    before = those((10, "a.example.org"), (20, "us.example.org"), (20, "b.example.org"), (30, "c.example.org"))

    assert without_self("example.org", before, lambda host: host == "us.example.org") == those((10, "a.example.org"))


def test_mail_that_would_come_back_to_us_fails() -> None:
    before = those((10, "us.example.org"), (20, "b.example.org"))

    outcome = without_self("example.org", before, lambda host: host == "us.example.org")

    assert outcome == Failed(reason="mail for example.org loops back to myself", status=EnhancedStatus(5, 4, 6))


@given(EXCHANGERS, st.sets(NAMES))
def test_whoever_is_left_is_better_than_we_are_at_any_place(records: list[Exchanger], ours: set[str]) -> None:
    before = candidates("example.org", Found(tuple(records)))
    assert isinstance(before, Candidates)

    after = without_self("example.org", before, ours.__contains__)

    own = [exchanger.preference for exchanger in before.exchangers if exchanger.host in ours]
    left = after.exchangers if isinstance(after, Candidates) else ()
    assert left == tuple(e for e in before.exchangers if not own or e.preference < min(own))


@pytest.mark.parametrize(
    ("judged", "implicit", "status"),
    [
        ([PERMITTED, BROKEN], False, None),
        ([LOOPBACK, PERMITTED], False, None),
        ([BROKEN, BROKEN], False, "4.4.3"),
        ([BROKEN, NOTHING], False, "4.4.3"),
        ([LOOPBACK, BROKEN], False, "4.4.3"),
        ([LOOPBACK, LOOPBACK], False, "5.4.6"),
        ([LOOPBACK, NOTHING], False, "5.4.6"),
        ([NOTHING, NOTHING], False, "4.4.4"),
        ([OTHER_FAMILY, NOTHING], False, "4.4.4"),
        ([NOTHING], True, "5.4.4"),
        ([OTHER_FAMILY], True, "4.4.4"),
        ([BROKEN], True, "4.4.3"),
        ([LOOPBACK], True, "5.4.6"),
    ],
)
def test_hosts_without_a_permitted_address_are_an_outcome(
    judged: list[Sifted], implicit: bool, status: str | None
) -> None:
    hosts = [f"mx{number}.example.org" for number in range(len(judged))]
    exchangers = tuple(Exchanger(number, host) for number, host in enumerate(hosts))

    outcome = unreachable("example.org", Candidates(exchangers, implicit), dict(zip(hosts, judged, strict=True)))

    assert (str(outcome.dsn) if outcome else None) == status


def test_a_refusal_names_the_address_and_why() -> None:
    outcome = unreachable("example.org", those((10, "mx.example.org")), {"mx.example.org": LOOPBACK})

    assert "127.0.0.1 is a loopback address" in str(outcome)


def test_equal_preferences_form_a_group() -> None:
    hosts = groups(those((10, "b.example.org"), (10, "a.example.org"), (20, "c.example.org")), 25)

    assert hosts == (
        (Host(name="a.example.org"), Host(name="b.example.org")),
        (Host(name="c.example.org"),),
    )
    assert site_key(hosts) == "a.example.org,b.example.org;c.example.org"


def test_a_port_other_than_25_is_in_the_key() -> None:
    hosts = groups(those((10, "a.example.org"), (20, "b.example.org")), 2525)

    assert site_key(hosts) == "a.example.org:2525;b.example.org:2525"


@given(EXCHANGERS, st.randoms(use_true_random=False), st.integers(0, 5), st.integers(1, 5))
def test_the_same_exchangers_make_the_same_site(
    records: list[Exchanger], chance: Random, shift: int, factor: int
) -> None:
    shuffled = [Exchanger(record.preference * factor + shift, record.host) for record in records]
    chance.shuffle(shuffled)

    one = candidates("example.org", Found(tuple(records)))
    other = candidates("example.com", Found(tuple(shuffled)))

    assert isinstance(one, Candidates)
    assert isinstance(other, Candidates)
    assert groups(foremost(one), 25) == groups(foremost(other), 25)


def test_of_a_thousand_exchangers_the_ten_best_are_used() -> None:
    answer = Found(tuple(Exchanger(number, f"mx{number}.example.org") for number in range(1000, 0, -1)))

    some = candidates("example.org", answer)

    assert isinstance(some, Candidates)
    assert [exchanger.preference for exchanger in foremost(some).exchangers] == list(range(1, MAX_HOSTS + 1))


def test_long_keys_are_cut_and_stay_different() -> None:
    many = [(10, f"a-rather-long-name-{number}.mail.example.org") for number in range(MAX_HOSTS)]

    one, other = site_key(groups(those(*many), 25)), site_key(groups(those(*many[:-1]), 25))

    assert one != other
    assert len(one) <= MAX_KEY
    assert one.startswith("a-rather-long-name-0.mail.example.org,a-rather-long-name-1.mail.example.org,+")
