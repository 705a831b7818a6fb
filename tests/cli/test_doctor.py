"""`relayd doctor` as a command; what it finds is shown in tests/wire/test_doctor.py and tests/doctor/."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from relayd.cli.doctor import exit_code, line, summary, verdict
from relayd.doctor import examination
from relayd.doctor.finding import Finding, error, information, warning
from tests.cli.situations import CommandLine, messages
from tests.cli.test_queue import as_nobody
from tests.support.process import write_config

SERIOUS = error("body", "1 message has no body: \x1b[2J", "put it back")
BAD = warning("daemon", "no daemon runs", "start it")
FINE = information("site", "it is out of reach", "nothing")


@pytest.mark.parametrize(
    ("findings", "code", "said"),
    [
        ([], 0, "nothing is wrong"),
        ([FINE], 0, "nothing is wrong"),
        ([FINE, BAD], 1, "0 errors, 1 warning"),
        ([SERIOUS, BAD, BAD], 1, "1 error, 2 warnings"),
    ],
)
def test_errors_and_warnings_count_and_information_does_not(findings: list[Finding], code: int, said: str) -> None:
    assert (exit_code(findings), verdict(findings)) == (code, said)


def test_a_finding_is_a_line_without_control_characters() -> None:
    assert line(SERIOUS) == "error: body: 1 message has no body: ?[2J; put it back"


def test_for_programs_a_finding_has_stable_keys() -> None:
    assert summary(BAD) == {
        "what": "daemon",
        "severity": "warning",
        "detail": "no daemon runs",
        "advice": "start it",
    }


def test_a_large_queue_is_announced(relayd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "LARGE", 1000)
    write_config(
        relayd.config,
        {"relay": {"spool": str(relayd.spool)}, "dns": {"nameservers": ["127.0.0.1:1"], "timeout": "200ms"}},
    )
    relayd.queue()

    assert f"relayd: checking {relayd.spool}/queue.db, 0 MiB\n" in relayd("doctor").err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("closed", ["", "queue"])
def test_who_may_not_look_is_told_so(capsys: pytest.CaptureFixture[str], closed: str) -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own are not open to other users
        relayd = CommandLine(Path(directory), capsys)
        settings = {"hostname": "relay.test", "spool": str(relayd.spool)}
        write_config(relayd.config, {"relay": settings, "dns": {"nameservers": ["127.0.0.1:1"], "timeout": "200ms"}})
        relayd.queue(*messages(1))
        (relayd.spool / "queue").mkdir()
        Path(directory).chmod(0o755)
        (relayd.spool / closed).chmod(0o700)

        said = as_nobody(lambda: relayd("doctor"))

    assert said.code == 1
    assert f"{relayd.spool / closed} cannot be looked at; run this as root or as relayd's own user\n" in said.out
