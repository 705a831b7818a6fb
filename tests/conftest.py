"""What all tests share: where CI is true, a test that was skipped has failed, since there everything is installed."""

from __future__ import annotations

import os
import signal

import hypothesis
import pytest

# How long an example takes says more of the machine than of what is tested; a test has a time limit as a whole.
hypothesis.settings.register_profile("relayd", deadline=None)
hypothesis.settings.load_profile("relayd")

# Who runs in the background, or under nohup(1), ignores these, and so would all that is started here.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)

_SKIPS = pytest.StashKey[list[str]]()


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def _skipped(reporter: pytest.TerminalReporter) -> list[str]:
    reports = reporter.stats.get("skipped", [])
    return [f"{report.nodeid}: {_reason(report)}" for report in reports]


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn skips into a failure in CI: only the process that prints the summary sees them all (xdist)."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not _in_ci() or not isinstance(reporter, pytest.TerminalReporter):
        return
    session.config.stash[_SKIPS] = skips = _skipped(reporter)
    if skips and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed although no test did."""
    if skips := terminalreporter.config.stash.get(_SKIPS, []):
        terminalreporter.section("skipped, and CI allows none", red=True)
        for line in skips:
            terminalreporter.line(line)
