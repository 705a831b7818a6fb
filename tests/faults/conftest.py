"""What the tests of faults share: a world with one exchanger, and small disks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.disks import SmallDisk, small_disk
from tests.support.world import Exchanger, World


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world; see `tests.support.world.with_and_without_workers` for its parameter."""
    with World(tmp_path, processes=getattr(request, "param", 0)) as built:
        yield built


@pytest.fixture
def mx(world: World) -> Exchanger:
    """Who takes the mail for example.test, and for sender.test."""
    exchanger = world.exchanger("mx.example.test")
    world.domain("example.test", exchanger)
    world.domain("sender.test", exchanger)
    return exchanger


@pytest.fixture
def disk(world: World) -> Iterator[SmallDisk]:
    """A file system of 64 MiB under the spool."""
    with small_disk(world.spool) as disk:
        yield disk
