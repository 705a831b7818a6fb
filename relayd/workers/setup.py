"""What a worker is told at its start, and at a reload: by pickle, since it is ours and comes once."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

from relayd.relay.settings import RelaySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """`bodies` is `<spool>/queue`; `notes` is the worker's own file there, `boot` the first line of it."""

    settings: RelaySettings
    bodies: Path
    notes: Path
    boot: str
    withdrawn: frozenset[str] = frozenset()


def pickled(value: Setup | RelaySettings) -> bytes:
    """Return what `setup_of` or `settings_of` takes."""
    return pickle.dumps(value)


def setup_of(octets: bytes) -> Setup:
    """Undo `pickled`."""
    found = pickle.loads(octets)  # noqa: S301 - written by the daemon that started us
    assert isinstance(found, Setup)
    return found


def settings_of(octets: bytes) -> RelaySettings:
    """Undo `pickled`."""
    found = pickle.loads(octets)  # noqa: S301 - as above
    assert isinstance(found, RelaySettings)
    return found
