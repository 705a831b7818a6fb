"""Whether a part does its work: told when that changes, not each time it is seen."""

from __future__ import annotations

from contextlib import suppress

from relayd.mail.events import Degraded, Event, Events, Restored


def tell(events: Events, event: Event) -> None:
    """Tell an event.  Who listens decides nothing: if it fails, what happens to mail must stay as it is."""
    with suppress(Exception):
        events(event)


class Health:
    """Of one part, named as the log names it."""

    def __init__(self, part: str, events: Events) -> None:
        self._part = part
        self._events = events
        self.reason = ""  # empty: it works

    def failed(self, error: Exception) -> None:
        """It cannot do its work now."""
        was, self.reason = self.reason, f"{error}" or type(error).__name__
        if not was:
            tell(self._events, Degraded(part=self._part, reason=self.reason))

    def works(self) -> None:
        """It did its work."""
        if self.reason:
            self.reason = ""
            tell(self._events, Restored(part=self._part))
