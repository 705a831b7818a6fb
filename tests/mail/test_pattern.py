"""Patterns of domains: how they are written, and what they match."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.pattern import matches, parse_pattern

DOMAINS = st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,3}", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*", "*"),
        ("Example.NET", "example.net"),
        ("*.Example.NET.", "*.example.net"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
    ],
)
def test_patterns_have_one_form(text: str, pattern: str) -> None:
    assert parse_pattern(text) == pattern


@pytest.mark.parametrize("text", ["", "**", "*example.net", "a.*.net", "user@example.net", "192.0.2.1", "a b"])
def test_what_is_no_pattern_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="a pattern is"):
        parse_pattern(text)


@pytest.mark.parametrize(
    ("pattern", "destination", "expected"),
    [
        ("example.net", "example.net", True),
        ("example.net", "a.example.net", False),
        ("example.net", "anexample.net", False),
        ("*.example.net", "example.net", False),
        ("*.example.net", "a.example.net", True),
        ("*.example.net", "a.b.c.example.net", True),
        ("*.example.net", "anexample.net", False),
        ("*.example.net", ".example.net", False),
        ("*", "anything.example", True),
        ("*", "[192.0.2.1]", True),
        ("[192.0.2.1]", "[192.0.2.1]", True),
    ],
)
def test_a_pattern_matches_the_domain_or_its_subdomains(pattern: str, destination: str, expected: bool) -> None:
    assert matches(pattern, destination) is expected


@given(DOMAINS, DOMAINS)
def test_a_star_is_for_every_subdomain_and_nothing_else(sub: str, domain: str) -> None:
    assert matches(f"*.{domain}", f"{sub}.{domain}")
    assert not matches(f"*.{domain}", f"{sub}{domain}")
    assert not matches(f"*.{domain}", domain)
