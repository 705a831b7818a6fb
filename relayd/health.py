"""Which parts cannot do their work now: told once when that begins, and once when it ends."""

from __future__ import annotations

from collections.abc import Awaitable

from relayd.mail.errors import QueueError
from relayd.mail.events import Degraded, Events, Restored, Trouble


class Health:
    """See the module.  A part is a word for people: `spool`, `leases`, `check_state`."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._degraded: set[str] = set()

    @property
    def degraded(self) -> bool:
        """Whether a part could not do its work when it last tried."""
        return bool(self._degraded)

    @property
    def parts(self) -> frozenset[str]:
        """Which parts could not."""
        return frozenset(self._degraded)

    def is_degraded(self, part: str) -> bool:
        """Whether this part could not."""
        return part in self._degraded

    def failed(self, part: str, error: Exception) -> None:
        """The part could not do its work now; it will try again."""
        if part not in self._degraded:
            self._events(Degraded(part=part, reason=str(error) or repr(error)))
        self._degraded.add(part)

    def works(self, part: str) -> None:
        """The part did its work."""
        if part in self._degraded:
            self._events(Restored(part=part))
        self._degraded.discard(part)

    async def guarded(self, part: str, work: Awaitable[None], about: str = "") -> None:
        """Await `work`; an exception is told and goes no further."""
        try:
            await work
        except QueueError as error:
            self.failed(part, error)
        except Exception as error:
            self._events(Trouble(part=part, detail=f"{about}: {error!r}" if about else repr(error)))
        else:
            self.works(part)
