"""P18: a configuration that cannot work ends the start at once, with the key or the path and the reason, and changes
nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT

AS_NOBODY = """
import os, pathlib, sys
from relayd.spool.directories import make_directories  # while its files can be read, wherever they are
os.setgroups([]), os.setgid(65534), os.setuid(65534)
make_directories(pathlib.Path(sys.argv[1]))
"""


def start(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Start the daemon with this configuration, and await its end."""
    config = directory / "config.toml"
    config.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "relayd", "--config", str(config), "--once"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def with_spool(path: Path | str) -> str:
    return f'[relay]\nhostname = "relay.example.org"\nspool = "{path}"\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[relay]\nmax_conections = 5\n", "config.toml:2: relay.max_conections: no such setting; max_connections?"),
        ("[relay]\nport = true\n", "config.toml:2: relay.port: should be a valid integer"),
        (with_spool("/"), "config.toml:3: relay.spool: the root directory cannot be a spool"),
        ("[relay\n", "config.toml: Expected "),
    ],
    ids=["unknown key", "wrong type", "the root directory", "no TOML"],
)
def test_a_mistake_ends_the_start_with_its_key(tmp_path: Path, text: str, reason: str) -> None:
    ended = start(tmp_path, text)

    assert ended.returncode == 78
    assert reason in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]


def test_a_spool_inside_another_is_refused(tmp_path: Path) -> None:
    """The one would take the other's bodies for files that were dropped."""
    assert start(tmp_path, with_spool(tmp_path / "spool")).returncode == 0
    before = sorted(tmp_path.rglob("*"))

    for inner in ("queue", "queue/incoming", "new", "sub/directory"):
        ended = start(tmp_path, with_spool(tmp_path / "spool" / inner))
        assert ended.returncode == 78
        assert f"config.toml:3: relay.spool: {tmp_path}/spool/{inner} is inside another spool, " in ended.stderr
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run as another user")
def test_a_spool_that_its_user_may_not_write_in_is_refused_with_the_path_and_the_user(tmp_path: Path) -> None:
    for directory in (tmp_path, *list(tmp_path.parents)[:-2]):
        directory.chmod(directory.stat().st_mode | 0o011)
    (tmp_path / "spool").mkdir(mode=0o755)

    ended = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(tmp_path / "spool")], cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 1
    assert f"OSError: the spool {tmp_path}/spool cannot be used as user nobody: " in ended.stderr
    assert f"Permission denied: '{tmp_path}/spool/new'" in ended.stderr
    assert not list((tmp_path / "spool").iterdir())


def test_a_spool_that_is_a_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a letter")

    ended = start(tmp_path, with_spool(tmp_path / "spool"))

    assert ended.returncode == 71
    assert f"the spool {tmp_path}/spool cannot be used as user " in ended.stderr
    assert (tmp_path / "spool").read_text() == "a letter"
