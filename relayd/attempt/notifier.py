"""Makes the notifications that are owed, each exactly once.

A debt is durable with the outcome that caused it, and is settled in the commit that adds its notification, which has
the debt's own id.  So a crash in between makes it again, as the same one; nothing is made twice or forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from relayd.attempt.health import Health, tell
from relayd.attempt.notification import build, octets_needed
from relayd.attempt.ports import Ledger, Notifications
from relayd.attempt.retry import expires
from relayd.attempt.settings import Bounds, RetrySettings
from relayd.mail.errors import QueueError
from relayd.mail.events import Events, Notified, Trouble
from relayd.mail.settlement import Action, Notice


class Notifier:
    """See the module.  `retry` may be replaced while it runs (a reload)."""

    def __init__(
        self,
        ledger: Ledger,
        notifications: Notifications,
        *,
        hostname: str,
        retry: RetrySettings,
        events: Events,
        bounds: Bounds,
    ) -> None:
        self.retry = retry
        self.hostname = hostname
        self._ledger = ledger
        self._notifications = notifications
        self._events = events
        self._bounds = bounds
        self._health = Health("notifications", events)
        self._owed = asyncio.Event()
        self._closing = asyncio.Event()
        self._working = False
        self._misses: dict[str, int] = {}  # how often an original could not be read, by notice
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a notification may still be owed."""
        return self._working or self._owed.is_set()

    def start(self) -> None:
        """Make what an earlier start left owed, then what falls owed."""
        self._owed.set()
        self._task = asyncio.create_task(self._run(), name="notifier")

    def wake(self) -> None:
        """Something is owed."""
        self._owed.set()

    async def close(self, grace: timedelta) -> None:
        """Finish the notifications in hand, for at most `grace`; what is still owed is made at the next start."""
        if self._task is None:
            return
        self._closing.set()
        self._owed.set()
        await asyncio.wait([self._task], timeout=grace.total_seconds())
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._closing.is_set():
            await self._owed.wait()
            self._working = True
            self._owed.clear()
            await self._make_all()
            self._working = False

    async def _make_all(self) -> None:
        pause = self._bounds.offer_again
        while not self._closing.is_set():
            owed, made = await self._round()
            if made == owed:
                self._health.works()
                pause = self._bounds.offer_again
                if not owed:
                    return
                continue
            await self._rest(pause)
            pause = min(pause * 2, self._bounds.offer_again_max)

    async def _rest(self, pause: timedelta) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause.total_seconds())

    async def _round(self) -> tuple[int, int]:
        """Make the oldest that are owed.  Return how many were read and how many of them were made; (1, 0) if the
        debts could not be read."""
        try:
            notices = await self._ledger.notices(self._bounds.notices)
        except Exception as error:  # whatever it is, bounces must not stop for good
            self._health.failed(error)
            return 1, 0
        return len(notices), await self._make_some(notices)

    async def _make_some(self, notices: Sequence[Notice]) -> int:
        """Make some at a time, so that they share the waits for the disk."""
        made, at_once = 0, self._bounds.notices_at_once
        for start in range(0, len(notices), at_once):
            if self._closing.is_set():
                break
            made += sum(await asyncio.gather(*map(self._made, notices[start : start + at_once])))
        return made

    async def _made(self, notice: Notice) -> bool:
        try:
            await self._make(notice)
        except (QueueError, OSError) as error:
            self._health.failed(error)
            return False
        except Exception as error:  # one that cannot be made must not stop the others
            detail = f"{notice.id} about {notice.message_id} cannot be made: {error!r}"
            tell(self._events, Trouble(part="notifications", detail=detail))
            return False
        self._misses.pop(notice.id, None)
        return True

    async def _make(self, notice: Notice) -> None:
        if notice.action is Action.DELAYED:
            waiting = tuple(recipient for recipient in notice.recipients if not recipient.status.final)
            if not waiting:  # it went through before we could say that it waits
                await self._ledger.drop_notice(notice.id)
                return
            notice = replace(notice, recipients=waiting)
        original = await self._original(notice)
        message, content = build(notice, original, hostname=self.hostname, retried_until=self._until(notice))
        await self._notifications.add_notification(message, content)
        count = len(notice.recipients)
        event = Notified(id=notice.id, action=notice.action, message_id=notice.message_id, recipients=count)
        tell(self._events, event)

    def _until(self, notice: Notice) -> datetime:
        return expires(self.retry, notice.arrived, notice.deadline)

    async def _original(self, notice: Notice) -> bytes:
        try:
            return await self._notifications.read_original(notice.message_id, octets_needed(notice))
        except FileNotFoundError:
            return b""
        except (QueueError, OSError):
            misses = self._misses.get(notice.id, 0) + 1
            self._misses[notice.id] = misses
            if misses >= self._bounds.unreadable:
                return b""  # to be told without it is better than not to be told
            raise
