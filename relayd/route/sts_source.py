"""Where the policies of MTA-STS come from: the cache, the DNS, and the domains' own web servers.

A thin shell: sts.py decides.  What the reader must not break:

    A policy that is in force stays so until it expires, whatever the DNS and the web server say or do not say.
    The record is looked at for every attempt, so that mail which a policy keeps waiting goes by a new one as soon as
    there is one (RFC 8461 section 5).
    Mail waits `patience` for a policy that we do not have yet, and then goes without; the fetch goes on.
    One fetch for each domain at a time, however many ask; FETCHES at the same time, PENDING that wait for their turn.
    One that failed is not repeated for the same record within PAUSE (section 3.3), is not tried more
    often than once in REFRESH_PAUSE where we have that already, and is told of for reports; beside
    a policy that is in force, to the operator, too, once until it succeeds (sections 3.3 and 6).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from relayd.mail.events import Events, Trouble, Warned
from relayd.mail.https import HttpsError, HttpsFault, Response
from relayd.mail.tls import Source, TlsResult, TlsSession
from relayd.route.answers import LookUp
from relayd.route.sts import Due, Invalid, Mode, Record, StsPolicy, due, parse_policy, record_of
from relayd.route.sts_cache import PART, Kept, StsCache

PATIENCE = timedelta(seconds=15)  # docs/decisions/0015
TIMEOUT = timedelta(seconds=60)  # RFC 8461 section 3.3
LIMIT = 64 * 1024  # octets, likewise
PAUSE = timedelta(minutes=5)  # likewise
REFRESH_PAUSE = timedelta(hours=1)  # where we have it already
FETCHES = 20
REFRESHES = 5  # of them
PENDING = 1_000
FAILURES = 10_000  # that are remembered
LOOK = timedelta(minutes=10)  # between two looks for what is to be refreshed
IN_USE = timedelta(days=30)  # what was not used for longer is left to expire


class Texts(Protocol):
    """See answers.Resolver."""

    async def texts(self, name: str) -> LookUp[str]: ...


class Fetcher(Protocol):
    """See relayd/https.py."""

    async def get(self, url: str, *, timeout: timedelta, limit: int) -> Response:
        """Return what a URL answers, of at most `limit` octets, or raise HttpsError."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """A fetch, or a look for a record, that failed: for which record, and when."""

    id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class _Why:
    """What a failure is in a report (RFC 8460 section 4.3), and in words."""

    result: TlsResult
    words: str


class StsPolicies:
    """A router's StsSource.  See the module.  `sessions` is told of failures, for reports."""

    def __init__(
        self,
        cache: StsCache,
        resolver: Texts,
        fetcher: Fetcher,
        *,
        clock: Callable[[], datetime],
        events: Events,
        sessions: Callable[[TlsSession], None],
        patience: timedelta = PATIENCE,
    ) -> None:
        self._cache = cache
        self._resolver = resolver
        self._fetcher = fetcher
        self._clock = clock
        self._events = events
        self._sessions = sessions
        self._patience = patience.total_seconds()
        self._turns = asyncio.Semaphore(FETCHES)
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._failures: OrderedDict[str, _Failure] = OrderedDict()

    async def policy(self, domain: str) -> StsPolicy | None:
        """Return the policy of a domain that is in force, None if there is none or it says so itself.  Never raises."""
        record = record_of(await self._resolver.texts(f"_mta-sts.{domain}"))
        now = self._clock()
        kept = self._cache.get(domain, now)
        cached = kept.policy if kept else None
        what = due(cached, record, now, jitter=kept.jitter if kept else 0.0)
        if isinstance(record, Record) and what is not Due.NOTHING:
            fetching = self._fetch(domain, record, PAUSE if what is Due.FETCH else REFRESH_PAUSE)
            if fetching is not None and what is Due.FETCH:
                await asyncio.wait([fetching], timeout=self._patience)
                kept = self._cache.get(domain, self._clock())
                cached = kept.policy if kept else None
        return None if cached is None or cached.mode is Mode.NONE else cached

    def known(self, domain: str) -> StsPolicy | None:
        """Return the policy of a domain that is in force, of whatever mode, as far as we know without asking."""
        kept = self._cache.known(domain, self._clock())
        return kept.policy if kept else None

    async def run(self, wanted: Callable[[], bool]) -> None:
        """Refresh what is due, while it is wanted, until cancelled."""
        while True:
            await asyncio.sleep(LOOK.total_seconds())
            if wanted():
                await self.refresh()

    async def refresh(self) -> None:
        """Fetch again what is due and in use, REFRESHES at a time: mail is to find turns, too.  Never raises."""
        now = self._clock()
        self._cache.sweep(now)
        waiting = iter([kept.policy for kept in self._cache if _is_to_be_refreshed(kept, now)])
        await asyncio.gather(*(self._refresh_each(waiting) for _ in range(REFRESHES)))

    async def close(self) -> None:
        """End all fetches."""
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        if fetching:
            await asyncio.wait(fetching)

    async def _refresh_each(self, waiting: Iterator[StsPolicy]) -> None:
        for policy in waiting:
            record = record_of(await self._resolver.texts(f"_mta-sts.{policy.domain}"))
            if isinstance(record, Record):
                if fetching := self._fetch(policy.domain, record, REFRESH_PAUSE):
                    await asyncio.wait([fetching])
            elif not self._failed_lately(policy.domain, "", REFRESH_PAUSE):
                self._failed(policy.domain, "", _Why(TlsResult.STS_POLICY_FETCH_ERROR, record.why))

    # fetching

    def _fetch(self, domain: str, record: Record, pause: timedelta) -> asyncio.Task[None] | None:
        """Return the fetch that is under way or begins now; None if there is to be none now."""
        task = self._fetching.get(domain)
        if task is None and not self._failed_lately(domain, record.id, pause) and len(self._fetching) < PENDING:
            task = self._fetching[domain] = asyncio.create_task(self._guarded(domain, record.id))
        return task

    async def _guarded(self, domain: str, version: str) -> None:
        try:
            async with self._turns:
                await self._fetch_now(domain, version)
        except Exception as error:
            self._events(Trouble(part=PART, detail=f"{domain}: {error!r}"))
        finally:
            del self._fetching[domain]

    async def _fetch_now(self, domain: str, version: str) -> None:
        url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
        try:
            response = await self._fetcher.get(url, timeout=TIMEOUT, limit=LIMIT)
        except HttpsError as error:
            certificate = error.kind is HttpsFault.CERTIFICATE
            result = TlsResult.STS_WEBPKI_INVALID if certificate else TlsResult.STS_POLICY_FETCH_ERROR
            self._failed(domain, version, _Why(result, f"{url}: {error.reason}"))
            return
        read = _read(domain, version, response, self._clock())
        if isinstance(read, _Why):
            self._failed(domain, version, _Why(read.result, f"{url}: {read.words}"))
            return
        self._failures.pop(domain, None)
        await self._cache.put(read)

    def _failed_lately(self, domain: str, version: str, pause: timedelta) -> bool:
        failure = self._failures.get(domain)
        if failure is None or failure.id != version:
            return False
        return timedelta(0) <= self._clock() - failure.at < pause

    def _failed(self, domain: str, version: str, why: _Why) -> None:
        """Remember and tell."""
        told = self._failures.pop(domain, None) is not None
        self._failures[domain] = _Failure(version, self._clock())
        if len(self._failures) > FAILURES:
            self._failures.popitem(last=False)
        known = self.known(domain)
        if known is not None and known.mode is Mode.NONE:
            return
        self._sessions(
            TlsSession(
                domains=(domain,),
                host="",
                address="",
                local="",
                result=why.result,
                source=Source.MTA_STS,
                detail=why.words,
            )
        )
        if known is not None and not told:
            detail = f"the policy of {domain}, in force until {known.expires}, cannot be refreshed: {why.words}"
            self._events(Warned(about="tls.mta_sts", detail=detail))


def _is_to_be_refreshed(kept: Kept, now: datetime) -> bool:
    policy = kept.policy
    return now - kept.used < IN_USE and due(policy, Record(policy.id), now, jitter=kept.jitter) is Due.REFRESH


def _read(domain: str, version: str, response: Response, now: datetime) -> StsPolicy | _Why:
    if response.status != 200:
        return _Why(TlsResult.STS_POLICY_FETCH_ERROR, f"status {response.status}")
    if response.content_type != "text/plain":
        return _Why(TlsResult.STS_POLICY_INVALID, f"not text/plain but {response.content_type or 'of no type'}")
    policy = parse_policy(domain, version, response.body, now)
    if isinstance(policy, Invalid):
        return _Why(TlsResult.STS_POLICY_INVALID, policy.why)
    return policy
