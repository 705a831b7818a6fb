"""The world that the daemon's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.world import World


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world; see `tests.support.world.with_and_without_workers` for its parameter."""
    with World(tmp_path, processes=getattr(request, "param", 0)) as built:
        yield built
