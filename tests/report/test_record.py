"""relayd.report.record: who wants reports, and where (RFC 8460 section 3)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.report.record import MAX_PLACES, ByHttps, ByMail, Place, places

MAIL = ByMail(Address.parse("reports@example.com"))
HTTPS = ByHttps("https://reporting.example.com/v1/tlsrpt")


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ("v=TLSRPTv1; rua=mailto:reports@example.com", [MAIL]),
        ("v=TLSRPTv1;rua=mailto:reports@example.com", [MAIL]),
        ("v=TLSRPTv1;rua=mailto:reports@example.com;", [MAIL]),
        ("v=TLSRPTv1 ; \t rua=mailto:reports@example.com ;", [MAIL]),
        ("v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt", [HTTPS]),
        ("v=TLSRPTv1; rua=mailto:reports@example.com,https://reporting.example.com/v1/tlsrpt", [MAIL, HTTPS]),
        ("v=TLSRPTv1; rua=mailto:reports@example.com , https://reporting.example.com/v1/tlsrpt", [MAIL, HTTPS]),
        ("v=TLSRPTv1; x-new=1; rua=mailto:reports@example.com; y=2", [MAIL]),
        ("v=TLSRPTv1; rua=MAILTO:reports@example.com", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:reports%2Btls@example.com", [ByMail(Address.parse("reports+tls@example.com"))]),
        ("v=TLSRPTv1; rua=mailto:a%2Cb%21c@example.com", []),  # no local part without quotes
        ("v=TLSRPTv1; rua=mailto:%22a%2Cb%22@example.com", [ByMail(Address('"a,b"', "example.com"))]),
        ("v=TLSRPTv1; rua=mailto:a%21b@example.com", [ByMail(Address.parse("a!b@example.com"))]),
        ("v=TLSRPTv1; rua=mailto:reports@example.com?subject=x&bcc=y@example.org", [MAIL]),
        ("v=TLSRPTv1; rua=mailto:reports@example.com,mailto:reports@EXAMPLE.com", [MAIL]),
        ("v=TLSRPTv1; rua=https://example.com/a%2Cb?c=%3B", [ByHttps("https://example.com/a%2Cb?c=%3B")]),
        ("v=TLSRPTv1; rua=https://example.com:8443/x#part", [ByHttps("https://example.com:8443/x")]),
        # One place that we cannot send to is no reason to forget the others.
        ("v=TLSRPTv1; rua=ftp://example.com/,mailto:reports@example.com", [MAIL]),
        ("v=TLSRPTv1; rua=http://example.com/", []),
        ("v=TLSRPTv1; rua=https:///x", []),
        ("v=TLSRPTv1; rua=https://user:word@example.com/", []),
        ("v=TLSRPTv1; rua=https://example.com:port/", []),
        ("v=TLSRPTv1; rua=https://exa mple.com/", []),
        ("v=TLSRPTv1; rua=https://b\u00fccher.example/", []),
        ("v=TLSRPTv1; rua=https://[::1/", []),
        ("v=TLSRPTv1; rua=mailto:reports", []),
        ("v=TLSRPTv1; rua=mailto:a%0D%0ABcc:b@example.com", []),
        ("v=TLSRPTv1; rua=mailto:%C3%BC@example.com", []),  # that would need SMTPUTF8 all the way
        ("v=TLSRPTv1; rua=mailto:%FF@example.com", []),
        ("v=TLSRPTv1; rua=", []),
        ("v=TLSRPTv1; RUA=mailto:reports@example.com", []),
        ("v=TLSRPTv1", []),
        ("v=TLSRPTv1;", []),
        ("v=TLSRPTv2; rua=mailto:reports@example.com", []),
        ("V=TLSRPTv1; rua=mailto:reports@example.com", []),
        (" v=TLSRPTv1; rua=mailto:reports@example.com", []),
        ("v=TLSRPTv1; rua=mailto:reports@example.com" + " " * 5000, []),
        ("", []),
    ],
)
def test_a_record_says_where_reports_go(record: str, wanted: list[Place]) -> None:
    assert list(places([record])) == wanted


def test_records_of_other_kinds_are_passed_over_and_exactly_one_has_to_be_left() -> None:
    record = "v=TLSRPTv1; rua=mailto:reports@example.com"

    assert places(["v=spf1 -all", record]) == (MAIL,)
    assert places([record, record]) == ()
    assert places([]) == ()


def test_no_record_makes_us_send_without_end() -> None:
    many = ",".join(f"mailto:r{number}@example.com" for number in range(100))

    assert len(places([f"v=TLSRPTv1; rua={many}"])) == MAX_PLACES


@given(st.text(max_size=300))
def test_no_record_breaks_the_reader_or_gets_anything_but_a_place_past_it(text: str) -> None:
    for place in places([f"v=TLSRPTv1; rua={text}"]):
        assert str(place).isascii()
        assert str(place).isprintable()
        if isinstance(place, ByMail):
            assert Address.parse(str(place.address)) == place.address
        else:
            assert place.url.lower().startswith("https:")
