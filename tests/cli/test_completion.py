"""`relayd completion`: what real shells offer at the end of a command line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relayd.cli.root import COMMANDS
from tests.support.process import ROOT

Offered = Callable[[str], list[str]]

BASH = """
source "$1"
eval "COMP_WORDS=($2)"  # as a user types them; an empty one at the end is ''
COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
_relayd
printf '%s\\n' "${COMPREPLY[@]}"
"""
ROUTES = """
[[route]]
name = "provider"
match = ["*"]
  [[route]]
  match = []
  name = "two words; $(touch owned)"
[[site]]
name = "no route"
"""


def printed(shell: str) -> str:
    words = [sys.executable, "-m", "relayd", "--config", "/nowhere/config.toml", "completion", shell]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script for bash."""
    made = tmp_path_factory.mktemp("completion") / "relayd"
    made.write_text(printed("bash"))
    return made


@pytest.fixture
def offered(script: Path, tmp_path: Path) -> Offered:
    """What bash offers, with nothing in its path but awk: no relayd is started."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "awk").symlink_to(str(shutil.which("awk")))

    def complete(line: str) -> list[str]:
        environment = {"PATH": str(programs), "RELAYD_CONFIG": str(tmp_path / "config.toml")}
        words = [str(shutil.which("bash")), "-c", BASH, "bash", str(script), line]
        done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return done.stdout.splitlines()

    return complete


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("relayd ex", ["explain"]),
        ("relayd --on", ["--once"]),
        ("relayd --config /x.toml queue re", ["release", "retry", "redirect", "remove"]),
        ("relayd history --no", ["--no-transcripts"]),
        ("relayd queue list --status ''", ["queued", "deferred", "in-flight", "held"]),
        ("relayd queue list --status = d", ["deferred"]),
        ("relayd queue list --status held --js", ["--json"]),
        ("relayd queue list --domain ''", [""]),
        ("relayd queue list --watch --js", ["--json"]),
        ("relayd queue show 01M8ES7EV4372XADT812 --j", ["--json"]),
        ("relayd completion ''", ["bash", "zsh", "fish", "-h", "--help"]),
        ("relayd sendmail -R ''", ["full", "hdrs"]),
        ("relayd sendmail --k", ["--key"]),
        ("relayd nothing", [""]),
    ],
)
def test_bash_offers(offered: Offered, line: str, words: list[str]) -> None:
    assert sorted(offered(line)) == sorted(words)


def test_bash_offers_every_command(offered: Offered) -> None:
    assert set(COMMANDS) < set(offered("relayd ''"))


def test_names_of_routes_are_offered_and_not_run(offered: Offered, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(ROUTES)

    assert offered("relayd queue redirect --route ''") == ["provider", r"two\ words\;\ \$\(touch\ owned\)"]
    assert not (tmp_path / "owned").exists()


def test_without_a_configuration_there_are_no_names_of_routes(offered: Offered) -> None:
    assert offered("relayd queue redirect --route ''") == [""]


def test_a_configuration_that_is_named_on_the_line_is_the_one_that_counts(offered: Offered, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(ROUTES)

    assert offered(f"relayd --config {tmp_path}/other.toml queue redirect --route p") == ["provider"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_others_know_the_same_words(shell: str) -> None:
    script = printed(shell)

    assert all(f":{command}" in script for command in COMMANDS)
    assert "printf '%s\\n' queued deferred held in-flight" in script
    assert "@" not in script.replace("$@", "").replace("(@", "")
