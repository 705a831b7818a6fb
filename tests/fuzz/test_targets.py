"""Each target for a moment: what `make fuzz` does for as long as it is told.

A failure prints its octets; `print_blob` prints what repeats it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import TARGETS

EXAMPLES = {"control": 40, "recovery": 60, "replies": 30, "configurations": 100}
CALM = [HealthCheck.too_slow, HealthCheck.data_too_large]


def octets_of(words: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Return octets that a target's choices often make words of: pairs of a yes and which word, and others."""
    chosen = st.tuples(st.just(b"\x01"), st.integers(0, max(len(words) - 1, 0)).map(lambda n: bytes([n % 256])))
    return st.lists(st.one_of(chosen.map(b"".join), st.binary(max_size=12)), max_size=24).map(b"".join)


@pytest.mark.parametrize("name", TARGETS)
def test_no_octets_break_what_a_target_claims(name: str) -> None:
    target: Any = importlib.import_module(f"tests.fuzz.{name}")
    one: Callable[[bytes], None] = target.one

    @settings(max_examples=EXAMPLES.get(name, 150), deadline=None, print_blob=True, suppress_health_check=CALM)
    @given(octets_of(target.WORDS))
    def holds(octets: bytes) -> None:
        one(octets)

    holds()
