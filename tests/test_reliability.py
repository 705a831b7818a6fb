"""docs/reliability.md says which test covers which fault: no row is missing, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.parsing import parsed

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
SECTION = "## Which test covers which fault"
LAST = {"A": 13, "S": 8, "H": 25, "F": 14, "D": 16, "P": 18}
EXPECTED = [f"{letter}{number}" for letter, last in LAST.items() for number in range(1, last + 1)]

_ROW = re.compile(r"\| ([A-Z]\d+) \| ([^|]+) \| ([^|]+) \|")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows() -> dict[str, str]:
    """Return the third column of the section's table, by row."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(SECTION)
    found = _ROW.findall(section.partition("\n## ")[0])
    names = [name for name, _, _ in found]
    assert len(set(names)) == len(names)
    return {name: tests for name, _, tests in found}


@cache
def defined_in(file: str) -> frozenset[str]:
    """Return the names of the tests that a file defines, in classes too; none if there is no such file."""
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(parsed(path))
    functions = (node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in functions if name.startswith("test_"))


def test_every_fault_has_its_row_in_order() -> None:
    assert list(rows()) == EXPECTED


@pytest.mark.parametrize("row", EXPECTED)
def test_every_row_names_tests_that_exist_or_says_why_there_is_none(row: str) -> None:
    told = rows()[row]
    if told.startswith("excepted: "):
        return
    named = _TEST.findall(told)
    assert named
    assert _TEST.sub("", told).strip(", ") == ""
    assert [f"{file}::{name}" for file, name in named if name not in defined_in(file)] == []
