"""What the package is made of: manual pages, scripts.  The package itself is tried by `make try-deb`."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relayd.cli.root import COMMANDS
from tests.support.process import ROOT

SCRIPTS = sorted(path for path in (ROOT / "packaging").iterdir() if path.suffix != ".py" and path.is_file())


@pytest.fixture(scope="module")
def man() -> Any:
    spec = importlib.util.spec_from_file_location("man", ROOT / "packaging" / "man.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(man: Any) -> dict[str, str]:
    found: Iterator[tuple[str, str]] = man.pages()
    return dict(found)


def test_every_command_has_a_page_and_every_page_says_what_its_help_does(pages: dict[str, str]) -> None:
    names = {f"relayd-{name}.8" for name in COMMANDS if name != "sendmail"}

    assert set(pages) == {"relayd.8", "relayd-sendmail.1", "relayd.toml.5", *names}
    assert "\\-\\-no\\-transcripts" in pages["relayd-history.8"]
    assert "redirect" in pages["relayd-queue.8"]
    assert "max_messages_per_connection" in pages["relayd.toml.5"]
    assert "hdrs" in pages["relayd-sendmail.1"]


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_no_page_is_misunderstood_by_groff(pages: dict[str, str]) -> None:
    for name, page in pages.items():
        done = subprocess.run(
            ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z"], input=page, capture_output=True, text=True, timeout=60
        )
        assert (name, done.returncode, done.stderr) == (name, 0, "")


def test_what_roff_would_take_for_its_own_is_escaped(man: Any) -> None:
    assert man.escaped(".SH\\ 'x' --y") == "\\&.SH\\e \\(aqx\\(aq \\-\\-y"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.name))
def test_a_script_is_one(script: Path) -> None:
    shell = script.read_text().splitlines()[0].removeprefix("#!")

    assert os.access(script, os.X_OK)
    assert subprocess.run([shell, "-n", str(script)], capture_output=True, timeout=60).stderr == b""
