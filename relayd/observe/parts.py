"""Which parts cannot do their work now, as the events tell: what the status line, doctor and explain show."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relayd.mail.events import Degraded, Event, Restored


class Parts:
    """An `Events` that remembers.  A part that is degraded is kept until it is told of as restored."""

    def __init__(self) -> None:
        self._degraded: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case Degraded():
                self._degraded[event.part] = event.reason
            case Restored():
                self._degraded.pop(event.part, None)
            case _:
                pass

    @property
    def degraded(self) -> Mapping[str, str]:
        """Return the parts that cannot do their work, each with the reason that was told last."""
        return MappingProxyType(self._degraded)
