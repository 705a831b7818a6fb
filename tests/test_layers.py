"""The architecture, as a test: who may import whom, what is pure, and how every module opens.

Read from the syntax trees, so that an import inside a function or under TYPE_CHECKING counts as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.parsing import parsed

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "relayd"
STAGES = ("submission", "spool", "schedule", "route", "relay", "attempt", "observe", "tokens", "report", "web")
TOP = {
    "config",
    "credentials",
    "toml_tables",
    "sections",
    "settings",
    "daemon",
    "routing",
    "cli",
    "demo",
    "desk",
    "view",
    "doctor",
    "sendmail",
    "__main__",
}  # they may import everything, and only they one another
LEAVES = ("ports", "control", "supervisor", "allocator", "https")  # the daemon's own small parts
ONLY_IN_ONE_FILE = {
    "dnspython": {"dns"},
    "aiosmtplib": {"aiosmtplib"},
    "SQLite": {"sqlite3", "aiosqlite"},
    "prometheus-client": {"prometheus_client"},
    "aiohttp, as a client": {"aiohttp", "yarl"},
}

# No clock, no chance: `now`, `jitter` and `shuffle` are arguments.  mail/message.py alone draws the chance of an id.
PURE = (
    "explanation.py",
    "mail/*.py",
    "observe/values.py",
    "observe/vitals.py",
    "web/admission.py",
    "web/settings.py",
    "submission/envelope.py",
    "submission/examine.py",
    "submission/facts.py",
    "sendmail/arguments.py",
    "sendmail/content.py",
    "sendmail/envelope.py",
    "sendmail/qualifying.py",
    "submission/header.py",
    "submission/key.py",
    "submission/mailboxes.py",
    "submission/parameters.py",
    "submission/prepare.py",
    "schedule/*.py",
    "route/mx.py",
    "route/smart_host.py",
    "route/sts.py",
    "route/targets.py",
    "relay/capabilities.py",
    "relay/certificate.py",
    "relay/commands.py",
    "relay/content.py",
    "relay/dane.py",
    "relay/engine.py",
    "relay/issuers.py",
    "relay/opening.py",
    "relay/replies.py",
    "relay/requirements.py",
    "relay/transaction.py",
    "attempt/notification.py",
    "attempt/parts.py",
    "attempt/retry.py",
    "attempt/settle.py",
    "tokens/exchange.py",
    "tokens/token.py",
    "report/counting.py",
    "report/document.py",
    "report/gathering.py",
    "report/mail.py",
    "report/record.py",
    "report/times.py",
)
IMPURE_MODULES = {"time", "random", "socket", "asyncio", "os", "subprocess", "aiofiles"}
IMPURE_CALLS = {"now", "utcnow", "today", "open"}

WORDS = (
    *("message", "body", "envelope", "recipient", "destination", "site", "delivery", "relayer"),
    *("reply", "outcome", "attempt", "notification"),
)

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@cache
def tree(module: str) -> ast.Module:
    return parsed(PACKAGE / module)


def imports_of(module: str) -> Iterator[str]:
    """Yield the full names of what `module` imports, relative imports resolved."""
    inside = ("relayd", *Path(module).parts[:-1])
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            origin = ".".join(part for part in (start, node.module) if part)
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def parts_used(module: str) -> set[str]:
    """Return the parts of relayd (a stage, `mail`, `daemon`, ...) that `module` imports."""
    names = (name.split(".") for name in imports_of(module))
    return {name[1] for name in names if name[0] == "relayd" and len(name) > 1} - {"__version__"}


def part_of(module: str) -> str:
    return Path(module).parts[0].removesuffix(".py")


def pure_modules() -> list[str]:
    return sorted({module for pattern in PURE for module in _matching(pattern)})


def _matching(pattern: str) -> list[str]:
    return [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.glob(pattern) if path.name != "__init__.py"]


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) == "mail"])
def test_the_nouns_import_nothing_else_of_relayd(module: str) -> None:
    assert parts_used(module) <= {"mail"}


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in STAGES])
def test_a_stage_imports_only_the_nouns_and_itself(module: str) -> None:
    assert parts_used(module) <= {"mail", part_of(module)}


def test_every_stage_is_there() -> None:
    assert {part_of(module) for module in MODULES} >= set(STAGES)


def test_the_manager_does_not_know_who_builds_it() -> None:
    assert not parts_used("manager.py") & TOP


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in TOP])
def test_only_the_top_imports_the_top(module: str) -> None:
    assert not parts_used(module) & (TOP | ({"manager"} if part_of(module) != "manager" else set()))


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_daemons_small_parts_import_only_the_nouns(leaf: str) -> None:
    assert parts_used(f"{leaf}.py") <= {"mail"}


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) in ("workers", "relayers")])
def test_workers_and_their_pool_know_relaying_and_the_spools_files_and_nothing_else(module: str) -> None:
    assert parts_used(module) <= {"mail", "relay", "spool", "relayers", "workers", "health", "allocator"}
    assert {name.split(".")[2] for name in imports_of(module) if name.startswith("relayd.spool.")} <= {
        "bodies",
        "notes",
    }


def test_config_does_not_import_the_daemon() -> None:
    assert not parts_used("config.py") & {"daemon", "cli", "manager", "demo"}


@pytest.mark.parametrize("library", ONLY_IN_ONE_FILE)
def test_a_library_that_may_change_is_imported_in_one_file(library: str) -> None:
    packages = ONLY_IN_ONE_FILE[library]

    importers = [
        module
        for module in MODULES
        if part_of(module) not in ("demo", "web") and any(name.split(".")[0] in packages for name in imports_of(module))
    ]

    assert len(importers) == 1, importers


@pytest.mark.parametrize("pattern", PURE)
def test_every_listed_pure_module_exists(pattern: str) -> None:
    assert _matching(pattern)


@pytest.mark.parametrize("module", pure_modules())
def test_a_pure_module_has_no_clock_no_chance_and_no_input(module: str) -> None:
    imported = {name.split(".")[0] for name in imports_of(module)}
    called = {
        node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name)
    }

    assert not imported & IMPURE_MODULES
    assert not called & IMPURE_CALLS


@pytest.mark.parametrize("module", MODULES)
def test_a_module_opens_with_its_purpose(module: str) -> None:
    assert ast.get_docstring(tree(module))


@pytest.mark.parametrize("module", [m for m in MODULES if m.endswith("__init__.py") and m != "__init__.py"])
def test_a_package_file_holds_its_docstring_and_nothing_else(module: str) -> None:
    assert len(tree(module).body) == 1


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_left_to_do(module: str) -> None:
    text = (PACKAGE / module).read_text(encoding="utf-8")

    assert not [mark for mark in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "Not" + "ImplementedError") if mark in text]


@pytest.mark.parametrize("part", ["mail", *STAGES, "workers", "manager", "daemon", "config", "cli"])
def test_the_architecture_page_names_every_part(part: str) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")

    assert f"`{part}" in page


@pytest.mark.parametrize("word", WORDS)
def test_the_glossary_carries_every_word_of_the_field(word: str) -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")

    assert f"**{word}**" in page


def test_every_test_and_file_that_the_heritage_page_names_exists() -> None:
    page = (ROOT / "docs" / "heritage.md").read_text(encoding="utf-8")
    tests = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page)
    files = re.findall(r"`(relayd/[\w/.]+)`", page)

    missing = [path for path in files if not (ROOT / path).exists()]
    for path, name in tests:
        text = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).exists() else ""
        if not text or (name and f"def {name}(" not in text):
            missing.append(f"{path}::{name}")

    assert missing == []


def test_every_member_on_the_heritage_page_names_the_test_that_shows_it() -> None:
    page = (ROOT / "docs" / "heritage.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]

    assert len(rows) >= 20
    assert [row[0] for row in rows if not re.fullmatch(r"`tests/[\w/]+\.py::\w+` \|", row[-1])] == []
