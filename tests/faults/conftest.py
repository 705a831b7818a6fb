"""The same world as for the wire tests."""

from __future__ import annotations

from tests.wire.conftest import world

__all__ = ["world"]
