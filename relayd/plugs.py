"""What one stage needs of the queue, in the words of the one that needs it: `daemon.py` plugs these in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relayd.mail.message import Message
from relayd.route.answers import Found, NoData, NoName, Resolver, Unavailable
from relayd.route.router import Router
from relayd.spool.queue import Queue
from relayd.spool.spool import Spool


class LedgerPort:
    """The queue, as the attempt stage sees it."""

    def __init__(self, queue: Queue) -> None:
        self.settle = queue.settle
        self.clock_was_set = queue.clock_was_set
        self.notices = queue.notices
        self.drop_notice = queue.drop_notice
        self.warn = queue.warn
        self.expire = queue.expire
        self.back_off = queue.back_off


class NotificationsPort:
    """The spool, as the attempt stage sees it."""

    def __init__(self, spool: Spool, added: Callable[[Message], None]) -> None:
        self.read_original = spool.read_original
        self._spool = spool
        self._added = added

    async def add_notification(self, message: Message, content: bytes) -> None:
        await self._spool.add_notification(message, content)
        self._added(message)


class PostPort:
    """The spool, as the reports see it."""

    def __init__(self, spool: Spool, added: Callable[[Message], None]) -> None:
        self._spool = spool
        self._added = added

    async def queue(self, message: Message, content: bytes) -> None:
        if not await self._spool.queue.known([message.id]):
            await self._spool.add_notification(message, content)
            self._added(message)


class TextsPort:
    """The resolver, as the reports see it."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def texts(self, name: str) -> Sequence[str] | None:
        match await self._resolver.texts(name):
            case Found(records):
                return records
            case NoName() | NoData():
                return ()
            case Unavailable():
                return None


class NamesPort:
    """The router, as HTTPS sees it.  `router` returns it: it is built later."""

    def __init__(self, router: Callable[[], Router]) -> None:
        self._router = router

    async def addresses(self, name: str, *, configured: bool) -> Sequence[str]:
        found = await self._router().reach(name, configured=configured)
        if isinstance(found, tuple):
            return found
        raise OSError(found.reason)
