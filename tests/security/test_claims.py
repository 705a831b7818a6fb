"""docs/security.md: every test that it names exists, and every claim of what somebody cannot do names one."""

from __future__ import annotations

import re
from pathlib import Path

from tests.test_reliability import defined_in

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_is_named_exists() -> None:
    assert [f"{file}::{name}" for file, name in NAMED.findall(PAGE) if name not in defined_in(file)] == []


def test_every_claim_names_a_test_or_is_called_a_limit() -> None:
    rows = [line for line in PAGE.splitlines() if re.match(r"\| (?:cannot|can|with)\b", line)]

    assert len(rows) > 25
    assert [row for row in rows if not NAMED.search(row) and "**Limit**" not in row] == []
