from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.route.world import World
from tests.support.dns import FaultyDns


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with FaultyDns() as dns:
        yield World(dns)
