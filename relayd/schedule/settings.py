"""The limits of the scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """How many relayers, and how much they are given."""

    max_connections: int = 100
    max_connections_per_site: int = 20
    max_messages_per_connection: int = 100
    active_limit: int = 20_000  # deliveries in core, of all relayers together
