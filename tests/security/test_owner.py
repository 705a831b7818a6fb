"""Root in a spool of another user's, who may have put links there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relayd.mail.message import new_id
from tests.submission.support import NOW
from tests.support.process import ROOT, write_config

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

# What is imported late is imported before: it may lie where only root can read.
PROGRAM = """
import asyncio, concurrent.futures.thread, encodings.ascii, encodings.idna, json, os, sys
import relayd.cli.recover, relayd.daemon, relayd.doctor.examination
from relayd.__main__ import run
asyncio.run(asyncio.to_thread(os.getpid))
code = run(sys.argv[1:])
print(code, os.getresuid(), os.getresgid(), os.getgroups())
"""


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A spool of nobody's, who has a body in it that is no message, and a link where its reason is written."""
    spool = tmp_path / "spool"
    queue_id = new_id(NOW, 1)
    (spool / "queue" / queue_id[-2:]).mkdir(parents=True)
    (spool / "rejected").mkdir()
    (spool / "queue" / queue_id[-2:] / queue_id).write_bytes(b"no mail\n")
    (tmp_path / "shadow").write_text("root's own\n")
    (spool / "rejected" / f"{queue_id}.reason.txt").symlink_to(tmp_path / "shadow")
    for path in [spool, *spool.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    for parent in [tmp_path, *tmp_path.parents[:-1]]:
        parent.chmod(parent.stat().st_mode | 0o055)
    write_config(tmp_path / "config.toml", {"relay": {"spool": str(spool), "hostname": "relay.test"}})
    return spool


def told(spool: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", PROGRAM, "--config", str(spool.parent / "config.toml"), *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    return done.stdout + done.stderr


def test_root_recovers_as_the_spools_owner_and_follows_no_link_of_theirs(spool: Path) -> None:
    said = told(spool, "recover")

    assert said.endswith("0 (65534, 65534, 65534) (65534, 65534, 65534) [65534]\n"), said
    assert "1 could not be understood" in said
    shadow = spool.parent / "shadow"
    assert (shadow.read_text(), shadow.stat().st_uid) == ("root's own\n", 0)
    owners = {path.lstat().st_uid for path in spool.rglob("*")}
    assert owners == {65534}
    [reason] = (spool / "rejected").glob("*.reason.txt")
    assert not reason.is_symlink()


def test_root_looks_as_the_spools_owner(spool: Path) -> None:
    told(spool, "recover")

    for arguments in (["queue", "list"], ["explain", "example.org"], ["doctor"]):
        assert "(65534, 65534, 65534) (65534, 65534, 65534) [65534]\n" in told(spool, *arguments), arguments
