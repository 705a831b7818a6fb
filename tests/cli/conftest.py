"""The command line, with a configuration and no queue yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.situations import CommandLine


@pytest.fixture
def relayd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, capsys)
