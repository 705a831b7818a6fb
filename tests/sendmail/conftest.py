"""The sendmail command on a spool of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sendmail.support import Sendmail


@pytest.fixture
def sendmail(tmp_path: Path) -> Sendmail:
    return Sendmail(tmp_path)
