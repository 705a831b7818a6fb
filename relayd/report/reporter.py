"""Counts sessions, and once a day reports to the domains that ask for it (RFC 8460).

The story of a day: sessions gather in memory, and are written down each minute; after its end a time is drawn for each
domain, within four hours; then the domain's record is asked for, and its report made, or what was counted dropped; a
report that was made is durable with all the places it is to go to, and is handed over to each: to the queue, or by
POST.  What the reader must not break:

    A report is made from a day once, in the commit that ends the count of that day and domain.
    What is handed over is the same octets each time, under the same report-id, and by mail under the same queue id: so
    a crash between the queue and the note of it makes no second mail.  One, or a stop, between a server's answer to a
    POST and the note of it makes a second POST; its receiver can tell by the report-id.
    Nothing here keeps mail waiting: sessions are counted without a wait, and all else goes on beside.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from relayd.mail.events import Events, TlsReported, Trouble, Warned
from relayd.mail.https import HttpsError
from relayd.mail.report import Counted, Owed
from relayd.mail.tls import TlsSession
from relayd.report import times
from relayd.report.document import MEDIA_TYPE
from relayd.report.gathering import Gathering, changes
from relayd.report.mail import message_of
from relayd.report.making import make
from relayd.report.ports import Https, Post, Store, StsLines, Texts
from relayd.report.record import PREFIX, ByMail, Place, places
from relayd.report.settings import ReportSettings

PART = "tls-reports"  # in events
WRITE = timedelta(minutes=1)  # so much may be lost of what was counted, by a crash
AT_ONCE = 10  # look-ups and hand-overs at the same time
HTTPS_TIMEOUT = timedelta(seconds=60)
HTTPS_LIMIT = 64 * 1024  # octets of an answer, which nobody reads
UNSIGNED = (
    "reports by mail go out unsigned, and whoever gets one has to ignore it (RFC 8460 section 3) unless the host that "
    "they are sent by signs them: set tls.report.dkim_key_file and dkim_selector"
)


class Reporter:
    """See the module.  `settings` None: nothing is counted, nor reported.  `jitter` draws a number from 0.0 to 1.0.

    `round` is to be called every few seconds, one call at a time.
    """

    def __init__(
        self,
        settings: ReportSettings | None,
        *,
        store: Store,
        texts: Texts,
        post: Post,
        https: Https,
        sts_lines: StsLines,
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
        events: Events,
    ) -> None:
        self._settings = settings
        self._store = store
        self._texts = texts
        self._post = post
        self._https = https
        self._clock = clock
        self._jitter = jitter
        self._events = events
        self._gathering = Gathering(sts_lines)
        self._written: datetime | None = None  # when that was tried last
        self._planned: date | None = None  # all days before have their times
        self._sending: asyncio.Task[None] | None = None
        self._warned = False

    def reload(self, settings: ReportSettings | None) -> None:
        """Use other settings from now on."""
        self._settings = settings

    def session(self, session: TlsSession) -> None:
        """Count a session.  Does not block."""
        if self._settings is not None:
            self._gathering.session(session, self._clock())

    async def close(self) -> None:
        """Give up what is being handed over, write down what was counted, and let go of the store.

        Raises:
            QueueError: what was counted since the last round is lost.
        """
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.wait([self._sending])
        try:
            await self._write_down()
        finally:
            await self._store.close()

    async def round(self) -> None:
        """Do what is due: write down, plan, and begin to send, which goes on beside.

        Raises:
            QueueError: the store or the queue cannot be used now; it is tried again in the next round.
        """
        self._raise_of_sending()
        now = self._clock()
        new_day = now.date() != self._planned
        if new_day or self._written is None or not self._written <= now < self._written + WRITE:
            self._written = now
            await self._write_down()
        if self._settings is None:
            return
        if new_day:
            await self._plan(now)
        due = await self._store.next_due()
        if self._sending is None and due is not None and due <= now:
            self._sending = asyncio.create_task(self._send(self._settings), name=PART)

    async def sent(self) -> None:
        """Wait for the end of what the last round began.

        Raises:
            QueueError: as `round`.
        """
        if self._sending is not None:
            await asyncio.wait([self._sending])
            self._raise_of_sending()

    def _raise_of_sending(self) -> None:
        if self._sending is not None and self._sending.done():
            task, self._sending = self._sending, None
            task.result()

    # counting

    async def _write_down(self) -> None:
        if not self._gathering:
            return
        taken = self._gathering.take()
        writing = asyncio.create_task(self._store.add(changes(taken)))
        try:
            await asyncio.shield(writing)
        finally:  # what was cancelled may have been written all the same: it must not count twice
            await asyncio.wait([writing])
            if writing.cancelled() or writing.exception() is not None:
                self._gathering.put_back(taken)

    async def _plan(self, now: datetime) -> None:
        today = now.date()
        await self._store.plan(today, lambda day: times.due(day, jitter=self._jitter()))
        if missed := await self._store.forget(times.oldest(now)):
            detail = f"{missed} reports on TLS were not sent within {times.KEPT.days} days, and are given up"
            self._events(Warned(about="tls.report", detail=detail))
        self._planned = today

    # making

    async def _send(self, settings: ReportSettings) -> None:
        while counts := await self._store.to_make(self._clock(), AT_ONCE):
            await _all([self._make(settings, counted) for counted in counts])
        while owed := await self._store.to_hand_over(self._clock(), AT_ONCE):
            await _all([self._hand_over(each) for each in owed])

    async def _make(self, settings: ReportSettings, counted: Counted) -> None:
        records = await self._texts.texts(PREFIX + counted.domain)
        now = self._clock()
        if records is None:
            await self._make_later(counted, now)
            return
        owed: Sequence[Owed] = ()
        try:
            if wanted := places(records):
                self._warn_of_no_key(settings, wanted)
                owed = await asyncio.to_thread(make, settings, counted, wanted, now)
        except Exception as error:  # one that cannot be made must not stop the others
            self._trouble(f"no report of {counted.day} to {counted.domain} can be made: {error!r}")
        await self._store.made(counted, owed)

    async def _make_later(self, counted: Counted, now: datetime) -> None:
        """Nobody could say whether somebody wants it."""
        again = times.retry_at(counted.tries + 1, counted.first or now, now, jitter=self._jitter())
        if again is None:
            await self._store.made(counted, ())
        else:
            await self._store.make_later(counted, again)

    def _warn_of_no_key(self, settings: ReportSettings, wanted: Sequence[Place]) -> None:
        by_mail = any(isinstance(place, ByMail) for place in wanted)
        if by_mail and settings.dkim is None and not self._warned:
            self._warned = True
            self._events(Warned(about="tls.report.dkim_key_file", detail=UNSIGNED))

    # handing over

    async def _hand_over(self, owed: Owed) -> None:
        if owed.by_mail:
            await self._queue(owed)
            return
        trouble = await self._posted(owed)
        now = self._clock()
        if not trouble:
            await self._done(owed)
        elif again := times.retry_at(owed.tries + 1, owed.first, now, jitter=self._jitter()):
            await self._store.hand_over_later(owed, again)
        else:
            await self._done(owed, trouble=trouble)

    async def _queue(self, owed: Owed) -> None:
        try:
            message = message_of(owed.id, owed.content)
        except ValueError as error:  # damaged since; it must not stop the others
            await self._done(owed, trouble=str(error))
            return
        await self._post.queue(message, owed.content)
        await self._done(owed)

    async def _posted(self, owed: Owed) -> str:
        """Send it; return what was wrong, empty for nothing."""
        try:
            answer = await self._https.post(
                owed.place, owed.content, content_type=MEDIA_TYPE, timeout=HTTPS_TIMEOUT, limit=HTTPS_LIMIT
            )
        except HttpsError as error:
            return error.reason
        return "" if 200 <= answer.status < 300 else f"the answer was {answer.status}"

    async def _done(self, owed: Owed, *, trouble: str = "") -> None:
        await self._store.handed_over(owed)
        told = TlsReported(
            domain=owed.domain,
            day=owed.day,
            to=owed.place,
            sessions=owed.sessions,
            failed=owed.failed,
            id=owed.id if owed.by_mail else "",
            trouble=trouble,
        )
        self._events(told)

    def _trouble(self, detail: str) -> None:
        self._events(Trouble(part=PART, detail=detail))


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at the same time, each to its end; raise what the first of those raised that did."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
