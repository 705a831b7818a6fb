"""MTA-STS' record and policy (RFC 8461 sections 3.1, 3.2, 4.1), and when to ask again."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.tls import Sts
from relayd.route.answers import Found, LookUp, NoData, NoName, Unavailable
from relayd.route.sts import (
    MAX_MX,
    MIN_AGE,
    Due,
    Invalid,
    Mode,
    NoRecord,
    Record,
    StsPolicy,
    applied,
    due,
    label,
    match,
    parse_policy,
    record_of,
    refresh_at,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
LONG = "x" * 63


def a_policy(**fields: object) -> StsPolicy:
    base = StsPolicy(
        domain="example.org",
        id="1",
        mode=Mode.ENFORCE,
        mx=("mx1.example.org", "*.example.net"),
        max_age=WEEK,
        fetched=NOW,
    )
    return replace(base, **fields)  # type: ignore[arg-type]


def parsed(*lines: str, end: str = "\r\n") -> StsPolicy | Invalid:
    return parse_policy("example.org", "1", "".join(line + end for line in lines).encode(), NOW)


def why_not(read: StsPolicy | Invalid) -> str:
    assert isinstance(read, Invalid), read
    return read.why


class TestTheRecord:
    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("v=STSv1; id=20160831085700Z;", "20160831085700Z"),
            ("v=STSv1;id=1", "1"),
            ("v=STSv1;\tid=1 ; ", "1"),
            ("v=STSv1; id=" + "a" * 32, "a" * 32),
            ("v=STSv1; foo=bar; id=1", "1"),
            ("v=STSv1; id=1; a.b-c_d=!~<>:/@", "1"),
            ("v=STSv1; id=1; id=2", "1"),
            ("v=STSv1; id=1; ID=2", "1"),
        ],
    )
    def test_has_the_id_of_the_policy(self, text: str, version: str) -> None:
        assert record_of(Found((text,))) == Record(version)

    @pytest.mark.parametrize(
        "text",
        [
            "v=STSv1",
            "v=STSv1;",
            "v=STSv1 ; id=1",
            " v=STSv1; id=1",
            "V=STSv1; id=1",
            "v=STSv2; id=1",
            "v=STSv1; id=",
            "v=STSv1; id=1-2",
            "v=STSv1; id=é",
            "v=STSv1; id=" + "a" * 33,
            "v=STSv1; id =1",
            "v=STSv1; id= 1",
            "v=STSv1; ID=1",
            "v=STSv1; id=1; foo",
            "v=STSv1; id=1; foo=",
            "v=STSv1; id=1; foo=a b",
            "v=STSv1; id=1; foo=a=b",
            "v=STSv1; id=1;; foo=b",
            "v=STSv1; id=1; -foo=b",
            "v=STSv1; id=1; " + "f" * 33 + "=b",
            "v=STSv1; id=1; foo=\ufffd",
            "v=STSv1; id=, id=1",
            "v=STSv1; id=; id=1",
            "v=spf1 -all",
            "",
        ],
    )
    def test_that_breaks_the_grammar_is_none(self, text: str) -> None:
        assert isinstance(record_of(Found((text,))), NoRecord)

    def test_is_found_among_others(self) -> None:
        assert record_of(Found(("v=spf1 -all", "v=STSv1; id=1", "v=STSv2; id=2"))) == Record("1")

    def test_that_is_not_alone_is_none(self) -> None:
        two = record_of(Found(("v=STSv1; id=1", "v=STSv1; id=2")))
        assert two == NoRecord("there are 2 TXT records of MTA-STS")

    @pytest.mark.parametrize("answer", [NoName(), NoData(), Unavailable("SERVFAIL")])
    def test_may_be_missing(self, answer: LookUp[str]) -> None:
        assert isinstance(record_of(answer), NoRecord)

    @given(st.text())
    def test_of_any_text_can_be_read(self, text: str) -> None:
        record_of(Found(("v=STSv1;" + text,)))


ENFORCE = ("version: STSv1", "mode: enforce", "mx: mx1.example.org", "mx: *.example.net", "max_age: 604800")


class TestThePolicy:
    @pytest.mark.parametrize("end", ["\r\n", "\n"])
    def test_is_of_lines(self, end: str) -> None:
        assert parsed(*ENFORCE, end=end) == a_policy()
        assert parse_policy("example.org", "1", end.join(ENFORCE).encode(), NOW) == a_policy()

    @pytest.mark.parametrize(
        "lines",
        [
            ENFORCE[::-1],
            [f"{line}  \t" for line in ENFORCE],
            [line.replace(" ", "") for line in ENFORCE],
            [line.replace(": ", ":\t  ") for line in ENFORCE],
            [*ENFORCE, "", "  ", ""],
            [*ENFORCE, "foo: bar", "foo.b-a_r: every thing, é: 1"],
            [*ENFORCE, "mode: none", "max_age: 1", "version: STSv2", "mode: what", "max_age: never"],
            ["Mode: none", "MAX_AGE: what", *ENFORCE],
            [line.replace("mx1.example.org", "MX1.Example.ORG") for line in ENFORCE],
        ],
    )
    def test_is_the_same(self, lines: list[str]) -> None:
        read = parsed(*lines)
        assert isinstance(read, StsPolicy)
        assert (read.mode, set(read.mx), read.max_age) == (Mode.ENFORCE, set(a_policy().mx), WEEK)

    @pytest.mark.parametrize("mode", list(Mode))
    def test_has_one_of_three_modes(self, mode: Mode) -> None:
        read = parsed(*ENFORCE[:1], f"mode: {mode.value}", *ENFORCE[2:])
        assert read == a_policy(mode=mode)

    def test_of_mode_none_needs_no_mx(self) -> None:
        assert parsed("version: STSv1", "mode: none", "max_age: 86400") == a_policy(mode=Mode.NONE, mx=(), max_age=DAY)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("version: STSv1", "version: STSv2"),
            ("version: STSv1", "Version: STSv1"),
            ("version: STSv1", ""),
            ("mode: enforce", "mode: Enforce"),
            ("mode: enforce", "mode: report"),
            ("mode: enforce", "mode:"),
            ("mode: enforce", ""),
            ("max_age: 604800", ""),
            ("max_age: 604800", "max_age: -1"),
            ("max_age: 604800", "max_age: 1d"),
            ("max_age: 604800", "max_age: 1.5"),
            ("max_age: 604800", "max_age: 31557601"),
            ("max_age: 604800", "max_age: 99999999999"),
            ("max_age: 604800", "max_age: ٣"),
            ("mx: *.example.net", "mx: *"),
            ("mx: *.example.net", "mx: *."),
            ("mx: *.example.net", "mx: *.*.example.net"),
            ("mx: *.example.net", "mx: mx.*.example.net"),
            ("mx: *.example.net", "mx: *mx.example.net"),
            ("mx: *.example.net", "mx: .example.net"),
            ("mx: *.example.net", "mx: example.net."),
            ("mx: *.example.net", "mx: a..b"),
            ("mx: *.example.net", "mx: -a.example.net"),
            ("mx: *.example.net", "mx: a b"),
            ("mx: *.example.net", "mx: [192.0.2.1]"),
            ("mx: *.example.net", "mx: bücher.example"),
            ("mx: *.example.net", f"mx: x{LONG}.example"),
            ("mx: *.example.net", "mx: " + ".".join([LONG] * 4) + ".a"),
            ("mx: *.example.net", "mx:"),
            ("mx: *.example.net", "mx : mx.example.net"),
            ("mx: *.example.net", " mx: mx.example.net"),
            ("mx: *.example.net", "mx"),
            ("mx: *.example.net", "<html>"),
            ("mx: *.example.net", "foo: a\x00b"),
            ("mx: *.example.net", "foo: a\rb"),
            ("mx: *.example.net", "-foo: bar"),
        ],
    )
    def test_that_breaks_the_grammar_is_none(self, old: str, new: str) -> None:
        assert why_not(parsed(*(new if line == old else line for line in ENFORCE)))

    def test_without_a_single_mx_is_none(self) -> None:
        assert "mx" in why_not(parsed(*(line for line in ENFORCE if not line.startswith("mx"))))

    def test_with_very_many_mx_is_none(self) -> None:
        many = [f"mx: mx{number}.example.org" for number in range(MAX_MX + 1)]
        assert isinstance(parsed(*ENFORCE[:2], *many[1:], ENFORCE[-1]), StsPolicy)
        assert str(MAX_MX) in why_not(parsed(*ENFORCE[:2], *many, ENFORCE[-1]))

    @pytest.mark.parametrize(
        "body", [b"", b"\n", b"\xff", "\ufeffversion: STSv1".encode(), "version: STSv1".encode("utf-16")]
    )
    def test_may_be_anything_but_one(self, body: bytes) -> None:
        assert why_not(parse_policy("example.org", "1", body, NOW))

    @pytest.mark.parametrize("age", [0, 31557600])
    def test_may_age_at_once_and_in_a_year(self, age: int) -> None:
        read = parsed(*ENFORCE[:-1], f"max_age: {age}")
        assert read == a_policy(max_age=timedelta(seconds=age))

    @given(st.binary() | st.text().map(str.encode))
    def test_of_any_octets_can_be_read(self, body: bytes) -> None:
        parse_policy("example.org", "1", body, NOW)
        parse_policy("example.org", "1", "\n".join(ENFORCE).encode() + b"\n" + body, NOW)

    @pytest.mark.parametrize("policy", [a_policy(), a_policy(mode=Mode.NONE, mx=())])
    def test_is_in_a_report_as_it_would_be_read_again(self, policy: StsPolicy) -> None:
        assert parsed(*policy.lines) == policy


@pytest.mark.parametrize(
    ("pattern", "host", "meant"),
    [
        ("mx.example.org", "mx.example.org", True),
        ("mx.example.org", "mx2.example.org", False),
        ("mx.example.org", "a.mx.example.org", False),
        ("*.example.org", "mx.example.org", True),
        ("*.example.org", "a.mx.example.org", False),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "mxexample.org", False),
        ("*.example.org", "mx.example.net", False),
        ("*.org", "example.org", True),
        ("*.xn--bcher-kva.example", "mx.xn--bcher-kva.example", True),
    ],
)
def test_a_pattern_means_a_host(pattern: str, host: str, meant: bool) -> None:
    assert match(pattern, host) is meant


class TestWhatIsDue:
    SAME, OTHER, NONE = Record("1"), Record("2"), NoRecord("SERVFAIL")

    @pytest.mark.parametrize(
        ("cached", "record", "after", "what"),
        [
            (False, NONE, DAY, Due.NOTHING),
            (True, NONE, DAY * 2, Due.NOTHING),
            (False, SAME, DAY, Due.FETCH),
            (True, OTHER, timedelta(0), Due.FETCH),
            (True, SAME, timedelta(0), Due.NOTHING),
            (True, SAME, DAY - timedelta(seconds=1), Due.NOTHING),
            (True, SAME, DAY, Due.REFRESH),
            (True, SAME, WEEK - timedelta(seconds=1), Due.REFRESH),
            (True, SAME, WEEK, Due.FETCH),
            (True, SAME, -timedelta(seconds=1), Due.REFRESH),
        ],
    )
    def test_follows_from_what_is_cached_and_from_the_record(
        self, cached: bool, record: Record | NoRecord, after: timedelta, what: Due
    ) -> None:
        assert due(a_policy() if cached else None, record, NOW + after, jitter=1.0) is what

    @given(st.integers(0, 31557600), st.floats(0, 1))
    def test_is_a_refresh_well_before_the_end(self, seconds: int, jitter: float) -> None:
        policy = a_policy(max_age=timedelta(seconds=seconds))
        at = refresh_at(policy, jitter)
        assert NOW + min(DAY, max(policy.max_age, MIN_AGE) / 2) * 0.79 <= at <= NOW + DAY
        assert at - NOW <= (policy.expires - NOW) / 2

    def test_is_nothing_at_once_for_a_policy_that_ages_at_once(self) -> None:
        policy = a_policy(max_age=timedelta(0))
        assert due(policy, self.SAME, NOW + timedelta(seconds=1), jitter=0.0) is Due.NOTHING
        assert policy.expires == NOW + MIN_AGE


class TestASite:
    HOSTS = ("mx1.example.org", "mx9.example.com")

    @pytest.mark.parametrize(
        ("policy", "told"),
        [
            (None, None),
            (a_policy(mode=Mode.NONE), None),
            (a_policy(), Sts(enforce=True, hosts=frozenset({"mx1.example.org"}))),
            (a_policy(mode=Mode.TESTING), Sts(enforce=False, hosts=frozenset({"mx1.example.org"}))),
            (a_policy(mx=("other.example",)), Sts(enforce=True, hosts=frozenset())),
        ],
    )
    def test_is_told_which_of_its_hosts_are_meant(self, policy: StsPolicy | None, told: Sts | None) -> None:
        assert applied(policy, self.HOSTS) == told

    @pytest.mark.parametrize(
        ("sts", "key"),
        [
            (None, ""),
            (Sts(enforce=True, hosts=frozenset(HOSTS)), "#mta-sts"),
            (Sts(enforce=False, hosts=frozenset(HOSTS)), "#mta-sts-testing"),
            (Sts(enforce=True, hosts=frozenset(HOSTS[:1])), "#mta-sts:mx1.example.org"),
            (Sts(enforce=True, hosts=frozenset()), "#mta-sts:-"),
        ],
    )
    def test_has_it_in_its_key(self, sts: Sts | None, key: str) -> None:
        assert label(sts, self.HOSTS) == key

    def test_of_very_many_hosts_has_a_short_key_all_the_same(self) -> None:
        hosts = [f"mx{number}.a-long-name.example.org" for number in range(10)]
        keys = {label(Sts(enforce=True, hosts=frozenset(hosts[:number])), hosts) for number in range(1, 10)}
        assert len(keys) == 9
        assert max(map(len, keys)) <= 80
