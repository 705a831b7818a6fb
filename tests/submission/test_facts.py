"""The facts of a body's octets."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.submission.facts import MAX_LINE, Facts

_OCTETS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"text", b"\0", b"\xfc", b"x" * 500, b"y" * 998]), max_size=30
).map(b"".join)


def facts_of(*chunks: bytes) -> tuple[int, bool, bool, bool, bool]:
    facts = Facts()
    for chunk in chunks:
        facts.feed(chunk)
    return facts.wire_size, facts.canonical, facts.eight_bit, facts.nul, facts.long_lines


@given(_OCTETS, st.lists(st.integers(0, 20_000), max_size=8))
def test_facts_do_not_depend_on_the_chunks(octets: bytes, places: list[int]) -> None:
    edges = [0, *sorted(min(place, len(octets)) for place in places), len(octets)]
    chunks = [octets[start:end] for start, end in pairwise(edges)]

    assert facts_of(*chunks) == facts_of(octets)


@given(_OCTETS)
def test_the_wire_size_is_that_of_the_canonical_form(octets: bytes) -> None:
    lines = re.split(rb"\r\n|\r|\n", octets)
    if not lines[-1]:
        lines.pop()
    canonical = b"".join(line + b"\r\n" for line in lines)

    wire_size, is_canonical, _, _, long_lines = facts_of(octets)

    assert wire_size == len(canonical)
    assert is_canonical == (octets == canonical)
    assert long_lines == any(len(line) > MAX_LINE for line in lines)


@pytest.mark.parametrize(("length", "expected"), [(998, False), (999, True)])
def test_a_line_is_long_from_999_octets_on(length: int, expected: bool) -> None:
    assert facts_of(b"x" * length + b"\r\n")[4] is expected
    assert facts_of(b"x" * 500, b"x" * (length - 500), b"\r", b"\n")[4] is expected
