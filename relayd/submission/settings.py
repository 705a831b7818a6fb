"""What the submission stage can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

MAX_MESSAGE_SIZE = 50 * 2**20  # octets, as dropped


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionSettings:
    """Where files are dropped, and how their envelopes are completed."""

    hostname: str  # for Received, Message-ID and a missing From; a name or an address literal
    origin: str  # the domain of unqualified addresses; never empty here
    spool: Path
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # for unqualified recipients, in any case
    max_message_size: int = MAX_MESSAGE_SIZE
    trust_producers: bool = False  # files of other owners are moved, not copied
    settle_time: timedelta = timedelta(seconds=2)  # between two equal looks, where nothing better tells
