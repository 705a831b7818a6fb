"""Whether DANE can be had: looked at before the first mail, after a reload, and again and again.

Invariants:

    While nobody knows, `works` waits for the answer of the first look: the mail of a start is not sent unproven.
    Where name servers do not validate, or are not to be believed, DANE is off, and answers are not asked for what makes
    them secure: mail goes as if there were no DNSSEC, and is not delayed.  The operator is told once for each reason.
    Once they were found to validate, a look that gets no answer changes nothing: who silences them for a moment does
    not turn DANE off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Protocol

from relayd.mail.events import Events, Lifecycle, Warned
from relayd.route.trust import Unfit, Unknown, Validates, Validation

SOON = timedelta(seconds=10)  # doubled after each look without an answer, up to AGAIN
AGAIN = timedelta(minutes=5)
SELDOM = timedelta(hours=1)  # while it works
REMEDY = "run a validating resolver on this machine (docs/operations.md), or set tls.dane to false"


class Asked(Protocol):
    """The resolver that is asked."""

    async def validation(self) -> Validation:
        """Return whether it validates and is to be believed, within some seconds."""

    def ask_for_security(self, wanted: bool) -> None:
        """Ask from now on what is secure, or no more."""


class DaneAvailability:
    """See the module.  `changed` is called when answers that came before count no more."""

    def __init__(self, resolver: Asked, events: Events, changed: Callable[[], None], *, wanted: bool) -> None:
        self._resolver = resolver
        self._events = events
        self._changed = changed
        self._known = asyncio.Event()
        self._reloaded = asyncio.Event()
        self._works = False
        self._told = ""
        self.reload(wanted=wanted)

    def reload(self, *, wanted: bool) -> None:
        """Look anew, since the settings are others; `wanted` False: DANE is to be off."""
        self._wanted = wanted
        self._wait = SOON
        self._known.clear()
        self._reloaded.set()

    async def works(self) -> bool:
        """Whether DANE can be had; waits for a look if there was none since the settings came."""
        await self._known.wait()
        return self._works

    async def watch(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            wait = await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait.total_seconds()):
                    await self._reloaded.wait()

    async def look(self) -> timedelta:
        """Look once; return after what time to look again."""
        self._reloaded.clear()
        match await self._found():
            case Validates():
                self._turn(on=True)
                self._told, wait = "", SELDOM
            case Unfit(why):
                self._turn(on=False)
                self._tell(why)
                wait = AGAIN
            case Unknown(why):
                if not self._works:
                    self._tell(why)
                wait, self._wait = self._wait, min(2 * self._wait, AGAIN)
        if not self._reloaded.is_set():
            self._known.set()
        return wait

    async def _found(self) -> Validation:
        if not self._wanted:
            return Unfit("")
        try:
            return await self._resolver.validation()
        except Exception as error:  # our own trouble, and no reason to keep all mail waiting
            return Unknown(repr(error))

    def _turn(self, *, on: bool) -> None:
        if on is self._works:
            return
        self._works = on
        self._resolver.ask_for_security(on)
        self._changed()
        if on and self._told:
            self._events(Lifecycle(state="dane-on", detail="the resolver validates DNSSEC"))

    def _tell(self, why: str) -> None:
        if why and why != self._told:
            self._events(Warned(about="tls.dane", detail=f"DANE is off: {why}; {REMEDY}"))
        self._told = why
