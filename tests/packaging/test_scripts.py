"""The package's maintainer scripts, run as dpkg does, but in a place of their own.

Calls of systemd's programs are noted, not done; what systemd itself makes of them is seen by `make try-deb`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.process import ROOT

CALLED = ["deb-systemd-helper", "deb-systemd-invoke", "systemctl", "systemd-sysusers", "systemd-tmpfiles", "relayd"]


class Machine:
    """A spool, a directory for the configuration, and programs that note how they are called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spool = root / "spool"
        self.calls = root / "calls"
        self.refusing = root / "refusing"
        (root / "bin").mkdir()
        (root / "systemd").mkdir()
        self.calls.touch()
        self.refusing.touch()
        for name in CALLED:
            program = root / "bin" / name
            program.write_text(
                f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n! grep -qxF -- "{name} $*" {self.refusing}\n'
            )
            program.chmod(0o755)

    def run(self, script: str, *words: str) -> str:
        """Run a maintainer script; return what it complained of."""
        text = (ROOT / "packaging" / script).read_text()
        for path, ours in (
            ("/var/spool/relayd", self.spool),
            ("/etc/relayd", self.root / "etc"),
            ("/run/systemd/system", self.root / "systemd"),
        ):
            text = text.replace(path, str(ours))
        done = subprocess.run(
            ["sh", "-c", text, script, *words],
            env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stderr

    def called(self) -> list[str]:
        """Return the calls so far, of what changes something."""
        return [line for line in self.calls.read_text().splitlines() if "quiet" not in line]

    def fill(self) -> None:
        """Make a spool as a daemon leaves it that has nothing to do."""
        for name in ("new", "tmp", "cur", "rejected", "mta-sts", "queue/ab", "queue/incoming"):
            (self.spool / name).mkdir(parents=True)
        own = ("queue.db", "queue.db-wal", "queue.db.damaged-20261127", "tlsrpt.db", "lock", "keys", "control")
        for name in (*own, "mta-sts/example.org", "queue/notes.1.0"):
            (self.spool / name).touch()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_purging_removes_a_spool_without_mail(machine: Machine) -> None:
    machine.fill()
    (machine.spool / "queue" / "ab" / ".01M8ES7EV4372XADT8ab").touch()  # half made

    assert machine.run("postrm", "purge") == ""
    assert not machine.spool.exists()


@pytest.mark.parametrize(
    "name",
    [
        "new/x",
        "new/notes.eml",
        "new/.hidden",
        "tmp/half",
        "cur/x:2,S",
        "x.eml",
        "lock.eml",
        "queue.db.eml",
        "queue/ab/01M8ES7EV4372XADT8ab",
        "queue/incoming/01M8ES7EV4372XADT8ab.orig",
        "rejected/x.eml.reason.txt",
        "what is this",
    ],
)
def test_purging_keeps_a_spool_with_anything_that_may_be_mail(machine: Machine, name: str) -> None:
    machine.fill()
    (machine.spool / name).write_text("From: ann@example.org\n")
    before = sorted(machine.spool.rglob("*"))

    assert "there is mail" in machine.run("postrm", "purge")
    assert sorted(machine.spool.rglob("*")) == before


def test_purging_empties_a_spool_that_is_elsewhere_by_a_link(machine: Machine, tmp_path: Path) -> None:
    machine.fill()
    elsewhere = machine.spool.rename(tmp_path / "elsewhere")
    machine.spool.symlink_to(elsewhere)
    (elsewhere / "x.eml").touch()

    assert "there is mail" in machine.run("postrm", "purge")

    (elsewhere / "x.eml").unlink()
    machine.run("postrm", "purge")

    assert not list(elsewhere.glob("*"))


def test_removing_and_upgrading_keep_the_spool_as_it_is(machine: Machine) -> None:
    machine.fill()
    before = sorted(machine.spool.rglob("*"))

    machine.run("postrm", "remove")
    machine.run("postrm", "upgrade", "2")

    assert sorted(machine.spool.rglob("*")) == before


@pytest.mark.parametrize("why", [("configure", ""), ("configure", "0.1"), ("abort-upgrade", "0.2")])
def test_it_is_started_when_it_is_installed_and_when_an_upgrade_was_broken_off(
    machine: Machine, why: tuple[str, str]
) -> None:
    machine.run("postinst", *why)

    assert "deb-systemd-helper enable relayd.service" in machine.called()
    assert machine.called()[-1] == "deb-systemd-invoke start relayd.service"


def test_one_that_an_operator_has_disabled_stays_so(machine: Machine) -> None:
    machine.refusing.write_text("deb-systemd-helper --quiet was-enabled relayd.service\n")

    machine.run("postinst", "configure", "0.1")

    assert "deb-systemd-helper enable relayd.service" not in machine.called()


def test_a_mistake_in_the_configuration_does_not_break_the_installation(machine: Machine) -> None:
    machine.refusing.write_text(f"relayd --config {machine.root}/etc/config.toml check-config\n")

    assert "relayd: mend " in machine.run("postinst", "configure")


def test_the_operators_own_modes_of_the_drop_directory_go_before_ours(machine: Machine) -> None:
    machine.run("postinst", "configure", "0.1")

    assert "systemd-tmpfiles --create relayd.conf" in machine.called()


@pytest.mark.parametrize("why", [("remove",), ("upgrade", "0.2")])
def test_it_is_stopped_before_its_files_go(machine: Machine, why: tuple[str, ...]) -> None:
    machine.run("prerm", *why)

    assert machine.called() == ["deb-systemd-invoke stop relayd.service"]


def test_without_systemd_nothing_is_started_or_stopped(machine: Machine) -> None:
    (machine.root / "systemd").rmdir()

    machine.run("postinst", "configure", "")
    machine.run("prerm", "remove")

    assert not [call for call in machine.called() if call.startswith(("deb-systemd-invoke", "systemctl"))]
